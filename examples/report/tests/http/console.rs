//! On the console: the table on the standard output, and nothing else there.

use tokio::process::Command;

use crate::{PROGRAM, environment, world};

#[tokio::test]
async fn the_console_shows_the_table_and_the_log_stands_beside() {
    let world = world().await;
    let environment = environment(&world, "SELECT id, amount FROM sales ORDER BY id");
    for environment in [environment, [("REPORT_DATABASE", "postgresql".to_owned())].into()] {
        let emulated = environment.len() == 1;
        let mut command = Command::new(PROGRAM);
        let output = command.arg("print").env_clear().envs(environment).output().await.unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{log}");
        assert!(log.contains("token fetched"), "{log}");
        if emulated {
            assert!(table.contains("| 1  | Bread              | 3.50   | 2026-11-01 |"), "{table}");
        } else {
            let expected = "+----+--------+\n| id | amount |\n+----+--------+\n\
                            | 1  | 3.50   |\n| 2  | 4.20   |\n| 3  |        |\n+----+--------+\n";
            assert_eq!(table, expected);
        }
    }
}
