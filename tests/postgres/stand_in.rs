//! Compares the emulator's stand-in for PostgreSQL with PostgreSQL: each statement has the same
//! outcome, or the stand-in rejects it and names the construct.

use std::{error::Error as StdError, fmt::Write as _};

use deadpool_postgres::Client;
use entra_pool::{
    credential::{DefaultCredential, Environment},
    postgres::{
        self, deadpool_postgres,
        tokio_postgres::{
            self, SimpleQueryMessage,
            types::{FromSql, Type},
        },
    },
    token::Identity,
};
use entra_pool_emulator::emulator::Emulator;

use super::{pool_of_one, server};

const SETUP: &str = "
    CREATE TABLE dish (
        id serial PRIMARY KEY,
        name varchar(10) NOT NULL,
        course smallint NOT NULL CHECK (course BETWEEN 1 AND 5),
        price numeric(6, 2),
        note text,
        added date NOT NULL DEFAULT '2026-11-01',
        calories bigint);
    CREATE TABLE vote (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        dish_id int NOT NULL REFERENCES dish (id),
        stars int NOT NULL,
        voter text);
    INSERT INTO dish (name, course, price, note, added, calories) VALUES
        ('Soup', 1, 3.5, NULL, '2026-11-02', 120),
        ('bread', 1, 0.755, 'warm', '2026-11-01', NULL),
        ('Crème', 5, NULL, '100%', '1999-12-31', 5000000000),
        ('Steak', 3, 21.00, '', '2026-11-03', 900);
    INSERT INTO vote (dish_id, stars, voter) VALUES
        (1, 5, 'ada'), (1, 4, NULL), (2, 3, 'bob'), (4, 1, 'cy'), (4, 2, 'di'), (4, 2, NULL);
";

