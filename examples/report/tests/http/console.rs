//! On the console, the standard output has only the table.

use examples_test_support::World;
use tokio::process::Command;

use crate::{PROGRAM, environment, world};

/// Runs `report print`. Returns its standard output.
async fn print(environment: Vec<(&'static str, String)>) -> String {
    let mut command = Command::new(PROGRAM);
    let output = command.arg("print").env_clear().envs(environment).output().await.unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");
    assert!(log.contains("token fetched"), "{log}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_console_shows_the_table_without_the_log() {
    let world = world().await;
    let query = "SELECT id, amount FROM sales ORDER BY id";
    let expected = "+----+--------+\n| id | amount |\n+----+--------+\n\
                    | 1  | 3.50   |\n| 2  | 4.20   |\n| 3  |        |\n+----+--------+\n";
    assert_eq!(print(environment(&world, query)).await, expected);

    let world = World::with_postgres(include_str!("../../setup.postgres.sql")).await;
    let mut environment = world.environment();
    environment.push(("REPORT_DATABASE", "postgresql".to_owned()));
    let table = print(environment).await;
    assert!(table.contains("| 1  | Bread              | 3.50   | 2026-11-01 |"), "{table}");
}
