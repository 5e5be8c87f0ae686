use std::sync::Arc;

use super::*;
use crate::{
    azure_sql::session::{Identity, Variable},
    database::Database,
};

fn session() -> Session {
    let identity = Identity {
        user: "shop-identity".into(),
        application: String::new(),
        host: String::new(),
        database: "orders".into(),
        spid: 51,
    };
    let database = Database::new().unwrap();
    let session = Session::new(&database, identity, Arc::new([]), Arc::default()).unwrap();
    for table in [
        "CREATE TABLE numbered (id int IDENTITY(1,1), name nvarchar(9))",
        "CREATE TABLE t (a int, b decimal(5,2))",
        "CREATE TABLE #t (a int, b decimal(5,2))",
    ] {
        session.connection.execute_batch(&translate(&session, table).unwrap().sql).unwrap();
    }
    session
}

fn translate(session: &Session, text: &str) -> Result<Translated> {
    let variable = Variable { sql_type: Some(SqlType::Int), value: Value::Integer(7) };
    let variables = Variables::from([("@p1".to_owned(), variable)]);
    match &script::parse(text)?[..] {
        [statement] => Translator::new(session, &variables).statement(statement),
        other => panic!("{text} is {other:?}"),
    }
}

#[test]
fn supported_statements_are_translated_for_sqlite() {
    let session = session();
    for (tsql, sqlite) in [
        ("SELECT 1", r#"SELECT 1 AS """#),
        (
            "SELECT a, [b] AS [b c] FROM dbo.t AS x WHERE x.a = @P1 OR a > @p1",
            r#"SELECT "x"."a" AS "a", "x"."b" AS "b c" FROM main."t" AS "x" WHERE (("x"."a") = (?1) OR ("x"."a") > (?2))"#,
        ),
        (
            "SELECT TOP (@P1) * FROM t ORDER BY a DESC",
            r#"SELECT "t"."a" AS "a", "t"."b" AS "b" FROM main."t" AS "t" ORDER BY "t"."a" DESC LIMIT ?1"#,
        ),
        (
            "INSERT numbered OUTPUT inserted.id VALUES (N'x')",
            r#"INSERT INTO main."numbered" ("name") VALUES (tsql_store('x', 'nvarchar(1)', 'nvarchar(9)', 'name')) RETURNING "id""#,
        ),
        (
            "UPDATE #t SET b = a + 1 WHERE a IS NULL",
            r##"UPDATE temp."#t" SET "b" = tsql_store(tsql_math("#t"."a", '+', 1, 'int'), 'int', 'decimal(5,2)', 'b') WHERE ("#t"."a") IS NULL"##,
        ),
        (
            "CREATE TABLE x (id int IDENTITY(1,1) PRIMARY KEY, n int NOT NULL CONSTRAINT positive CHECK (n > 0))",
            r#"CREATE TABLE main."x" ("id" INTEGER PRIMARY KEY AUTOINCREMENT, "n" int NOT NULL CONSTRAINT "positive" CHECK (("n") > (0)))"#,
        ),
        ("DROP TABLE IF EXISTS #x", r##"DROP TABLE IF EXISTS temp."#x""##),
    ] {
        let translated =
            translate(&session, tsql).unwrap_or_else(|error| panic!("{tsql}: {error}"));
        assert_eq!(translated.sql, sqlite, "{tsql}");
    }
}

#[test]
fn the_error_names_the_unsupported_construct() {
    let session = session();
    for (tsql, construct) in [
        ("SELECT a FROM t LIMIT 1", "LIMIT"),
        ("SELECT a FROM t GROUP BY a HAVING a > 1", "HAVING"),
        ("SELECT a FROM t FOR JSON PATH", "FOR JSON"),
        ("SELECT * FROM OPENROWSET(1)", "OPENROWSET"),
        ("SELECT * FROM t CROSS APPLY (SELECT 1 AS x) AS y", "APPLY"),
        ("SELECT * FROM t TABLESAMPLE (10 PERCENT)", "TABLESAMPLE"),
        ("SELECT * FROM t AS x (c)", "x (c)"),
        ("SELECT * FROM other..t", "other..t"),
        ("SELECT * FROM sqlite_master", "sqlite_master"),
        ("SELECT COUNT(DISTINCT a) FROM t", "DISTINCT"),
        ("SELECT SUM(a) OVER (ORDER BY a) FROM t", "OVER"),
        ("SELECT LEN(a) FROM t", "LEN(a)"),
        ("SELECT load_extension('x')", "load_extension"),
        ("SELECT tsql_cast(1, 'int', 'int')", "tsql_cast"),
        ("SELECT (SELECT a FROM t)", "(SELECT a FROM t)"),
        ("SELECT a FROM t WHERE EXISTS (SELECT 1)", "EXISTS"),
        ("SELECT a FROM t WHERE a BETWEEN 1 AND 2", "BETWEEN"),
        ("SELECT a FROM (SELECT a FROM t) AS d", "(SELECT a FROM t) AS d"),
        ("SELECT x.a FROM t AS x CROSS JOIN t AS y", "CROSS JOIN"),
        ("SELECT 1 COMMIT", "COMMIT"),
        ("SELECT a FROM t rollback", "rollback"),
        ("SELECT @x = 1", "@x"),
        ("SELECT CAST(1 AS float)", "FLOAT"),
        ("SELECT 0xAB", "AB"),
        ("UPDATE x SET a = 1 FROM t AS x", "FROM t"),
        ("UPDATE t SET a = 1 OUTPUT DELETED.a", "OUTPUT"),
        ("DELETE FROM t OUTPUT DELETED.a", "OUTPUT"),
        ("INSERT INTO t OUTPUT INSERTED.a INTO #log VALUES (1, 2)", "INTO #log"),
        ("INSERT INTO t DEFAULT VALUES", "INSERT"),
        ("CREATE TABLE x (a int) WITHOUT ROWID", "ROWID"),
        ("CREATE TABLE x AS SELECT 1 AS a", "SELECT"),
        ("CREATE TABLE x (a int, PRIMARY KEY (a))", "PRIMARY KEY"),
        ("CREATE TABLE x (a int IDENTITY(1,2))", "IDENTITY"),
        ("CREATE TABLE x (a int CHECK (a > @P1))", "variable"),
        ("CREATE TABLE x (a int REFERENCES t (a))", "REFERENCES"),
        ("CREATE TABLE x (a uniqueidentifier)", "uniqueidentifier"),
        ("CREATE INDEX ix ON t (a)", "CREATE INDEX"),
        ("CREATE VIEW v AS SELECT 1 AS a", "CREATE VIEW"),
        ("DROP VIEW v", "DROP VIEW"),
        ("GRANT SELECT ON t TO x", "GRANT"),
        ("PRAGMA journal_mode", "PRAGMA"),
        ("ATTACH DATABASE 'x' AS y", "ATTACH"),
        ("SELECT @@CPU_BUSY", "@@CPU_BUSY"),
        ("DECLARE @t TABLE (id int)", "DECLARE"),
        ("BEGIN", "BEGIN"),
    ] {
        let error = translate(&session, tsql).expect_err(tsql);
        assert_eq!((error.number, error.class), (102, 15), "{tsql}: {error}");
        assert!(error.message.contains(construct), "{tsql}: {error}");
    }
}

#[test]
fn a_statements_writes_are_known_before_it_runs() {
    let session = session();
    for (tsql, writes) in [
        ("SELECT 1", Writes::Nothing),
        ("INSERT INTO t VALUES (1, 2)", Writes::Shared),
        ("INSERT INTO #t VALUES (1, 2)", Writes::Temporary),
        ("DROP TABLE #t", Writes::Temporary),
    ] {
        assert_eq!(translate(&session, tsql).expect(tsql).writes, writes, "{tsql}");
    }
}
