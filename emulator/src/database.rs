//! The tables of an emulated server, in a temporary SQLite file.
//!
//! Columns keep their declared type (`nvarchar(50)`, `datetime2`), from which each server
//! derives the type of values. A type that SQLite cannot parse, such as `nvarchar(max)`, must
//! be quoted.
//!
//! For Azure SQL, dates and times are ISO 8601 text with a space in the middle, UUIDs are
//! lower-case text, decimals are SQLite's numbers (15 digits are kept). PostgreSQL's values
//! are described in `postgres/values.rs`.

use std::{fmt::Display, io, path::PathBuf, time::Duration};

use rusqlite::{Connection, config::DbConfig};
use tempfile::TempDir;

/// The declared type of a column that numbers its rows, which SQLite requires.
pub(crate) const ROW_NUMBER: &str = "INTEGER";

/// An identifier in SQLite's quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Items with commas between them, as the parser prints lists.
pub(crate) fn list(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An SQLite database in a temporary folder, which is removed with this value.
#[derive(Debug)]
pub struct Database {
    folder: TempDir,
}

impl Database {
    /// An empty database.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("entra-pool-database-").tempdir()?;
        let database = Self { folder };
        let connection = database.open().map_err(io::Error::other)?;
        // So that readers and one writer do not wait for each other. The file keeps the mode.
        connection.pragma_update(None, "journal_mode", "WAL").map_err(io::Error::other)?;
        Ok(database)
    }

    /// Opens a connection for one session.
    ///
    /// It blocks: use it on threads that may block.
    pub fn open(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(self.path())?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // The file is temporary: no need to wait for the disk.
        connection.pragma_update(None, "synchronous", "OFF")?;
        // An unknown column is an error, not a string.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
        Ok(connection)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("database.sqlite")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_share_tables_and_columns_keep_their_declared_types() {
        let database = Database::new().unwrap();
        let (one, two) = (database.open().unwrap(), database.open().unwrap());
        one.execute_batch("CREATE TABLE t (at datetime2, name nvarchar(50)); INSERT INTO t VALUES ('2024-01-02', 'x')")
            .unwrap();
        let statement = two.prepare("SELECT at, name FROM t").unwrap();
        let types: Vec<_> =
            statement.columns().into_iter().map(|c| c.decl_type().map(str::to_owned)).collect();
        assert_eq!(types, [Some("datetime2".to_owned()), Some("nvarchar(50)".to_owned())]);
    }

    #[test]
    fn an_unknown_column_in_double_quotes_is_an_error() {
        let connection = Database::new().unwrap().open().unwrap();
        assert!(connection.prepare(r#"SELECT "nothing""#).is_err());
    }
}
