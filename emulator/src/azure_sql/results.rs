//! A query's rows.

use rusqlite::{Connection, params_from_iter, types::Value};

use super::{
    error::ServerError,
    tokens::{Answer, Column},
    values,
};

/// Runs a query for `limit` rows.
pub(crate) fn rows(
    connection: &Connection,
    sql: &str,
    parameters: Vec<Value>,
    limit: u64,
) -> Result<Vec<Vec<Value>>, ServerError> {
    let mut statement = connection.prepare(sql)?;
    let width = statement.column_count();
    let mut rows = Vec::new();
    let mut found = statement.query(params_from_iter(parameters))?;
    while let Some(row) = found.next()? {
        // A change with OUTPUT has happened whole by its first row.
        if rows.len() as u64 == limit {
            break;
        }
        rows.push((0..width).map(|index| row.get(index)).collect::<Result<Vec<Value>, _>>()?);
    }
    Ok(rows)
}

/// Writes columns and rows; nothing, if a value cannot be written.
pub(crate) fn write(
    columns: &[Column],
    rows: &[Vec<Value>],
    answer: &mut Answer,
) -> Result<(), ServerError> {
    let mut encoded = Vec::with_capacity(rows.len());
    for row in rows {
        let mut bytes = Vec::new();
        for (value, column) in row.iter().zip(columns) {
            values::write(value, column.sql_type, &mut bytes)?;
        }
        encoded.push(bytes);
    }
    answer.columns(columns);
    encoded.iter().for_each(|row| answer.row(row));
    Ok(())
}
