//! Parameters, transactions and errors. `tests/postgres/stand_in.rs` of this repository compares
//! the answers with those of a PostgreSQL server.

use tokio_postgres::Client;

use super::{Service, sqlstate};

async fn restaurants(client: &Client) {
    client
        .batch_execute(
            "CREATE TABLE restaurant (
                 id serial PRIMARY KEY,
                 name varchar(20) NOT NULL,
                 stars smallint CHECK (stars BETWEEN 1 AND 5),
                 price numeric(6, 2),
                 opened date NOT NULL DEFAULT current_date);
             CREATE TABLE review (
                 id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 restaurant_id int NOT NULL REFERENCES restaurant (id),
                 content text);
             INSERT INTO restaurant (name, stars) VALUES ('Zur Linde', 3), ('Chez Nous', 5)",
        )
        .await
        .unwrap();
}

async fn count(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM restaurant", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn parameters_and_columns_have_their_types() {
    let service = Service::start();
    let client = service.connect().await;
    restaurants(&client).await;
    let row = client
        .query_one(
            "INSERT INTO restaurant (name, stars) VALUES ($1, $2) RETURNING id, name, stars",
            &[&"Da Märio '\\", &4_i16],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>("id"), 3);
    assert_eq!(row.get::<_, String>("name"), "Da Märio '\\");
    assert_eq!(row.get::<_, i16>("stars"), 4);

    let review = "INSERT INTO review (restaurant_id, content) VALUES ($1, $2) RETURNING id";
    for (id, content) in [(1_i64, Some("good")), (2, None)] {
        let row = client.query_one(review, &[&1_i32, &content]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), id);
    }
    let rows = "SELECT restaurant.id, content, review.id > $1 FROM restaurant \
                LEFT JOIN review ON restaurant_id = restaurant.id \
                WHERE stars = $2 OR name = $3 ORDER BY review.id";
    let statement = client.prepare(rows).await.unwrap();
    let types: Vec<&str> = statement.params().iter().map(|ty| ty.name()).collect();
    assert_eq!(types, ["int8", "int2", "varchar"]);
    for _ in 0..2 {
        let rows = client.query(&statement, &[&1_i64, &3_i16, &"Chez Nous"]).await.unwrap();
        let rows: Vec<(i32, Option<&str>, Option<bool>)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        assert_eq!(rows, [(1, Some("good"), Some(false)), (1, None, Some(true)), (2, None, None)]);
    }
}

#[tokio::test]
async fn values_that_do_not_fit_are_refused() {
    let service = Service::start();
    let client = service.connect().await;
    restaurants(&client).await;
    let insert = "INSERT INTO restaurant (name, stars) VALUES ($1, $2)";
    let long = "a name of more than 20 letters";
    for (name, stars, code) in [
        (Some(long), 1_i16, "22001"),
        (Some("a\0b"), 1, "22021"),
        (Some("x"), 6, "23514"),
        (None, 1, "23502"),
    ] {
        let refused = client.execute(insert, &[&name, &stars]).await.unwrap_err();
        assert_eq!(sqlstate(&refused).0, code, "{name:?}");
    }
    assert_eq!(count(&client).await, 2);
}

#[tokio::test]
async fn unknown_constructs_are_named() {
    let service = Service::start();
    let client = service.connect().await;
    restaurants(&client).await;
    for (sql, code, part) in [
        ("SELECT DISTINCT name FROM restaurant", "0A000", "support: DISTINCT"),
        ("SELECT name FROM restaurant LIMIT 1", "0A000", "support: LIMIT 1"),
        ("SELECT count(*) FROM restaurant HAVING count(*) > 1", "0A000", "support: HAVING"),
        ("SELECT ARRAY[1, 2]", "0A000", "ARRAY[1, 2]"),
        ("SELECT 1 / 0", "0A000", "1 / 0"),
        ("SELECT id FROM restaurant ORDER BY price", "0A000", "ordering by price"),
        ("SELECT price > 1 FROM restaurant", "0A000", "numeric > int4"),
        ("SELECT length('x')", "42883", "function length"),
        ("UPDATE restaurant SET stars = 1", "0A000", "UPDATE restaurant"),
        ("CREATE TABLE point (at point)", "0A000", "the type point"),
        ("CREATE TEMP TABLE point (at int)", "0A000", "TEMPORARY"),
        ("LISTEN restaurants", "0A000", "LISTEN"),
        ("SELECT oid FROM pg_catalog.pg_type", "0A000", "pg_catalog.pg_type"),
        ("SET TIME ZONE 'Europe/Berlin'", "0A000", "timezone = europe/berlin"),
        ("SET statement_timeout = 5000", "0A000", "statement_timeout"),
        ("BEGIN READ ONLY", "0A000", "READ ONLY"),
    ] {
        let simple = sqlstate(&client.batch_execute(sql).await.unwrap_err());
        assert_eq!(simple.0, code, "{sql}: {}", simple.1);
        assert!(simple.1.contains(part), "{sql}: {}", simple.1);
        let extended = sqlstate(&client.execute(sql, &[]).await.unwrap_err());
        assert_eq!(extended, simple, "{sql}");
    }
    assert_eq!(count(&client).await, 2);
}

#[tokio::test]
async fn a_failed_transaction_accepts_only_its_end() {
    let service = Service::start();
    let client = service.connect().await;
    restaurants(&client).await;
    let insert = "INSERT INTO restaurant (name) VALUES ('new')";
    client.batch_execute("BEGIN").await.unwrap();
    client.execute(insert, &[]).await.unwrap();
    client.query("SELECT one FROM nowhere", &[]).await.unwrap_err();
    for sql in ["SELECT 1", "SET application_name = 'x'", "BEGIN"] {
        let failed = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(sqlstate(&failed).0, "25P02", "{sql}");
        let failed = client.query(sql, &[]).await.unwrap_err();
        assert_eq!(sqlstate(&failed).0, "25P02", "{sql}");
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(count(&client).await, 2, "COMMIT rolled back");
}

#[tokio::test]
async fn other_sessions_see_a_transaction_after_its_commit() {
    let service = Service::start();
    let mut client = service.connect().await;
    let other = service.connect().await;
    restaurants(&client).await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO restaurant (name) VALUES ('kept')", &[]).await.unwrap();
    assert_eq!(count(&other).await, 2);
    transaction.commit().await.unwrap();
    assert_eq!(count(&other).await, 3);
}

#[tokio::test]
async fn statements_sent_together_are_one_transaction() {
    let service = Service::start();
    let client = service.connect().await;
    restaurants(&client).await;
    let insert = "INSERT INTO restaurant (name) VALUES ('new')";
    let failed = client.batch_execute(&format!("{insert}; SELECT one FROM nowhere")).await;
    assert_eq!(sqlstate(&failed.unwrap_err()).0, "42P01");
    assert_eq!(count(&client).await, 2, "the first is undone");
    let committed = format!("{insert}; COMMIT; {insert}; SELECT one FROM nowhere");
    client.batch_execute(&committed).await.unwrap_err();
    assert_eq!(count(&client).await, 3, "committed rows are kept");
    client.batch_execute(&format!("{insert}; BEGIN; {insert}")).await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(count(&client).await, 3, "BEGIN includes the statements sent before it");
    client.batch_execute(&format!("{insert}; {insert}")).await.unwrap();
    assert_eq!(count(&client).await, 5);
    client.batch_execute("-- nothing").await.unwrap();
}
