use super::{names::Table, script::Statement, *};

struct Tables;

impl Catalogue for Tables {
    fn columns(&self, table: &Table) -> Option<Vec<TableColumn>> {
        let column = |name: &str, identity| TableColumn { name: name.to_owned(), identity };
        match table.name.as_str() {
            "numbered" => Some(vec![column("id", true), column("name", false)]),
            "t" => Some(vec![column("a", false), column("b", false)]),
            _ => None,
        }
    }

    fn identity_insert(&self, _: &Table) -> bool {
        false
    }
}

fn translate(text: &str) -> Result<Translated, ServerError> {
    let scope = Scope::from([
        ("@p1".to_owned(), Some(SqlType::Int)),
        ("@p2".to_owned(), Some(SqlType::NVarChar(None))),
    ]);
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
            "SELECT a, [b c], \"d\" FROM dbo.t",
            r#"SELECT "a" AS "a", "b c" AS "b c", "d" AS "d" FROM "t""#,
        ),
        ("SELECT x.* FROM [dbo].[t] AS x WITH (NOLOCK)", r#"SELECT "x".* FROM "t" AS "x""#),
        ("SELECT N'it''s'", r#"SELECT 'it''s' AS """#),
        (
            "SELECT TOP 3 a FROM t ORDER BY a DESC",
            r#"SELECT "a" AS "a" FROM "t" ORDER BY "a" DESC LIMIT 3"#,
        ),
        ("SELECT TOP (@P1) a FROM t", r#"SELECT "a" AS "a" FROM "t" LIMIT ?1"#),
        (
            "SELECT a FROM t ORDER BY a OFFSET 2 ROWS FETCH NEXT @P1 ROWS ONLY",
            r#"SELECT "a" AS "a" FROM "t" ORDER BY "a" LIMIT ?1 OFFSET 2"#,
        ),
        (
            "SELECT a FROM t WHERE a = @P1 OR b = @P2 AND a > @p1",
            r#"SELECT "a" AS "a" FROM "t" WHERE ("a" = ?1 OR "b" = ?2 AND "a" > ?1)"#,
        ),
        (
            "SELECT a + b AS c, a - -1, a / 2, a % 2 FROM t",
            r#"SELECT tsql_add("a", "b") AS "c", ("a" - (- 1)) AS "", tsql_divide("a", 2) AS "", tsql_modulo("a", 2) AS "" FROM "t""#,
        ),
        (
            "SELECT COUNT(*), SUM(a), COUNT(DISTINCT b) FROM t GROUP BY a HAVING COUNT(*) > 1",
            r#"SELECT count(*) AS "", sum("a") AS "", count(DISTINCT "b") AS "" FROM "t" GROUP BY "a" HAVING count(*) > 1"#,
        ),
        (
            "SELECT t.a FROM t LEFT JOIN numbered AS n ON t.a = n.id",
            r#"SELECT "t"."a" AS "a" FROM "t" LEFT JOIN "numbered" AS "n" ON "t"."a" = "n"."id""#,
        ),
        (
            "WITH c AS (SELECT a FROM t) SELECT * FROM c",
            r#"WITH RECURSIVE "c" AS (SELECT "a" AS "a" FROM "t") SELECT * FROM "c""#,
        ),
        (
            "SELECT a FROM t UNION ALL SELECT TOP 1 b FROM t",
            r#"SELECT "a" AS "a" FROM "t" UNION ALL SELECT * FROM (SELECT "b" AS "b" FROM "t" LIMIT 1)"#,
        ),
        (
            "SELECT a FROM t WHERE b LIKE N'x%' AND a IN (1, 2) AND EXISTS (SELECT 1 FROM t)",
            r#"SELECT "a" AS "a" FROM "t" WHERE (tsql_like("b", 'x%', NULL)) AND "a" IN (1, 2) AND EXISTS (SELECT 1 AS "" FROM "t")"#,
        ),
        (
            "SELECT CASE WHEN a IS NULL THEN 0 ELSE a END FROM t",
            r#"SELECT CASE WHEN "a" IS NULL THEN 0 ELSE "a" END AS "" FROM "t""#,
        ),
        (
            "SELECT CAST(a AS nvarchar(10)), CONVERT(bigint, b), TRY_CAST(b AS int) FROM t",
            r#"SELECT tsql_cast("a", 'nvarchar(10)') AS "", tsql_cast("b", 'bigint') AS "", tsql_try_cast("b", 'int') AS "" FROM "t""#,
        ),
        ("SELECT 0xAB, .5, 1e3", r#"SELECT X'AB' AS "", 0.5 AS "", 1e3 AS """#),
        (
            "INSERT INTO t (a, b) VALUES (1, N'x'), (@P1, NULL)",
            r#"INSERT INTO "t" ("a", "b") VALUES (1, 'x'), (?1, NULL)"#,
        ),
        (
            "INSERT t SELECT a, b FROM t",
            r#"INSERT INTO "t" SELECT "a" AS "a", "b" AS "b" FROM "t""#,
        ),
        ("INSERT INTO numbered VALUES (N'x')", r#"INSERT INTO "numbered" ("name") VALUES ('x')"#),
        (
            "INSERT INTO numbered (name) OUTPUT INSERTED.id, INSERTED.* VALUES ('x')",
            r#"INSERT INTO "numbered" ("name") VALUES ('x') RETURNING "id" AS "id", *"#,
        ),
        (
            "UPDATE t SET a = a + 1, b = DEFAULT_ WHERE a BETWEEN 1 AND 2",
            r#"UPDATE "t" SET "a" = tsql_add("a", 1), "b" = "DEFAULT_" WHERE "a" BETWEEN 1 AND 2"#,
        ),
        ("DELETE t WHERE a = 1", r#"DELETE FROM "t" WHERE "a" = 1"#),
        (
            "DELETE FROM t OUTPUT DELETED.a WHERE a = 1",
            r#"DELETE FROM "t" WHERE "a" = 1 RETURNING "a" AS "a""#,
        ),
        (
            "TRUNCATE TABLE numbered",
            r#"DELETE FROM "numbered"; DELETE FROM main.sqlite_sequence WHERE name = 'numbered' COLLATE NOCASE"#,
        ),
        ("DROP TABLE IF EXISTS #x", r##"DROP TABLE IF EXISTS temp."#x""##),
        (
            "CREATE TABLE dbo.x (id int IDENTITY(1,1) NOT NULL PRIMARY KEY CLUSTERED, name nvarchar(50) NOT NULL, at datetime2 DEFAULT SYSUTCDATETIME(), UNIQUE (name))",
            r#"CREATE TABLE "x" ("id" INTEGER PRIMARY KEY AUTOINCREMENT, "name" nvarchar(50) NOT NULL COLLATE NOCASE CONSTRAINT "length of name" CHECK (length("name") <= 50), "at" datetime2 DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')), UNIQUE ("name"))"#,
        ),
        (
            "CREATE TABLE #x (id bigint IDENTITY(100, 1), n int CONSTRAINT positive CHECK (n > 0), CONSTRAINT pk PRIMARY KEY NONCLUSTERED (id), FOREIGN KEY (n) REFERENCES t (a) ON DELETE CASCADE)",
            r##"CREATE TEMP TABLE "#x" ("id" Integer PRIMARY KEY AUTOINCREMENT, "n" int CONSTRAINT "positive" CHECK ("n" > 0), FOREIGN KEY ("n") REFERENCES "t" ("a") ON DELETE CASCADE); INSERT INTO temp.sqlite_sequence (name, seq) VALUES ('#x', 99)"##,
        ),
        (
            "CREATE UNIQUE NONCLUSTERED INDEX ix ON t (a, b DESC)",
            r#"CREATE UNIQUE INDEX main."t.ix" ON "t" ("a", "b" DESC)"#,
        ),
    ] {
        let translated = translate(tsql).unwrap_or_else(|error| panic!("{tsql}: {error}"));
        assert_eq!(translated.sql, sqlite, "{tsql}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    for (tsql, construct) in [
        ("MERGE t USING s ON t.a = s.a WHEN MATCHED THEN DELETE", "MERGE"),
        ("SELECT TOP 10 PERCENT a FROM t", "PERCENT"),
        ("SELECT a FROM t LIMIT 1", "LIMIT"),
        ("SELECT * FROM OPENROWSET(1)", "function"),
        ("SELECT * FROM t CROSS APPLY (SELECT 1 AS x) AS y", "APPLY"),
        ("SELECT * FROM other..t", "other..t"),
        ("SELECT a FROM t FOR JSON PATH", "FOR"),
        ("SELECT FROBNICATE(a) FROM t", "FROBNICATE"),
        ("SELECT load_extension('x')", "LOAD_EXTENSION"),
        ("SELECT tsql_cast(1, 'int')", "TSQL_CAST"),
        ("SELECT SUM(a) OVER (ORDER BY a ROWS UNBOUNDED PRECEDING) FROM t", "ROWS"),
        ("SELECT CONVERT(varchar(10), a, 120) FROM t", "style"),
        ("SELECT a FROM t ORDER BY a OFFSET 1 ROWS FETCH NEXT 1 ROWS WITH TIES", "WITH TIES"),
        ("UPDATE x SET a = 1 FROM t AS x", "UPDATE"),
        ("INSERT INTO t OUTPUT INSERTED.a INTO #log VALUES (1, 2)", "OUTPUT"),
        ("UPDATE t SET a = 1 OUTPUT DELETED.a", "DELETED"),
        ("CREATE TABLE x (a int) WITHOUT ROWID", "CREATE TABLE"),
        ("CREATE TABLE x AS SELECT 1 AS a", "CREATE TABLE"),
        ("CREATE TABLE x (a int IDENTITY(1,2))", "IDENTITY"),
        ("CREATE TABLE x (a int DEFAULT @@SPID)", "Spid"),
        ("CREATE VIEW v AS SELECT 1 AS a", "CREATE VIEW"),
        ("DROP VIEW v", "DROP VIEW"),
        ("ALTER TABLE t ADD c int", "ALTER TABLE"),
        ("GRANT SELECT ON t TO x", "GRANT"),
        ("PRAGMA journal_mode", "PRAGMA"),
        ("ATTACH DATABASE 'x' AS y", "ATTACH"),
        ("SELECT @@CPU_BUSY", "@@CPU_BUSY"),
        ("SELECT x->'y' FROM t", "->"),
    ] {
        let error = translate(tsql).expect_err(tsql);
        assert_eq!((error.number, error.class), (102, 15), "{tsql}: {error}");
        assert!(error.message.contains(construct), "{tsql}: {error}");
    }
}

#[test]
fn other_errors_have_their_own_numbers() {
    for (tsql, number) in [
        ("SELECT @nobody", 137),
        ("SELECT * FROM sqlite_master", 208),
        ("SELECT * FROM sys.objects", 208),
        ("INSERT INTO numbered (id, name) VALUES (1, 'x')", 544),
        ("DROP TABLE nowhere", 3701),
        ("CREATE TABLE x (a geometry)", 2715),
        ("DELETE FROM sys.tables", 259),
        ("SELECT LEFT('a')", 174),
    ] {
        assert_eq!(translate(tsql).expect_err(tsql).number, number, "{tsql}");
    }
}

#[test]
fn what_is_changed_is_known_before_it_is_run() {
    for (tsql, writes) in [
        ("SELECT 1", Writes::Nothing),
        ("INSERT INTO t VALUES (1, 2)", Writes::Shared),
        ("INSERT INTO #t VALUES (1, 2)", Writes::Temporary),
        ("SELECT a INTO #t FROM t", Writes::Temporary),
        ("SELECT a INTO x FROM t", Writes::Shared),
        ("DROP TABLE #t, t", Writes::Shared),
    ] {
        assert_eq!(
            translate(&tsql.replace("DROP TABLE #t", "DROP TABLE IF EXISTS #t"))
                .expect(tsql)
                .writes,
            writes,
            "{tsql}"
        );
    }
}

#[test]
fn a_probe_tells_the_types() {
    for (name, declared, sql_type) in [
        ("a", Some("decimal(10,2)"), Some(SqlType::Decimal { precision: 10, scale: 2 })),
        ("a", None, None),
        ("\u{1}values", Some("int"), Some(SqlType::Int)),
        ("\u{1}values", None, None),
        ("\u{1}known nvarchar(5)", None, Some(SqlType::NVarChar(Some(5)))),
        ("\u{1}column", Some("bigint"), Some(SqlType::BigInt)),
        ("\u{1}sum", Some("smallint"), Some(SqlType::Int)),
        ("\u{1}sum", Some("decimal(10,2)"), Some(SqlType::Decimal { precision: 38, scale: 2 })),
        ("\u{1}average decimal(10,2)", None, Some(SqlType::Decimal { precision: 38, scale: 6 })),
    ] {
        assert_eq!(Shape::resolve(name, declared), sql_type, "{name:?} {declared:?}");
    }
}
