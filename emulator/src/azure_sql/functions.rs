//! T-SQL's operators where SQLite's differ, as functions of a session's connection. Types are
//! passed with the values, since SQLite does not have them.

use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
    types::Value,
};

use super::{
    convert::{convert, in_range, overflow, store},
    error::ServerError,
    types::SqlType,
};

type Result<T> = std::result::Result<T, ServerError>;

type Function = fn(&[Value]) -> Result<Value>;

/// Name, number of arguments, and the function.
const FUNCTIONS: &[(&str, i32, Function)] = &[
    // The value, its type, and the type to convert it to.
    ("tsql_cast", 3, |a| convert(&a[0], sql_type(&a[1])?, sql_type(&a[2])?)),
    // The same, and the column.
    ("tsql_store", 4, |a| store(&a[0], sql_type(&a[1])?, sql_type(&a[2])?, text(&a[3]))),
    ("tsql_math", 4, math),
    ("tsql_equal_key", 1, equal_key),
];

/// Registers the functions with `connection`.
pub(crate) fn register(connection: &Connection) -> rusqlite::Result<()> {
    for (name, arguments, function) in FUNCTIONS {
        // CHECK accepts deterministic functions only.
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        let call = |context: &Context<'_>| {
            let arguments: rusqlite::Result<Vec<Value>> =
                (0..context.len()).map(|index| context.get(index)).collect();
            function(&arguments?).map_err(|error| error.through_sqlite())
        };
        connection.create_scalar_function(*name, *arguments, flags, call)?;
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    if let Value::Text(text) = value { text } else { "" }
}

fn sql_type(value: &Value) -> Result<SqlType> {
    SqlType::parse(text(value)).ok_or_else(|| ServerError::unsupported(text(value)))
}

/// Left, operator, right and the result's type, all of integers.
fn math(arguments: &[Value]) -> Result<Value> {
    let [Value::Integer(left), operator, Value::Integer(right), result] = arguments else {
        return Ok(Value::Null);
    };
    let (left, right, result) = (i128::from(*left), i128::from(*right), sql_type(result)?);
    let number = match text(operator) {
        "+" => left + right,
        "-" => left - right,
        "*" => left * right,
        _ if right == 0 => {
            return Err(ServerError::new(8134, 16, "Divide by zero error encountered."));
        }
        "/" => left / right,
        _ => left % right,
    };
    in_range(number, result).ok_or_else(|| overflow(result))
}

/// A key for comparisons: equal texts have equal keys. Case and trailing spaces are ignored. The
/// collation's rules for characters outside ASCII are not implemented.
fn equal_key(arguments: &[Value]) -> Result<Value> {
    let Value::Text(text) = &arguments[0] else { return Ok(Value::Null) };
    match text.chars().find(|c| !matches!(c, ' '..='~')) {
        Some(c) => Err(ServerError::unsupported(format_args!("{c} in a comparison"))),
        None => Ok(Value::Text(text.trim_end_matches(' ').to_lowercase())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_numbers_through_sqlite() {
        let connection = Connection::open_in_memory().unwrap();
        register(&connection).unwrap();
        for (sql, number) in [
            ("tsql_math(1, '/', 0, 'int')", 8134),
            ("tsql_cast('x', 'varchar(1)', 'int')", 102),
            ("tsql_cast('x', 'varchar(1)', 'date')", 102),
            ("tsql_cast(300, 'int', 'tinyint')", 220),
            ("tsql_cast(1, 'int', 'geometry')", 102),
            ("tsql_store('ab', 'varchar(2)', 'varchar(1)', 'name')", 2628),
            ("tsql_equal_key('ß')", 102),
        ] {
            let error = connection.query_row(&format!("SELECT {sql}"), [], |_| Ok(())).unwrap_err();
            assert_eq!(ServerError::from(error).number, number, "{sql}");
        }
    }
}
