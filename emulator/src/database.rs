//! A SQLite database in a temporary folder.

use std::{io, time::Duration};

use rusqlite::Connection;
use tempfile::TempDir;

/// The database; its file goes when this value does.
#[derive(Debug)]
pub struct Database {
    folder: TempDir,
}

impl Database {
    /// An empty database.
    ///
    /// # Errors
    ///
    /// The temporary folder cannot be written.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("entra-pool-database-").tempdir()?;
        let database = Self { folder };
        let sqlite = database.open().map_err(io::Error::other)?;
        sqlite.pragma_update(None, "journal_mode", "WAL").map_err(io::Error::other)?;
        Ok(database)
    }

    /// A new connection.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(&self) -> rusqlite::Result<Connection> {
        let sqlite = Connection::open(self.folder.path().join("database.sqlite"))?;
        sqlite.busy_timeout(Duration::from_secs(5))?;
        Ok(sqlite)
    }
}
