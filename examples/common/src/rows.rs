//! Rows of Azure SQL.

use std::borrow::Cow;

use entra_pool::azure_sql::tiberius::{FromSql, Row, error::Error};

/// The value of a column that is `NOT NULL`.
///
/// # Errors
///
/// The value is NULL, or not a `T`.
pub fn value<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Error> {
    row.try_get(column)?.ok_or(Error::Conversion(Cow::Borrowed("the value is NULL")))
}

/// The row of a statement that always returns one row, such as `INSERT … OUTPUT`.
///
/// # Errors
///
/// There is no row.
pub fn one(row: Option<Row>) -> Result<Row, Error> {
    row.ok_or(Error::Protocol(Cow::Borrowed("the statement returned no row")))
}
