//! A long result needs little memory: by default 100,000 rows, or `ENTRA_POOL_TEST_ROWS`. A
//! million rows need no more.

use examples_test_support::Application;

use crate::{PROGRAM, environment, postgres::Postgres, world};

const LIMIT: u64 = 100 * 1024 * 1024;

/// About 100 bytes per row.
const COLUMNS: &str =
    "n AS id, 'a text of which there are some sixty characters in each row' AS item";

fn rows() -> usize {
    match std::env::var("ENTRA_POOL_TEST_ROWS") {
        Ok(rows) => rows.parse().expect("a number"),
        Err(_) => 100_000,
    }
}

/// Reads the whole report without keeping it.
async fn read(application: &Application, format: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/report/{format}", application.address());
    let started = std::time::Instant::now();
    let mut answer = client.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", application.log());
    let (mut lines, mut bytes) = (0, 0);
    while let Some(chunk) = answer.chunk().await.unwrap() {
        let ends = if format == "json" { b'}' } else { b'\n' };
        lines += chunk.iter().filter(|byte| **byte == ends).count();
        bytes += chunk.len();
    }
    let header = usize::from(format == "csv");
    assert_eq!(lines, rows() + header, "{}", application.log());
    let peak = application.peak_memory();
    println!(
        "{format}: {} rows, {bytes} bytes in {:?}; at most {peak} bytes of memory",
        rows(),
        started.elapsed()
    );
    assert!(peak < LIMIT, "{peak}");
}

#[tokio::test]
async fn a_long_result_of_azure_sql_needs_little_memory() {
    let world = world().await;
    world.sql("CREATE TABLE numbers (n int NOT NULL PRIMARY KEY)").await;
    let values: Vec<String> = (0..1_000).map(|n| format!("({n})")).collect();
    world.sql(&format!("INSERT INTO numbers VALUES {}", values.join(", "))).await;
    let query = format!(
        "SELECT TOP ({}) {} FROM numbers AS a, numbers AS b",
        rows(),
        COLUMNS.replace("n AS id", "a.n * 1000 + b.n AS id").replace("'a", "N'a")
    );
    // The emulator computes the whole result before it sends the first row.
    let mut environment = environment(&world, &query);
    environment.push(("REQUEST_TIMEOUT", "600".to_owned()));
    let string = format!("{};Command Timeout=600", world.azure_sql_string("Active Directory MSI"));
    environment.push(("AZURE_SQL_CONNECTIONSTRING", string));
    let application = Application::start(PROGRAM, environment).await;
    for format in ["csv", "json"] {
        read(&application, format).await;
    }
}

#[tokio::test]
async fn a_long_result_of_postgresql_needs_little_memory() {
    let postgres = Postgres::start().await;
    let query = format!("SELECT {COLUMNS} FROM generate_series(1, {}) AS n", rows());
    let application = postgres.application(&query).await;
    for format in ["csv", "json"] {
        read(&application, format).await;
    }
}