/// Statements of the quickstart, the examples and the other tests, and related errors. The
/// stand-in never rejects them.
const SUPPORTED: &[&str] = &[
    "SELECT 1",
    "SELECT 1 AS one, true, 'text', NULL, 12345678901, -2147483648, 1.50",
    "SELECT current_database()::text, current_user::text",
    "SELECT session_user, current_user",
    "SELECT count(*) FROM dish",
    "SELECT id, name FROM dish ORDER BY id",
    "SELECT id, name, price, added FROM dish WHERE id = 1",
    "SELECT voter, stars FROM vote WHERE dish_id = 4 ORDER BY id DESC",
    "SELECT dish.id, name, note, count(vote.id), CAST(avg(stars) AS double precision) \
     FROM dish LEFT JOIN vote ON dish_id = dish.id GROUP BY dish.id ORDER BY name, dish.id",
    "SELECT name, stars FROM dish JOIN vote ON vote.dish_id = dish.id ORDER BY vote.id",
    "INSERT INTO dish (name, course) VALUES ('Tea', 2) RETURNING id",
    "INSERT INTO dish (name, course) VALUES ('Tea', 2), ('Cake', 5) RETURNING name, added",
    "INSERT INTO dish VALUES (100, 'Tea', 2)",
    "INSERT INTO dish (name, course) VALUES ('Tea', 2); SELECT added FROM dish WHERE name = 'Tea'",
    "INSERT INTO dish (id, name, course) VALUES (1, 'Tea', 2) ON CONFLICT (id) DO NOTHING",
    "INSERT INTO dish (id, name, course) VALUES (1, 'Soup', 2), (9, 'Tea', 1) ON CONFLICT DO NOTHING RETURNING name",
    "INSERT INTO dish (name, course) VALUES ('Soup', 4) ON CONFLICT (note) DO NOTHING",
    // Ranges of integers.
    "SELECT 40000::smallint",
    "SELECT 3000000000::int",
    "SELECT '99999999999'::int, 1",
    "SELECT '12'::int, ' 12 '::bigint",
    "SELECT 'x'::int",
    "INSERT INTO dish (name, course) VALUES ('Tea', 40000)",
    "INSERT INTO dish (name, course) VALUES ('Tea', 'two')",
    // Lengths, precision and constraints.
    "INSERT INTO dish (name, course) VALUES ('elevenchars', 1)",
    "INSERT INTO dish (name, course) VALUES ('tencharsxx   ', 1) RETURNING name",
    "INSERT INTO dish (name, course) VALUES ('Crèmes bée', 1) RETURNING name",
    "INSERT INTO dish (name, course, price) VALUES ('Tea', 1, 9999.994) RETURNING price",
    "INSERT INTO dish (name, course, price) VALUES ('Tea', 1, 9999.995)",
    "INSERT INTO dish (name, course, price) VALUES ('Tea', 1, -0.005) RETURNING price",
    "INSERT INTO dish (name, course, price) VALUES ('Tea', 1, -0.004) RETURNING price",
    "INSERT INTO dish (name, course, price) VALUES ('Tea', 1, '12.345') RETURNING price",
    "INSERT INTO dish (name, course, price) VALUES ('Tea', 1, 7) RETURNING price",
    "SELECT 12345.678::numeric, 0.00001::numeric(9, 4), 100000000.5::numeric(12, 1), 0::numeric",
    "INSERT INTO dish (name, course) VALUES (NULL, 1)",
    "INSERT INTO dish (course) VALUES (1)",
    "INSERT INTO dish (name, course) VALUES ('Tea', 6)",
    "INSERT INTO dish (id, name, course) VALUES (1, 'Soup', 1)",
    "INSERT INTO vote (dish_id, stars) VALUES (99, 1)",
    "INSERT INTO vote (id, dish_id, stars) VALUES (99, 1, 1)",
    "INSERT INTO dish (name, course, colour) VALUES ('Tea', 1, 'red')",
    "INSERT INTO dish (name, course) VALUES ('Tea')",
    "INSERT INTO dish (name, course) VALUES ('Tea', 1, 2)",
    "INSERT INTO dish (name, course, added) VALUES ('Tea', 1, '2026-02-30')",
    "INSERT INTO dish (name, course) VALUES (E'a\\tb', 1) RETURNING name",
    // NULL and order.
    "SELECT name, calories FROM dish ORDER BY calories",
    "SELECT name, calories FROM dish ORDER BY calories DESC",
    "SELECT name FROM dish ORDER BY added, note",
    "SELECT true AND NULL, false AND NULL, true OR NULL",
    "SELECT name FROM dish WHERE calories <> 120 OR id >= 3 ORDER BY id",
    "SELECT 2 BETWEEN 1 AND 3, 2 BETWEEN 3 AND 1",
    // Text, booleans and dates.
    "SELECT 'a' < 'B', 'a' = 'A', 'Z' < 'a', 'ä' > 'z'",
    "SELECT name FROM dish ORDER BY name",
    "SELECT true > false",
    "SELECT name FROM dish WHERE added >= '2026-11-02' ORDER BY added",
    "SELECT '2024-02-29'::date",
    "SELECT '2023-02-29'::date",
    // Aggregates.
    "SELECT count(*), count(voter), avg(stars) FROM vote WHERE stars > 9",
    "SELECT count(voter), avg(stars) FROM vote",
    "SELECT dish_id, count(*), avg(stars) FROM vote GROUP BY dish_id ORDER BY dish_id",
    "SELECT avg(course), avg(id) FROM dish",
    "SELECT name, count(*) FROM dish",
    "SELECT name FROM dish GROUP BY course",
    "SELECT name FROM dish WHERE count(*) > 1",
    "SELECT count(count(*)) FROM dish",
    // Names and syntax.
    "SELECT colour FROM dish",
    "SELECT dish.colour FROM dish",
    "SELECT id FROM dish JOIN vote ON dish_id = dish.id",
    "SELECT one FROM nowhere",
    "SELECT \"Name\" FROM dish",
    "SELECT NAME FROM DISH ORDER BY ID",
    "SELECT * FROM dish ORDER BY id",
    "SELECT *, vote.id FROM dish JOIN vote ON vote.dish_id = dish.id ORDER BY vote.id",
    "SELEC 1",
    "SELECT 'x",
    "SELECT name FROM dish WHERE name",
    "SELECT nothing_like_this(1)",
    "CREATE TABLE dish (id int)",
    "CREATE TABLE IF NOT EXISTS dish (id int)",
    "CREATE TABLE late (id int REFERENCES nowhere (id))",
    "CREATE INDEX by_note ON dish (note)",
    "CREATE INDEX IF NOT EXISTS by_note ON dish (note); CREATE INDEX IF NOT EXISTS by_note ON dish (note)",
    "CREATE INDEX by_colour ON dish (colour)",
    "CREATE TABLE plate (id serial, made date NOT NULL DEFAULT current_date, size int DEFAULT 3); \
     INSERT INTO plate (id) VALUES (7); INSERT INTO plate (size) VALUES (NULL); SELECT id, size FROM plate",
    // Settings, and the statements that clean a session.
    "SET application_name = 'orders'",
    "SET CLIENT_ENCODING TO 'UTF8'",
    "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; UNLISTEN *; \
     SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES",
    "SELECT ('prepared by SQL: ' || name)::int FROM pg_catalog.pg_prepared_statement() WHERE from_sql",
];

