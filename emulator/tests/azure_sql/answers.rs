//! Compares the stand-in with SQL Server's documentation: it returns the same result, or a
//! refusal that names the construct, and never another result.

use tiberius::{ColumnData, ColumnType, Row};
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

use crate::{Ask, Setup};

/// A statement, SQL Server's result, and the construct that the stand-in refuses; empty
/// if it returns the same.
type Case = (&'static str, &'static str, &'static str);

const NUMBERS: &[Case] = &[
    ("SELECT 7 / 2", "int 3", ""),
    ("SELECT -7 / 2", "int -3", ""),
    ("SELECT 7 % -3, -7 % 3", "int 1, int -1", ""),
    ("SELECT 1 / 0", "error 8134", ""),
    ("SELECT 1 % 0", "error 8134", ""),
    ("SELECT 1.5 / 0", "error 8134", "decimal(2,1) / int"),
    ("SELECT 1e0 / 0", "error 8134", "a float"),
    ("SELECT 2147483647 + 1", "error 8115", ""),
    ("SELECT 2147483648", "decimal 2147483648.0", ""),
    ("SELECT CAST(2147483647 AS bigint) + 1", "bigint 2147483648", ""),
    ("SELECT CAST(9223372036854775807 AS bigint) + 1", "error 8115", ""),
    ("SELECT CAST(200 AS tinyint) + CAST(100 AS tinyint)", "error 8115", ""),
    ("SELECT CAST(1 AS tinyint) + 1", "int 2", ""),
    ("SELECT CAST(1 AS bit) + 1", "int 2", ""),
    ("SELECT CAST(1 AS bit) + CAST(1 AS bit)", "error 402", "bit + bit"),
    ("SELECT 1.0 / 3", "decimal 0.333333", "decimal(2,1) / int"),
    ("SELECT 2.0 / 3", "decimal 0.666666", "decimal(2,1) / int"),
    ("SELECT 0.1 + 0.2", "decimal 0.3", "decimal(1,1) + decimal(1,1)"),
    ("SELECT 1.10 * 2.5", "decimal 2.750", "decimal(3,2) * decimal(2,1)"),
    ("SELECT 1.5 + 1", "decimal 2.5", "decimal(2,1) + int"),
    ("SELECT 7 / 2.0", "decimal 3.500000", "int / decimal(2,1)"),
    ("SELECT 7 / 2e0", "float 3.5", "a float"),
    ("SELECT 1e308 * 10", "error 8115", "a float"),
    ("SELECT 5 & 3", "int 1", "&"),
    ("SELECT +5, -(5)", "int 5, int -5", "+5"),
    ("SELECT 0xAB, 0x1", "varbinary AB, varbinary 01", "AB"),
    ("SELECT CAST(-9223372036854775808 AS bigint)", "bigint -9223372036854775808", ""),
    ("SELECT NULL, NULL + 1", "int NULL, int NULL", ""),
    ("SELECT ABS(-3)", "int 3", "ABS"),
    ("SELECT ROUND(2.5, 0)", "decimal 3.0", "ROUND"),
];

const CONVERSIONS: &[Case] = &[
    ("SELECT CAST(2.9 AS int), CAST(-2.9 AS int)", "int 2, int -2", ""),
    ("SELECT CAST(2.5e0 AS int)", "int 2", "a float"),
    ("SELECT CAST('12.345' AS decimal(5,2))", "decimal 12.35", "varchar(6)"),
    ("SELECT CAST(-1.005 AS decimal(5,2))", "decimal -1.01", ""),
    ("SELECT CAST(1000 AS decimal(5,2))", "error 8115", ""),
    ("SELECT CAST('x' AS decimal(5,2))", "error 8114", "varchar(1)"),
    ("SELECT CAST('1e3' AS decimal(9,2))", "error 8114", "varchar(3)"),
    ("SELECT CAST(1.1 AS decimal(38,20)) * 3", "decimal 3.30000000000000000000", "decimal"),
    ("SELECT CAST('12' AS int) + 1", "int 13", "varchar(2)"),
    ("SELECT CAST('' AS int), CAST(' 7 ' AS int)", "int 0, int 7", "varchar"),
    ("SELECT CAST('x' AS int)", "error 245", "varchar"),
    ("SELECT CAST('1.5' AS int)", "error 245", "varchar"),
    ("SELECT CAST('3000000000' AS int)", "error 248", "varchar"),
    ("SELECT CAST(3000000000 AS int)", "error 8115", ""),
    ("SELECT CAST(300 AS tinyint)", "error 220", ""),
    ("SELECT CAST(-1 AS tinyint)", "error 220", ""),
    (
        "SELECT CAST(5 AS bit), CAST(0.4 AS bit), CAST(0 AS bit)",
        "bit true, bit true, bit false",
        "",
    ),
    ("SELECT CAST('maybe' AS bit)", "error 245", "varchar"),
    ("SELECT CAST('1e3' AS float), CAST(1 AS real)", "float 1000, real 1", "FLOAT"),
    ("SELECT CAST('inf' AS float)", "error 8114", "FLOAT"),
    ("SELECT CAST(1e0 / 3 AS varchar(20))", "varchar 0.333333", "a float"),
    ("SELECT CAST(12345 AS nvarchar(3))", "error 8115", ""),
    ("SELECT CAST(12345 AS varchar(3))", "varchar *", ""),
    ("SELECT CAST('abcdef' AS varchar(3))", "varchar abc", ""),
    ("SELECT CAST('a' AS char(3)), CAST(N'a' AS nchar(2))", "char a  , nchar a ", "CHAR"),
    ("SELECT CAST(1.50 AS nvarchar(10))", "nvarchar 1.50", ""),
    ("SELECT CAST(CAST(1.5 AS money) AS varchar(10))", "varchar 1.50", "money"),
    ("SELECT CAST(1.23456 AS money)", "money 1.2346", "money"),
    ("SELECT CAST(0x0102 AS int)", "int 258", "0102"),
    ("SELECT CAST('ab' AS varbinary(2))", "varbinary 6162", "VARBINARY"),
    (
        "SELECT CAST(0x010203 AS varbinary(2)), CAST(0x01 AS binary(2))",
        "varbinary 0102, binary 0100",
        "BINARY",
    ),
    (
        "SELECT CAST('00112233-4455-6677-8899-aabbccddeeff' AS uniqueidentifier)",
        "uniqueidentifier 00112233-4455-6677-8899-aabbccddeeff",
        "uniqueidentifier",
    ),
    ("SELECT CAST('00112233' AS uniqueidentifier)", "error 8169", "uniqueidentifier"),
    (
        "SELECT CAST(CAST('00112233-4455-6677-8899-aabbccddeeff' AS uniqueidentifier) AS char(36))",
        "char 00112233-4455-6677-8899-AABBCCDDEEFF",
        "CHAR",
    ),
    ("SELECT CONVERT(varchar(10), 5)", "varchar 5", "CONVERT"),
    ("SELECT TRY_CAST('x' AS int)", "int NULL", "TRY_CAST"),
    ("SELECT CAST(1 AS geometry)", "error 529", "geometry"),
    ("SELECT '1' + 2", "int 3", "varchar(1) + int"),
    ("SELECT 'a' + 1", "error 245", "varchar(1) + int"),
    ("SELECT N'書', '書'", "nvarchar 書, varchar ?", "書"),
];

const DATES: &[Case] = &[
    (
        "SET LANGUAGE French; SELECT CAST('2024-02-03' AS datetime)",
        "datetime 2024-03-02 0:00:00.0",
        "DATETIME",
    ),
    ("SET LANGUAGE French; SELECT CAST('2024-02-03' AS date)", "date 2024-02-03", ""),
    ("SELECT CAST('2024-02-29' AS date)", "date 2024-02-29", ""),
    ("SELECT CAST('2023-02-29' AS date)", "error 241", "2023-02-29"),
    (
        "SELECT CAST('20240131 10:11:12.3456789' AS datetime2(3))",
        "datetime2 2024-01-31 10:11:12.346",
        "datetime2",
    ),
    (
        "SELECT CAST('2024-12-31 23:59:59.9999999' AS datetime2(0))",
        "datetime2 2025-01-01 0:00:00.0",
        "datetime2",
    ),
    (
        "SELECT CAST('2024-01-02T03:04:05.001' AS datetime)",
        "datetime 2024-01-02 3:04:05.0",
        "DATETIME",
    ),
    ("SELECT CAST('2024-01-02T03:04:05.1234' AS datetime)", "error 241", "DATETIME"),
    ("SELECT CAST('1700-01-01' AS datetime)", "error 242", "DATETIME"),
    (
        "SELECT CAST('2024-01-02T03:04:29.998' AS smalldatetime), CAST('2024-01-02T03:04:30' AS smalldatetime)",
        "smalldatetime 2024-01-02 3:04:00.0, smalldatetime 2024-01-02 3:05:00.0",
        "smalldatetime",
    ),
    ("SELECT CAST('10:11:12.987' AS time(0))", "time 10:11:13.0", "TIME"),
    (
        "SELECT CAST(CAST('2024-01-02' AS date) AS nvarchar(30)), CAST(CAST('2024-01-02 03:04:05' AS datetime2(2)) AS nvarchar(30))",
        "nvarchar 2024-01-02, nvarchar 2024-01-02 03:04:05.00",
        "CAST from date to nvarchar(30)",
    ),
    (
        "SELECT CAST(CAST('2024-01-02' AS datetime) AS varchar(30))",
        "varchar Jan  2 2024 12:00AM",
        "DATETIME",
    ),
    (
        "SELECT CAST('2024-01-02 00:30:00 +02:00' AS datetimeoffset(0))",
        "datetimeoffset 2024-01-02 0:30:00.0 +02:00:00",
        "datetimeoffset",
    ),
    (
        "SELECT 1 WHERE CAST('2024-01-02' AS date) < CAST('2024-01-02 00:00:01' AS datetime2)",
        "int 1",
        "datetime2",
    ),
    (
        "SELECT 1 WHERE CAST('2024-01-02 00:00 +02:00' AS datetimeoffset) < CAST('2024-01-02 00:00 +01:00' AS datetimeoffset)",
        "int 1",
        "datetimeoffset",
    ),
    ("SELECT CAST('2024-01-02' AS date) + 1", "error 206", "date + int"),
    ("SELECT CAST(CAST('10:00' AS time) AS date)", "error 529", "TIME"),
    ("SELECT DATEADD(day, 1, '2024-01-31')", "datetime 2024-02-01 0:00:00.0", "DATEADD"),
    ("SELECT YEAR('2024-01-31')", "int 2024", "YEAR"),
    (
        "SET DATEFORMAT dmy; SELECT CAST('2024-02-03' AS datetime)",
        "datetime 2024-03-02 0:00:00.0",
        "DATEFORMAT",
    ),
];

const TEXTS: &[Case] = &[
    ("SELECT N'a' + 'b'", "nvarchar ab", "nvarchar(1) + varchar(1)"),
    ("SELECT 'a' + NULL", "varchar NULL", "varchar(1) + varchar(1)"),
    ("SELECT LEN('ab  '), DATALENGTH('ab  '), DATALENGTH(N'ab')", "int 2, int 4, int 4", "LEN"),
    ("SELECT LEN(N'né🦀')", "int 4", "LEN"),
    (
        "SELECT DATALENGTH(1), DATALENGTH(CAST(1 AS bigint)), DATALENGTH(0xABCD), DATALENGTH(NULL)",
        "int 4, int 8, int 2, int NULL",
        "DATALENGTH",
    ),
    ("SELECT 1 WHERE 'abc' = 'ABC  '", "int 1", ""),
    ("SELECT 1 WHERE N'É' = N'é'", "int 1", "É"),
    ("SELECT 1 WHERE N'e' = N'é'", "", "é"),
    ("SELECT 1 WHERE N'ß' = N'ss'", "int 1", "ß"),
    ("SELECT 1 WHERE N'🦀' = N''", "int 1", "🦀"),
    ("SELECT 1 WHERE 'a' < 'B'", "int 1", "< of varchar(1)"),
    ("SELECT 1 WHERE N'co-op' < N'coop'", "", "< of nvarchar(5)"),
    ("SELECT 1 WHERE 'a' LIKE 'A%'", "int 1", "LIKE"),
    ("SELECT 1 WHERE 'ab' LIKE '[a-c]_'", "int 1", "LIKE"),
    ("SELECT ISNULL(CAST(NULL AS varchar(2)), 'abcd')", "varchar ab", "ISNULL"),
    ("SELECT COALESCE(CAST(NULL AS varchar(2)), 'abcd')", "varchar abcd", "COALESCE"),
    ("SELECT ISNULL(NULL, 1.5), COALESCE(NULL, 1, 2.5)", "decimal 1.5, decimal 1.0", "ISNULL"),
    ("SELECT COALESCE(1, 'x')", "int 1", "COALESCE"),
    ("SELECT COALESCE(NULL, 'x', 1)", "error 245", "COALESCE"),
    ("SELECT SUBSTRING('abc', 0, 2)", "varchar a", "SUBSTRING"),
    ("SELECT UPPER('a')", "varchar A", "UPPER"),
    ("SELECT CONCAT('a', NULL)", "varchar a", "CONCAT"),
    ("SELECT REPLACE('abc', 'B', 'x')", "varchar axc", "REPLACE"),
    ("SELECT 'a' 'b'", "varchar a", ""),
    ("SELECT LEN('ab  '), LEN(N'né🦀')", "int 2, int 4", "LEN"),
    ("SELECT LEN(CAST(N'a' AS nvarchar(4000)) + N'b')", "int 2", "LEN"),
    ("SELECT 1 + NULL, 10 - 3 * 2", "int NULL, int 4", ""),
    ("SELECT CASE WHEN 1 = 1 THEN 1 ELSE 2.5 END", "decimal 1.0", "CASE"),
    ("SELECT IIF(1 = 1, 1, 2)", "int 1", "IIF"),
];

const QUERIES: &[Case] = &[
    ("SELECT n FROM few ORDER BY n", "int NULL; int 1; int 2", ""),
    ("SELECT n FROM few ORDER BY n DESC", "int 2; int 1; int NULL", ""),
    ("SELECT -n AS n FROM few ORDER BY n", "int NULL; int -2; int -1", "-n"),
    (
        "SELECT name FROM few ORDER BY name",
        "nvarchar a; nvarchar B; nvarchar c",
        "ORDER BY of text",
    ),
    ("SELECT TOP (2) n FROM few ORDER BY n", "int NULL; int 1", ""),
    ("SELECT TOP 0 n FROM few", "", ""),
    ("SELECT TOP (-1) n FROM few", "error 127", ""),
    ("SELECT TOP (1) WITH TIES n FROM few ORDER BY n", "int NULL", "TIES"),
    ("SELECT n FROM few ORDER BY n OFFSET 1 ROWS FETCH NEXT 1 ROWS ONLY", "int 1", "OFFSET"),
    ("SELECT DISTINCT 1 FROM few", "int 1", "DISTINCT"),
    ("SELECT n, COUNT(*) FROM few", "error 8120", "aggregate"),
    ("SELECT n FROM few WHERE COUNT(*) > 1", "error 147", "COUNT"),
    ("SELECT COUNT(*), COUNT_BIG(*), SUM(n) FROM few", "int 3, bigint 3, int 3", ""),
    ("SELECT SUM(n) FROM few WHERE n > 5", "int NULL", ""),
    ("SELECT SUM(large) FROM many", "error 8115", ""),
    ("SELECT SUM(price) FROM few", "decimal 4.00", "SUM(price)"),
    ("SELECT AVG(n) FROM few", "int 1", "AVG"),
    (
        "SELECT n, COUNT(*) FROM few GROUP BY n",
        "int NULL, int 1; int 1, int 1; int 2, int 1",
        "GROUP BY",
    ),
    ("SELECT name FROM few WHERE n = NULL", "", ""),
    ("SELECT name FROM few WHERE n <> 1", "nvarchar c", ""),
    ("SELECT name FROM few WHERE NOT (n = 1)", "nvarchar c", ""),
    (
        "SELECT name FROM few WHERE n BETWEEN 1 AND 1 OR n IS NULL ORDER BY n",
        "nvarchar B; nvarchar a",
        "BETWEEN",
    ),
    ("SELECT name FROM few WHERE name = N'b  '", "nvarchar B", ""),
    ("SELECT name FROM few WHERE price = '1.50'", "nvarchar a", "varchar(4)"),
    ("SELECT name FROM few WHERE price > 1", "nvarchar a; nvarchar c", ""),
    ("SELECT name FROM few WHERE n IN (1, 2)", "nvarchar a; nvarchar c", "IN"),
    ("SELECT name FROM few WHERE n", "error 4145", "n"),
    ("SELECT n = 1 FROM few WHERE n = 1", "int 1", ""),
    ("SELECT (SELECT n FROM few)", "error 512", "(SELECT n FROM few)"),
    (
        "SELECT (SELECT SUM(n) FROM few), (SELECT TOP (1) n FROM few ORDER BY n DESC)",
        "int 3, int 2",
        "SELECT SUM(n)",
    ),
    ("SELECT n FROM (SELECT n FROM few ORDER BY n) AS f", "error 1033", "(SELECT n FROM few"),
    ("SELECT 1 WHERE EXISTS (SELECT * FROM few WHERE n = 2)", "int 1", "EXISTS"),
    (
        "SELECT few.n, f.name FROM few INNER JOIN few AS f ON f.n = few.n + 1",
        "int 1, nvarchar c",
        "INNER JOIN",
    ),
    (
        "SELECT a.n, b.n FROM few AS a LEFT JOIN few AS b ON b.n = a.n + 1 WHERE a.n = 2",
        "int 2, int NULL",
        "LEFT JOIN",
    ),
    ("SELECT COUNT(*) FROM few AS a, few AS b", "int 9", ""),
    ("SELECT n FROM few AS a, few AS b", "error 209", ""),
    ("SELECT nothing FROM few", "error 207", ""),
    ("SELECT x.n FROM few", "error 4104", ""),
    ("SELECT 1 FROM nowhere", "error 208", ""),
    ("SELECT *", "error 263", "without FROM"),
    ("SELECT 1 UNION ALL SELECT 2.5", "decimal 1.0; decimal 2.5", ""),
    ("SELECT 1 UNION ALL SELECT 'x'", "error 245", "int with varchar(1)"),
    ("SELECT 1 UNION ALL SELECT 1, 2", "error 205", "different lengths"),
    ("SELECT 1 UNION SELECT 1", "int 1", "UNION"),
    ("WITH f AS (SELECT 1 AS n) SELECT n FROM f", "int 1", "WITH"),
    ("SELECT ROW_NUMBER() OVER (ORDER BY n) FROM few", "bigint 1; bigint 2; bigint 3", "OVER"),
    ("SELECT n INTO #copy FROM few; SELECT COUNT(*) FROM #copy", "int 3", "INTO"),
    ("SELECT n FROM few WITH (READPAST) WHERE n = 1", "int 1", "READPAST"),
    ("SELECT id FROM few WHERE name < 'b'", "", "<"),
    ("SELECT 1 FROM few, few", "error 1013", "two tables"),
    ("SELECT a.n FROM few AS a, few AS b WHERE a.n = b.n AND a.n = 1", "int 1", ""),
    ("SET ROWCOUNT 1; SELECT n FROM few ORDER BY n; SET ROWCOUNT 0", "int NULL", "ROWCOUNT"),
    ("SELECT name COLLATE Latin1_General_BIN FROM few WHERE n = 1", "nvarchar a", "COLLATE"),
    (
        "SELECT name AS a, n AS b FROM few ORDER BY 2 DESC",
        "nvarchar c, int 2; nvarchar a, int 1; nvarchar B, int NULL",
        "ORDER BY 2",
    ),
    ("SELECT n FROM few ORDER BY 2", "error 108", "ORDER BY 2"),
    ("SELECT name FROM sys.tables", "nvarchar few", "sys.tables"),
];

const CHANGES: &[Case] = &[
    ("CREATE TABLE #t (n nvarchar(2)); INSERT INTO #t VALUES (N'abc')", "error 2628", ""),
    (
        "CREATE TABLE #t (n nvarchar(2)); INSERT INTO #t VALUES (N'ab  '); SELECT DATALENGTH(n) FROM #t",
        "int 4",
        "DATALENGTH",
    ),
    ("CREATE TABLE #t (n nvarchar(2)); INSERT INTO #t VALUES (N'🦀a')", "error 2628", ""),
    ("CREATE TABLE #t (n varchar(2)); INSERT INTO #t VALUES (N'書')", "", "書"),
    (
        "CREATE TABLE #t (n char(3)); INSERT INTO #t VALUES ('a'); SELECT n FROM #t",
        "char a  ",
        "CHAR",
    ),
    (
        "CREATE TABLE #t (n datetime); INSERT INTO #t VALUES (CAST('2024-01-02 03:04:05.1279' AS datetime2)); SELECT n FROM #t",
        "datetime 2024-01-02 3:04:05.126666666",
        "DATETIME",
    ),
    ("CREATE TABLE #t (n tinyint); INSERT INTO #t VALUES (256)", "error 220", ""),
    ("CREATE TABLE #t (n int); INSERT INTO #t VALUES (3000000000)", "error 8115", ""),
    (
        "CREATE TABLE #t (n decimal(4,1)); INSERT INTO #t VALUES (1.25), (-1.25); SELECT n FROM #t ORDER BY n",
        "decimal -1.3; decimal 1.3",
        "",
    ),
    (
        "CREATE TABLE #t (n int); INSERT INTO #t VALUES ('x')",
        "error 245",
        "varchar(1) in a column of int",
    ),
    (
        "CREATE TABLE #t (n nvarchar(9)); INSERT INTO #t VALUES (1), ('x')",
        "error 245",
        "int with varchar(1)",
    ),
    (
        "CREATE TABLE #t (n date); INSERT INTO #t VALUES ('2024-01-02'); SELECT n FROM #t",
        "date 2024-01-02",
        "",
    ),
    ("CREATE TABLE #t (n int NOT NULL); INSERT INTO #t VALUES (NULL)", "error 515", ""),
    ("CREATE TABLE #t (n int PRIMARY KEY); INSERT INTO #t VALUES (1), (1)", "error 2627", ""),
    (
        "CREATE TABLE #t (n int CHECK (n > 0)); INSERT INTO #t VALUES (NULL); INSERT INTO #t VALUES (0)",
        "error 547",
        "",
    ),
    (
        "CREATE TABLE #t (n decimal(5,2) CHECK (n >= 0.5)); INSERT INTO #t VALUES (0.49)",
        "error 547",
        "",
    ),
    (
        "CREATE TABLE #t (n int UNIQUE); INSERT INTO #t VALUES (NULL), (NULL)",
        "error 2627",
        "UNIQUE",
    ),
    (
        "CREATE TABLE #t (n nvarchar(5) PRIMARY KEY); INSERT INTO #t VALUES (N'a'), (N'A ')",
        "error 2627",
        "nvarchar(5) PRIMARY KEY",
    ),
    (
        "CREATE TABLE #t (a int, b int); INSERT INTO #t VALUES (1)",
        "error 213",
        "another number of values",
    ),
    (
        "CREATE TABLE #t (a int, b int); INSERT INTO #t (a, b) VALUES (1)",
        "error 109",
        "another number of values",
    ),
    (
        "CREATE TABLE #t (a int); INSERT INTO #t (a) VALUES (1, 2)",
        "error 110",
        "another number of values",
    ),
    ("CREATE TABLE #t (a int); INSERT INTO #t (a, a) VALUES (1, 2)", "error 264", "named twice"),
    ("CREATE TABLE #t (a int); INSERT INTO #t (b) VALUES (1)", "error 207", ""),
    (
        "CREATE TABLE #t (id int IDENTITY(1,1), a int); INSERT INTO #t VALUES (7); SELECT SCOPE_IDENTITY(), @@ROWCOUNT",
        "decimal 1.0, int 1",
        "SCOPE_IDENTITY",
    ),
    (
        "CREATE TABLE #t (id int IDENTITY(1,1), a int); INSERT INTO #t (a) OUTPUT inserted.id, inserted.a VALUES (7), (8)",
        "int 1, int 7; int 2, int 8",
        "",
    ),
    (
        "CREATE TABLE #t (id int IDENTITY(1,1), a int); INSERT INTO #t (id, a) VALUES (5, 5)",
        "error 544",
        "",
    ),
    (
        "CREATE TABLE #t (id int IDENTITY(1,1), a int); INSERT INTO #t VALUES (1); UPDATE #t SET id = 2",
        "error 8102",
        "",
    ),
    (
        "CREATE TABLE #t (id int IDENTITY(1,1)); SELECT SCOPE_IDENTITY()",
        "decimal NULL",
        "SCOPE_IDENTITY",
    ),
    (
        "CREATE TABLE #t (a int, b int); INSERT INTO #t VALUES (1, 2); UPDATE #t SET a = b, b = a; SELECT a, b FROM #t",
        "int 2, int 1",
        "",
    ),
    (
        "CREATE TABLE #t (a int); INSERT INTO #t VALUES (1), (2); UPDATE #t SET a = a + 1 WHERE a > 1; SELECT a, @@ROWCOUNT FROM #t",
        "int 1, int 1; int 3, int 1",
        "",
    ),
    (
        "CREATE TABLE #t (a int); INSERT INTO #t VALUES (1), (2); DELETE FROM #t WHERE a = 1; SELECT a FROM #t",
        "int 2",
        "",
    ),
    ("CREATE TABLE #t (a int DEFAULT 7)", "", "DEFAULT"),
    ("CREATE TABLE #t (a int); INSERT INTO #t SELECT 1", "", "INSERT"),
    (
        "CREATE TABLE #t (a int); INSERT INTO #t VALUES (1); SET ROWCOUNT 1; DELETE FROM #t",
        "",
        "ROWCOUNT",
    ),
    ("MERGE few USING few AS f ON 1 = 0 WHEN MATCHED THEN DELETE;", "", "MERGE"),
    ("TRUNCATE TABLE few", "", "TRUNCATE"),
    ("SELECT 1 AS a; ALTER TABLE few ADD x int", "", "ALTER"),
    ("SET ANSI_NULLS OFF; SELECT 1 WHERE NULL = NULL", "int 1", "ANSI_NULLS"),
    ("SET CONCAT_NULL_YIELDS_NULL OFF; SELECT 'a' + NULL", "varchar a", "CONCAT_NULL_YIELDS_NULL"),
    ("SET IMPLICIT_TRANSACTIONS ON", "", "IMPLICIT_TRANSACTIONS"),
    ("DECLARE @a int = 1; SELECT @a", "int 1", "DECLARE"),
    ("SELECT @a", "error 137", ""),
    ("EXEC sp_who", "error 2812", ""),
    ("IF 1 = 2 SELECT 1 ELSE SELECT 2", "int 2", ""),
    ("SET NOEXEC ON; SELECT 1; SET NOEXEC OFF; SELECT 2", "int 2", ""),
    ("THROW 50001, N'enough', 1", "error 50001", "THROW"),
    ("PRINT 'a'", "", "PRINT"),
    ("BEGIN TRY SELECT 1 END TRY BEGIN CATCH END CATCH", "int 1", "TRY"),
    ("SELECT GETDATE(); SELECT 1", "int 1", "GETDATE"),
    ("SELECT SESSION_CONTEXT(N'k')", "sql_variant NULL", "SESSION_CONTEXT"),
    ("EXEC sp_set_session_context N'k', 7; SELECT CAST(SESSION_CONTEXT(N'K') AS int)", "int 7", ""),
    ("SELECT 1; COMMIT", "error 3902", ""),
    ("SELECT n FROM few; BEGIN TRAN; SELECT @@ROWCOUNT", "int 0", ""),
];

const SET_UP: &str = "CREATE TABLE few (id int IDENTITY(1,1) PRIMARY KEY, n int, name nvarchar(10), price decimal(9,2));
    CREATE TABLE many (large int); INSERT INTO many VALUES (2147483647), (1);
    INSERT INTO few (n, name, price) VALUES (1, N'a', 1.5), (NULL, N'B', 0.75), (2, N'c', 1.75)";

#[tokio::test]
async fn every_answer_is_sql_servers_or_a_refusal() {
    let setup = Setup::new().await;
    setup.client().await.rows(SET_UP).await.unwrap();
    let mut wrong = Vec::new();
    for (sql, expected, construct) in
        [NUMBERS, CONVERSIONS, DATES, TEXTS, QUERIES, CHANGES].concat()
    {
        let got = match setup.client().await.rows(sql).await {
            Ok(rows) => rows.iter().map(shown).collect::<Vec<_>>().join("; "),
            Err(tiberius::error::Error::Server(error)) if error.code() == 102 => {
                format!("refused: {}", error.message())
            }
            Err(tiberius::error::Error::Server(error)) => format!("error {}", error.code()),
            Err(error) => panic!("{sql}: {error}"),
        };
        let right = match construct {
            "" => got == expected,
            _ => got.starts_with("refused: ") && got.contains(construct),
        };
        if !right {
            wrong.push(format!("{sql}\n    SQL Server: {expected}\n    here: {got}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
}

fn shown(row: &Row) -> String {
    let columns: Vec<ColumnType> = row.columns().iter().map(|c| c.column_type()).collect();
    let cells = row.cells().enumerate();
    let cells = cells.map(|(index, (_, value))| cell(row, index, columns[index], value));
    cells.collect::<Vec<_>>().join(", ")
}

/// A value, after the name of its type.
fn cell(row: &Row, index: usize, column: ColumnType, value: &ColumnData<'_>) -> String {
    fn text(name: &str, value: Option<impl ToString>) -> String {
        format!("{name} {}", value.map_or("NULL".to_owned(), |value| value.to_string()))
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    match value {
        ColumnData::U8(value) => text("tinyint", *value),
        ColumnData::I16(value) => text("smallint", *value),
        ColumnData::I32(value) => text("int", *value),
        ColumnData::I64(value) => text("bigint", *value),
        ColumnData::F32(value) => text("real", *value),
        ColumnData::F64(value) if column == ColumnType::Money => text("money", *value),
        ColumnData::F64(value) => text("float", *value),
        ColumnData::Bit(value) => text("bit", *value),
        ColumnData::Numeric(value) => text("decimal", *value),
        ColumnData::Guid(value) => text("uniqueidentifier", *value),
        ColumnData::String(value) => {
            let name = match column {
                ColumnType::NVarchar => "nvarchar",
                ColumnType::NChar => "nchar",
                ColumnType::BigVarChar => "varchar",
                _ => "char",
            };
            text(name, value.as_deref())
        }
        ColumnData::Binary(value) => {
            let name = if column == ColumnType::BigBinary { "binary" } else { "varbinary" };
            text(name, value.as_deref().map(hex))
        }
        ColumnData::Date(_) => text("date", row.get::<Date, _>(index)),
        ColumnData::Time(_) => text("time", row.get::<Time, _>(index)),
        ColumnData::DateTime(_) => text("datetime", row.get::<PrimitiveDateTime, _>(index)),
        ColumnData::SmallDateTime(_) => {
            text("smalldatetime", row.get::<PrimitiveDateTime, _>(index))
        }
        ColumnData::DateTime2(_) => text("datetime2", row.get::<PrimitiveDateTime, _>(index)),
        ColumnData::DateTimeOffset(_) => {
            text("datetimeoffset", row.get::<OffsetDateTime, _>(index))
        }
        other => panic!("{other:?}"),
    }
}
