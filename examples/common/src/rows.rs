//! Rows of Azure SQL, where the table's definition says what cannot be missing.

use std::borrow::Cow;

use entra_pool::azure_sql::tiberius::{FromSql, Row, error::Error};

/// A column that is `NOT NULL`.
///
/// # Errors
///
/// It is NULL after all, or no `T`.
pub fn value<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Error> {
    row.try_get(column)?.ok_or(Error::Conversion(Cow::Borrowed("the value is NULL")))
}

/// The row of a statement that always answers with one, as `INSERT … OUTPUT`.
///
/// # Errors
///
/// There is none.
pub fn one(row: Option<Row>) -> Result<Row, Error> {
    row.ok_or(Error::Protocol(Cow::Borrowed("the statement answered without a row")))
}