/// Statements of other applications: the same outcome, or a rejection.
const OTHERS: &[&str] = &[
    "SELECT name FROM dish JOIN dish ON true",
    "SELECT NOT NULL, NOT true",
    "SELECT d.name, v.stars FROM dish AS d JOIN vote v ON v.dish_id = d.id ORDER BY v.id",
    "SELECT 7 / 2, -7 / 2, 7 % 3, -7 % 3, 2 + 3 * 4",
    "SELECT 1 / 0",
    "SELECT 1 % 0",
    "SELECT 2147483647 + 1",
    "SELECT - 2147483648 - 1",
    "SELECT 9223372036854775807 + 1",
    "SELECT course + 32767 FROM dish WHERE id = 1",
    "SELECT calories * 2, calories / 0 FROM dish WHERE calories IS NULL",
    "SELECT 'Soup of the day'::varchar(4), CAST('So' AS varchar(4))",
    "UPDATE dish SET name = 'Soup of the day' WHERE id = 1",
    "UPDATE dish SET course = course + 1 WHERE course < 3 RETURNING name, course",
    "UPDATE vote SET id = 3 WHERE id = 1",
    "DELETE FROM vote WHERE stars <= 2",
    "DELETE FROM dish",
    "DROP TABLE dish",
    "DROP TABLE vote",
    "DROP TABLE IF EXISTS nowhere",
    "INSERT INTO dish (name, name) VALUES ('Tea', 'Tea')",
    "INSERT INTO dish (name, course, note) VALUES ('Tea', 1, 5) RETURNING note",
    "INSERT INTO dish (name, course, added) VALUES ('Tea', 1, 'today')",
    "INSERT INTO dish (name, course, added) VALUES ('Tea', 1, 20261101)",
    "INSERT INTO dish (name, course) VALUES ('Tea', 1.5) RETURNING course",
    "INSERT INTO dish (name, course, price) VALUES ('Tea', 1, 'NaN') RETURNING price",
    "INSERT INTO dish DEFAULT VALUES",
    "SELECT name, note FROM dish ORDER BY note NULLS FIRST",
    "SELECT name, note FROM dish ORDER BY note DESC NULLS LAST",
    "SELECT name AS course FROM dish ORDER BY course",
    "SELECT name AS title FROM dish ORDER BY title",
    "SELECT name FROM dish ORDER BY added, 1 DESC",
    "SELECT name FROM dish ORDER BY id LIMIT 2 OFFSET 1",
    "SELECT name FROM dish LIMIT -1",
    "SELECT 1 IN (2, NULL), 1 NOT IN (2, 3)",
    "SELECT 2 NOT BETWEEN 3 AND 1",
    "SELECT NULL = 1, 1 = NULL",
    "SELECT name FROM dish WHERE name = 1",
    "SELECT name FROM dish WHERE 1 = id AND 'Soup' = name",
    "SELECT coalesce(note, 'none') FROM dish ORDER BY id",
    "SELECT 't'::boolean, 'off'::boolean, ' YES '::boolean",
    "SELECT true::text, 12::text, '2026-11-01'::date::text, 1.50::text",
    "SELECT date '2000-01-01' < date '1999-12-31'",
    "SELECT 0.1::double precision, '1e-5'::float8, 1e15::float8, 5::float8",
    "SELECT avg(stars)::float8, avg(dish_id)::numeric(4, 1) FROM vote",
    "SELECT sum(stars), min(stars), max(stars) FROM vote",
    "SELECT d.id FROM dish",
    "SELECT name, count(*) FROM dish GROUP BY name, id ORDER BY id",
    "SELECT 1 + 'x', 1 + true",
    "CREATE TABLE noted (a int UNIQUE, b text PRIMARY KEY)",
    "CREATE TABLE noted (a numeric PRIMARY KEY)",
    "CREATE TABLE noted (a int REFERENCES dish)",
    "CREATE TABLE noted (a int REFERENCES dish (id) ON DELETE CASCADE)",
    "CREATE TABLE noted (a int CONSTRAINT positive CHECK (a > 0))",
    "CREATE TABLE noted (a int CHECK (a))",
    "CREATE TABLE noted (a int, CHECK (a > 0))",
    "CREATE UNIQUE INDEX by_course ON dish (course)",
    "CREATE INDEX by_both ON dish (course, note)",
    "CREATE INDEX by_lower ON dish (lower(note))",
    "CREATE INDEX by_price ON dish (price DESC)",
    "SHOW timezone",
    "SELECT current_setting('app.none', true)",
    "SET no_such_setting = 1",
    "SET LOCAL application_name = 'x'",
    "SET ROLE nobody",
    "RESET application_name",
    "DISCARD ALL",
    "SAVEPOINT s; INSERT INTO vote (dish_id, stars) VALUES (1, 1); ROLLBACK TO s; SELECT count(*) FROM vote",
    "ROLLBACK TO nowhere",
    "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "START TRANSACTION READ ONLY",
    "UNLISTEN dishes",
    "SELECT pg_sleep(0.01)",
    "SELECT now() IS NULL, current_date = '2026-11-01'",
    "SELECT 1.5 + 1, 7 / 2.0, 2 ^ 3, 5 & 3, 1 << 2",
    "SELECT 1.0 / 3",
    "SELECT price * 2, price > 3 FROM dish ORDER BY id",
    "SELECT name FROM dish ORDER BY price",
    "SELECT sum(price), max(price), avg(price) FROM dish",
    "SELECT sum(calories), avg(calories) FROM dish",
    "SELECT 2.5::int, 3.5::int, (-2.5)::int, 2.5::float8::int",
    "SELECT 1::boolean, 0::boolean, true::int",
    "SELECT 'NaN'::float8, 'Infinity'::float8, '-0'::float8",
    "SELECT 'NaN'::numeric, '1e3'::numeric, 1e3",
    "SELECT rating + 1, rating / 0 FROM dish",
    "SELECT 12345678901234567890123456789012345678901234567890",
    "SELECT 1.10::numeric = 1.1, 1.10 IN (1.1)",
    "SELECT 0x1F, 1_000",
    "SELECT 'a' || 1, 'a' || NULL, 'a' || 'b'",
    "SELECT name LIKE 's%', name ILIKE 's%', name LIKE '%\\' FROM dish",
    "SELECT name SIMILAR TO 'S%', name ~ '^S' FROM dish",
    "SELECT length('crème'), upper('crème'), lower('CRÈME'), initcap('a b')",
    "SELECT substring('hello' from 2 for 3), position('l' in 'hello'), trim('  x ')",
    "SELECT replace('aaa', 'a', 'b'), left('hello', -2), lpad('x', 3, '-'), repeat('x', 3)",
    "SELECT 'abc'::char(5), 'abc  '::char(5) = 'abc', length('abc  '::char(5))",
    "CREATE TEMP TABLE padded (c char(5)); INSERT INTO padded VALUES ('abc'); SELECT c FROM padded",
    "SELECT 'x' = 'x  ', 'a' COLLATE \"C\" < 'B'",
    "SELECT round(2.5), round(-2.5), round(2.567, 2), trunc(2.9), ceil(2.1), floor(-2.1)",
    "SELECT abs(-3), mod(7, 0), power(2, 3), sqrt(2), sign(-2)",
    "SELECT greatest(1, NULL, 3), least(NULL, 2), nullif(1, 1)",
    "SELECT CASE WHEN 1 = 1 THEN 'a' ELSE 1 END",
    "SELECT CASE course WHEN 1 THEN 'first' ELSE 'later' END FROM dish ORDER BY id",
    "SELECT '2026-11-01'::date + 1, '2026-11-01'::date - '2026-10-01'::date",
    "SELECT '2026-11-01 12:00:00'::timestamp, '2026-11-01 12:00+02'::timestamptz",
    "SELECT '2026-11-01 12:00:00.1234567'::timestamptz, timestamptz '2026-11-01 24:00:00'",
    "SELECT 'today'::date > '2000-01-01', 'infinity'::date, 'January 8, 1999'::date, '0044-03-15 BC'::date",
    "SELECT '20261101'::date, '11/01/2026'::date, '2026-1-1'::date",
    "SELECT extract(year FROM date '2026-11-01'), date_trunc('month', timestamp '2026-11-15')",
    "SELECT interval '1 day', now() - now(), age(date '2026-11-01', date '2026-10-01')",
    "SELECT now() AT TIME ZONE 'UTC' IS NULL",
    "SET TIME ZONE 'Europe/Berlin'; SHOW timezone",
    "SET datestyle = 'German'; SELECT '2026-11-01'::date",
    "SET search_path = pg_catalog; SELECT count(*) FROM dish",
    "SET statement_timeout = 50; SHOW statement_timeout; SELECT pg_sleep(0.2)",
    "SELECT DISTINCT course FROM dish ORDER BY course",
    "SELECT DISTINCT ON (course) name FROM dish ORDER BY course, name",
    "SELECT course, count(*) FROM dish GROUP BY course HAVING count(*) > 1",
    "SELECT course FROM dish GROUP BY 1",
    "SELECT count(DISTINCT course), count(*) FILTER (WHERE vegan) FROM dish",
    "SELECT bool_and(vegan), string_agg(name, ',' ORDER BY name), array_agg(id) FROM dish",
    "SELECT max(vegan) FROM dish",
    "SELECT row_number() OVER (ORDER BY id) FROM dish",
    "SELECT 1 UNION SELECT 2 ORDER BY 1",
    "SELECT 1 UNION ALL SELECT 1",
    "WITH d AS (SELECT id FROM dish) SELECT count(*) FROM d",
    "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT sum(n) FROM t",
    "SELECT (SELECT max(stars) FROM vote), EXISTS (SELECT 1 FROM vote)",
    "SELECT name FROM dish WHERE id IN (SELECT dish_id FROM vote) ORDER BY id",
    "SELECT s.n FROM (SELECT 1 AS n) AS s",
    "VALUES (1, 'a'), (2, 'b')",
    "SELECT * FROM generate_series(1, 3) AS n",
    "SELECT generate_series(1, 3)",
    "SELECT unnest(ARRAY[1, 2]), ARRAY[1, 2], '{1,2}'::int[], 1 = ANY (ARRAY[1])",
    "SELECT '{\"a\": 1}'::json -> 'a', '{\"a\": 1}'::jsonb ->> 'a', json_build_object('a', 1)",
    "SELECT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, '\\x00ff'::bytea",
    "SELECT d.* FROM dish d ORDER BY d.id",
    "SELECT d FROM dish d",
    "SELECT dish.name, vote.stars FROM dish, vote WHERE dish.id = dish_id ORDER BY vote.id",
    "SELECT count(*) FROM dish CROSS JOIN vote",
    "SELECT count(*) FROM dish RIGHT JOIN vote ON dish_id = dish.id",
    "SELECT count(*) FROM dish FULL JOIN vote ON dish_id = dish.id",
    "SELECT * FROM dish NATURAL JOIN vote",
    "SELECT name FROM dish FETCH FIRST 1 ROW ONLY",
    "SELECT name FROM dish ORDER BY id FOR UPDATE",
    "SELECT id AS a, id + 1 AS b FROM dish WHERE a = 1",
    "SELECT id FROM dish ORDER BY -id",
    "SELECT name FROM dish ORDER BY 'x'",
    "SELECT 1 = 1.0, 1 < '2', 1 = '1.0'",
    "SELECT id = name FROM dish",
    "SELECT 1 IS DISTINCT FROM NULL, true IS TRUE, NULL IS UNKNOWN",
    "SELECT 1 == 1",
    "SELECT 1 < 2 = true",
    "SELECT NULL IS NULL, 1 IS NOT NULL",
    "INSERT INTO dish (name, course, name) VALUES ('Tea', 1, 'Coffee') RETURNING name",
    "SELECT price AS name FROM dish ORDER BY name",
    "SELECT 1e-5::float8, 123456789012345678::float8, 0::float8",
    "SELECT !1",
    "SELECT ROW(1, 2) = ROW(1, 2), (1, 2) < (1, 3)",
    "INSERT INTO dish (name, course) SELECT 'Tea', 1",
    "INSERT INTO dish (name, course) VALUES ('Tea', DEFAULT)",
    "INSERT INTO dish (name, course) VALUES ('Soup', 4) ON CONFLICT (name) DO UPDATE SET course = excluded.course RETURNING id, course",
    "INSERT INTO dish (name, course) VALUES ('Soup', 4) ON CONFLICT (note) DO NOTHING",
    "INSERT INTO dish AS d (name, course) VALUES ('Tea', 4) RETURNING d.id",
    "INSERT INTO vote (id, dish_id, stars) OVERRIDING SYSTEM VALUE VALUES (99, 1, 1)",
    "UPDATE dish SET course = vote.stars FROM vote WHERE dish.id = dish_id",
    "UPDATE dish SET (course, note) = (2, 'x') WHERE id = 1",
    "UPDATE dish SET price = price * 2 RETURNING price",
    "DELETE FROM dish USING vote WHERE dish.id = dish_id",
    "TRUNCATE vote",
    "TRUNCATE dish",
    "ALTER TABLE dish ADD COLUMN seats int DEFAULT 1; SELECT seats FROM dish",
    "CREATE TEMP VIEW cheap AS SELECT name FROM dish; SELECT count(*) FROM cheap",
    "CREATE TEMP TABLE copied AS SELECT * FROM dish",
    "CREATE TEMP TABLE both_keys (a int, b int, PRIMARY KEY (a, b))",
    "CREATE TEMP TABLE noted (a varchar(0))",
    "CREATE TEMP TABLE noted (a int DEFAULT 'x')",
    "CREATE TEMP TABLE noted (a int GENERATED ALWAYS AS (1) STORED)",
    "CREATE TEMP TABLE noted (a int) ON COMMIT DROP",
    "CREATE TEMP TABLE noted (a int, a text)",
    "CREATE TEMP TABLE noted (a timestamptz(3), b time, c interval, d money, e inet)",
    "DROP TABLE dish CASCADE; SELECT count(*) FROM vote",
    "DROP TABLE vote, dish; SELECT 1",
    "CREATE SEQUENCE s; SELECT nextval('s'), currval('s')",
    "SELECT nextval('dish_id_seq')",
    "SELECT lastval()",
    "PREPARE p AS SELECT 1; EXECUTE p",
    "DECLARE c CURSOR FOR SELECT 1; FETCH c",
    "COPY dish TO '/nowhere/dish'",
    "LISTEN dishes",
    "EXPLAIN SELECT 1",
    "LOCK TABLE dish",
    "DO $$ BEGIN NULL; END $$",
    "SELECT count(*) FROM pg_catalog.pg_class WHERE relname = 'dish'",
    "SELECT count(*) FROM information_schema.tables WHERE table_name = 'dish'",
    "SELECT count(*) FROM sqlite_master",
    "SELECT sqlite_version()",
    "SELECT typeof(1), ifnull(1, 2), iif(1, 2, 3)",
    "SELECT rowid FROM dish",
    "SELECT ctid IS NULL FROM dish",
    "PRAGMA user_version",
    "SELECT pg_advisory_lock(1)",
    "SELECT set_config('app.user', 'ada', false)",
    "SET TRANSACTION READ ONLY; DELETE FROM vote",
    "SELECT $$dollar$$, U&'\\0041', B'101', X'1F'",
];

