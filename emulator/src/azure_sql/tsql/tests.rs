use super::{names::Table, script::Statement, *};

struct Tables;

impl Catalogue for Tables {
    fn columns(&self, table: &Table) -> Option<Vec<TableColumn>> {
        let column = |name: &str, sql_type, identity| TableColumn {
            name: name.to_owned(),
            sql_type,
            identity,
        };
        let name = SqlType::NVarChar(Some(9));
        match table.name.as_str() {
            "numbered" => Some(vec![column("id", SqlType::Int, true), column("name", name, false)]),
            "t" | "#t" => {
                Some(vec![column("a", SqlType::Int, false), column("b", SqlType::Float, false)])
            }
            _ => None,
        }
    }
}

fn translate(text: &str) -> Result<Translated> {
    let scope = Scope::from([("@p1".to_owned(), Some(SqlType::Int))]);
    let statements = script::parse(text)?;
    match &statements[..] {
        [Statement::Sql(statement)] => Translator::new(&scope, &Tables).statement(statement),
        other => panic!("{text} is {other:?}"),
    }
}

#[test]
fn what_is_understood_becomes_sqlite() {
    for (tsql, sqlite) in [
        ("SELECT 1", r#"SELECT 1 AS """#),
        (
            "SELECT a, [b] AS [b c] FROM dbo.t AS x WHERE x.a = @P1 OR a > @p1",
            r#"SELECT "x"."a" AS "a", "x"."b" AS "b c" FROM main."t" AS "x" WHERE (("x"."a") = (?1) OR ("x"."a") > (?1))"#,
        ),
        (
            "SELECT TOP (@P1) * FROM t ORDER BY a DESC",
            r#"SELECT "t"."a" AS "a", "t"."b" AS "b" FROM main."t" AS "t" ORDER BY "t"."a" DESC LIMIT tsql_top(?1)"#,
        ),
        (
            "INSERT numbered OUTPUT inserted.id VALUES (N'x')",
            r#"INSERT INTO main."numbered" ("name") VALUES (tsql_store('x', 'nvarchar(1)', 'nvarchar(9)', 'name')) RETURNING "id""#,
        ),
        (
            "UPDATE #t SET b = a + 1 WHERE a IS NULL",
            r##"UPDATE temp."#t" SET "b" = tsql_store(tsql_math("#t"."a", '+', 1, 'int'), 'int', 'float', 'b') WHERE ("#t"."a") IS NULL"##,
        ),
        (
            "CREATE TABLE x (id int IDENTITY(1,1) PRIMARY KEY, n int NOT NULL CONSTRAINT positive CHECK (n > 0))",
            r#"CREATE TABLE main."x" ("id" INTEGER PRIMARY KEY AUTOINCREMENT, "n" int NOT NULL CONSTRAINT "positive" CHECK (("n") > (0)))"#,
        ),
        ("CREATE INDEX ix ON t (a)", r#"CREATE INDEX main."t.ix" ON "t" ("a")"#),
        ("DROP TABLE IF EXISTS #x", r##"DROP TABLE IF EXISTS temp."#x""##),
    ] {
        let translated = translate(tsql).unwrap_or_else(|error| panic!("{tsql}: {error}"));
        assert_eq!(translated.sql, sqlite, "{tsql}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
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
        ("SELECT (SELECT a FROM t)", "subquery"),
        ("SELECT SUM((SELECT 1)) FROM t", "aggregate"),
        ("SELECT @x = 1", "@x"),
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
        ("CREATE UNIQUE INDEX ix ON t (a)", "UNIQUE"),
        ("CREATE INDEX ix ON t (a) INCLUDE (b)", "INCLUDE"),
        ("CREATE VIEW v AS SELECT 1 AS a", "CREATE VIEW"),
        ("DROP VIEW v", "DROP VIEW"),
        ("GRANT SELECT ON t TO x", "GRANT"),
        ("PRAGMA journal_mode", "PRAGMA"),
        ("ATTACH DATABASE 'x' AS y", "ATTACH"),
        ("SELECT @@CPU_BUSY", "@@CPU_BUSY"),
    ] {
        let error = translate(tsql).expect_err(tsql);
        assert_eq!((error.number, error.class), (102, 15), "{tsql}: {error}");
        assert!(error.message.contains(construct), "{tsql}: {error}");
    }
}

#[test]
fn what_is_changed_is_known_before_it_is_run() {
    for (tsql, writes) in [
        ("SELECT 1", Writes::Nothing),
        ("INSERT INTO t VALUES (1, 2)", Writes::Shared),
        ("INSERT INTO #t VALUES (1, 2)", Writes::Temporary),
        ("DROP TABLE #t", Writes::Temporary),
    ] {
        assert_eq!(translate(tsql).expect(tsql).writes, writes, "{tsql}");
    }
}
