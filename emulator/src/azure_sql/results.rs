//! A query's rows, and the types of its columns.

use rusqlite::{ColumnMetadata, Connection, params_from_iter, types::Value};

use super::{
    error::ServerError,
    tokens::{Answer, Column},
    tsql::Shape,
    types::SqlType,
    values,
};
use crate::database::{ROW_NUMBER_INT, is_row_number_bigint};

/// A result.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Value>>,
}

/// Runs a query. `probe` has the same columns, and tells their types.
pub(crate) fn query(
    connection: &Connection,
    sql: &str,
    probe: &str,
    parameters: Vec<Value>,
    limit: u64,
) -> Result<Rows, ServerError> {
    let mut statement = connection.prepare(sql)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let known = column_types(connection, probe)?;
    let mut rows = Vec::new();
    let mut found = statement.query(params_from_iter(parameters))?;
    while let Some(row) = found.next()? {
        // A change with OUTPUT has happened whole by its first row.
        if rows.len() as u64 == limit {
            break;
        }
        rows.push((0..names.len()).map(|index| row.get(index)).collect::<Result<Vec<Value>, _>>()?);
    }
    drop(found);
    let columns = names
        .into_iter()
        .enumerate()
        .map(|(index, name)| {
            let known = known.get(index).copied().flatten();
            let sql_type = known.unwrap_or_else(|| type_of(rows.iter().map(|row| &row[index])));
            Column { name, sql_type }
        })
        .collect();
    Ok(Rows { columns, rows })
}

fn column_types(connection: &Connection, probe: &str) -> Result<Vec<Option<SqlType>>, ServerError> {
    let statement = connection.prepare(probe)?;
    let columns = statement.columns().zip(statement.columns_with_metadata());
    let declared = |column: &rusqlite::Column<'_>, origin: &ColumnMetadata<'_>| {
        let names = (origin.database_name()?, origin.table_name()?, origin.origin_name()?);
        match column.decl_type()? {
            // The width of a row number is in the table's definition only.
            ROW_NUMBER_INT if is_row_number_bigint(connection, names.0, names.1, names.2) => {
                Some("bigint")
            }
            declared => Some(declared),
        }
        .map(str::to_owned)
    };
    Ok(columns
        .map(|(column, origin)| {
            Shape::resolve(column.name(), declared(&column, &origin).as_deref())
        })
        .collect())
}

/// What holds all of these values.
fn type_of<'a>(values: impl Iterator<Item = &'a Value>) -> SqlType {
    let mut widest = None;
    for value in values {
        let own = match value {
            Value::Null => continue,
            Value::Integer(number) if i32::try_from(*number).is_ok() => SqlType::Int,
            Value::Integer(_) => SqlType::BigInt,
            Value::Real(_) => SqlType::Float,
            Value::Text(text) if text.encode_utf16().count() <= 4000 => {
                SqlType::NVarChar(Some(4000))
            }
            Value::Text(_) => SqlType::NVarChar(None),
            Value::Blob(_) => SqlType::VarBinary(None),
        };
        widest = Some(match (widest, own) {
            (None, own) => own,
            (Some(SqlType::Int), own @ (SqlType::BigInt | SqlType::Float)) => own,
            (Some(SqlType::BigInt), SqlType::Float) => SqlType::Float,
            (Some(SqlType::NVarChar(Some(_))), SqlType::NVarChar(None)) => SqlType::NVarChar(None),
            (Some(widest), own) if widest.is_text() == own.is_text() => widest,
            // Of numbers and text, text holds both.
            _ => SqlType::NVarChar(None),
        });
    }
    widest.unwrap_or(SqlType::Int)
}

impl Rows {
    /// Writes columns and rows; nothing, if a value does not fit its column.
    pub(crate) fn write(&self, answer: &mut Answer) -> Result<(), ServerError> {
        let mut encoded = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let mut bytes = Vec::new();
            for (value, column) in row.iter().zip(&self.columns) {
                values::write(value, column.sql_type, &mut bytes)?;
            }
            encoded.push(bytes);
        }
        answer.columns(&self.columns);
        encoded.iter().for_each(|row| answer.row(row));
        Ok(())
    }
}