/// A value as PostgreSQL sends it in binary.
#[derive(Debug, PartialEq)]
struct Bytes(Vec<u8>);

impl<'a> FromSql<'a> for Bytes {
    fn from_sql(_: &Type, bytes: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(bytes.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The outcome of a statement: all that the client receives, or SQLSTATE and message.
type Outcome = Result<String, (String, String)>;

fn failure(error: &tokio_postgres::Error) -> (String, String) {
    let error =
        error.as_db_error().unwrap_or_else(|| panic!("{error:?} is not an error of the server"));
    (error.code().code().to_owned(), error.message().to_owned())
}

/// Returns the rows as text, and the number of rows that each statement affected.
async fn simple(client: &Client, sql: &str) -> Outcome {
    let messages = client.simple_query(sql).await.map_err(|error| failure(&error))?;
    let mut seen = String::new();
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<_> = (0..row.len()).map(|at| row.get(at)).collect();
                writeln!(seen, "{values:?}").unwrap();
            }
            SimpleQueryMessage::CommandComplete(rows) => writeln!(seen, "{rows} rows").unwrap(),
            _ => {}
        }
    }
    Ok(seen)
}

/// Returns the names and types of the columns, and the rows in binary.
async fn extended(client: &Client, sql: &str) -> Outcome {
    let run = async {
        let statement = client.prepare(sql).await?;
        let columns = statement.columns().iter().map(|column| (column.name(), column.type_()));
        let mut seen = format!("{:?}", columns.collect::<Vec<_>>());
        for row in client.query(&statement, &[]).await? {
            let values: Vec<Option<Bytes>> = (0..row.len()).map(|at| row.get(at)).collect();
            write!(seen, "\n{values:?}").unwrap();
        }
        Ok(seen)
    };
    run.await.map_err(|error| failure(&error))
}

/// Runs the statement with both protocols, each in a transaction that is rolled back.
async fn outcomes(client: &Client, sql: &str) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    client.batch_execute("BEGIN").await.unwrap();
    outcomes.push(simple(client, sql).await);
    client.batch_execute("ROLLBACK").await.unwrap();
    if !sql.contains(';') {
        client.batch_execute("BEGIN").await.unwrap();
        outcomes.push(extended(client, sql).await);
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    outcomes
}

/// Compares SQLSTATEs by their class: `22003` and `22P02` are the same.
fn same(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one == other,
        (Err((one, _)), Err((other, _))) => one[..2] == other[..2],
        _ => false,
    }
}

/// Whether the stand-in rejected the statement with a message that names the construct.
fn is_rejected(outcome: &Outcome) -> bool {
    let Err((code, message)) = outcome else { return false };
    let construct = message.split_once("does not support: ").map_or("", |(_, construct)| construct);
    match code.as_str() {
        "0A000" => !construct.is_empty(),
        "42883" => message.contains("function "),
        "42703" => message.contains("column \""),
        // Its parser does not know the syntax.
        "42601" => message.contains("not known to this stand-in: "),
        _ => false,
    }
}

#[tokio::test]
async fn the_stand_in_answers_as_postgresql_does_or_names_what_it_does_not_support() {
    // Both databases see the same role.
    let postgresql = pool_of_one("shop-identity").await;
    let postgresql = postgresql.get().await.unwrap();
    let emulator = Emulator::start().await.unwrap();
    let environment = Environment::from_pairs(emulator.env());
    let identity = DefaultCredential::new().environment(environment).build().unwrap();
    let pool = postgres::pool_with(&Identity::new(identity), &emulator.postgres_url()).unwrap();
    let stand_in = pool.get().await.unwrap();
    // Other tests share PostgreSQL's database.
    server().await.sql("CREATE SCHEMA compared AUTHORIZATION \"shop-identity\"").await;
    postgresql.batch_execute("SET search_path = compared").await.unwrap();
    for client in [&postgresql, &stand_in] {
        client.batch_execute("SET TIME ZONE 'UTC'").await.unwrap();
        client.batch_execute(SETUP).await.unwrap();
    }

    let mut wrong = String::new();
    for (statements, may_reject) in [(SUPPORTED, false), (OTHERS, true)] {
        for sql in statements {
            let expected = outcomes(&postgresql, sql).await;
            let seen = outcomes(&stand_in, sql).await;
            for (expected, seen) in expected.iter().zip(&seen) {
                if !(same(expected, seen) || may_reject && is_rejected(seen)) {
                    writeln!(wrong, "{sql}\n  PostgreSQL: {expected:?}\n  stand-in: {seen:?}")
                        .unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} lines:\n{wrong}", wrong.lines().count());
}
