//! T-SQL's functions and operators where SQLite's differ, as functions of a
//! session's connection.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
    types::Value,
};
use uuid::Uuid;

use super::{
    convert::{self as values, convert, overflow, text},
    error::ServerError,
    like,
    types::SqlType,
};

/// What `sp_set_session_context` has set; keys in lower case.
pub(crate) type SessionContext = Arc<Mutex<BTreeMap<String, ContextValue>>>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ContextValue {
    pub(crate) value: Value,
    pub(crate) read_only: bool,
}

type Function = fn(&[Value]) -> Result<Value, ServerError>;

/// Name, number of arguments (-1: any), and the function.
const FUNCTIONS: &[(&str, i32, Function)] = &[
    ("tsql_add", 2, |a| null_or(a, |a| add(&a[0], &a[1]))),
    ("tsql_divide", 2, |a| null_or(a, |a| divide(&a[0], &a[1]))),
    ("tsql_modulo", 2, |a| null_or(a, |a| modulo(&a[0], &a[1]))),
    ("tsql_like", 3, |a| null_or(&a[..2], |_| like(a))),
    ("tsql_len", 1, |a| {
        null_or(a, |a| {
            Ok(units(text(&a[0]).trim_end_matches(' '))
                .len()
                .try_into()
                .map_or(Value::Null, Value::Integer))
        })
    }),
    ("tsql_datalength", 1, |a| null_or(a, |a| Ok(Value::Integer(data_length(&a[0]))))),
    ("tsql_substring", 3, |a| null_or(a, substring)),
    ("tsql_left", 2, |a| {
        null_or(a, |a| substring(&[a[0].clone(), Value::Integer(1), a[1].clone()]))
    }),
    ("tsql_right", 2, |a| null_or(a, right)),
    ("tsql_replace", 3, |a| null_or(a, replace)),
    ("tsql_charindex", -1, |a| null_or(a, position)),
    ("tsql_concat", -1, |a| Ok(Value::Text(a.iter().map(text).collect()))),
    ("tsql_cast", 2, |a| cast(&a[0], &a[1])),
    ("tsql_try_cast", 2, |a| Ok(cast(&a[0], &a[1]).unwrap_or(Value::Null))),
];

/// Makes them known to `connection`.
pub(crate) fn register(connection: &Connection, session: SessionContext) -> rusqlite::Result<()> {
    for (name, arguments, function) in FUNCTIONS {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        connection
            .create_scalar_function(*name, *arguments, flags, |context| call(context, *function))?;
    }
    connection.create_scalar_function("tsql_newid", 0, FunctionFlags::SQLITE_UTF8, |_| {
        Ok(Value::Text(Uuid::new_v4().to_string()))
    })?;
    connection.create_scalar_function(
        "tsql_session_context",
        1,
        FunctionFlags::SQLITE_UTF8,
        move |context| {
            let key = context.get::<Value>(0)?;
            let session = session.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(session
                .get(&text(&key).to_lowercase())
                .map_or(Value::Null, |entry| entry.value.clone()))
        },
    )
}

fn call(context: &Context<'_>, function: Function) -> rusqlite::Result<Value> {
    let arguments: rusqlite::Result<Vec<Value>> =
        (0..context.len()).map(|index| context.get(index)).collect();
    function(&arguments?).map_err(|error| error.through_sqlite())
}

/// NULL if any argument is.
fn null_or(
    arguments: &[Value],
    function: impl FnOnce(&[Value]) -> Result<Value, ServerError>,
) -> Result<Value, ServerError> {
    if arguments.contains(&Value::Null) { Ok(Value::Null) } else { function(arguments) }
}

/// Two texts are joined; beside a number, text becomes one.
fn add(left: &Value, right: &Value) -> Result<Value, ServerError> {
    match (left, right) {
        (Value::Text(left), Value::Text(right)) => Ok(Value::Text(format!("{left}{right}"))),
        (Value::Blob(left), Value::Blob(right)) => Ok(Value::Blob([&left[..], right].concat())),
        _ => match (number(left)?, number(right)?) {
            (Value::Integer(left), Value::Integer(right)) => {
                left.checked_add(right).map(Value::Integer).ok_or_else(|| overflow(SqlType::BigInt))
            }
            (left, right) => Ok(Value::Real(real(&left)? + real(&right)?)),
        },
    }
}

fn number(value: &Value) -> Result<Value, ServerError> {
    match value {
        Value::Text(_) => values::integer(value, SqlType::Int).map(Value::Integer),
        other => Ok(other.clone()),
    }
}

fn real(value: &Value) -> Result<f64, ServerError> {
    values::real(value, SqlType::Float)
}

fn integer(value: &Value) -> Result<i64, ServerError> {
    values::integer(value, SqlType::Int)
}

fn divide_by_zero() -> ServerError {
    ServerError::new(8134, 16, "Divide by zero error encountered.")
}

fn divide(left: &Value, right: &Value) -> Result<Value, ServerError> {
    match (number(left)?, number(right)?) {
        (_, Value::Integer(0)) => Err(divide_by_zero()),
        (Value::Integer(left), Value::Integer(right)) => {
            left.checked_div(right).map(Value::Integer).ok_or_else(|| overflow(SqlType::BigInt))
        }
        (left, right) => match real(&right)? {
            0.0 => Err(divide_by_zero()),
            right => Ok(Value::Real(real(&left)? / right)),
        },
    }
}

fn modulo(left: &Value, right: &Value) -> Result<Value, ServerError> {
    match (number(left)?, number(right)?) {
        (_, Value::Integer(0)) => Err(divide_by_zero()),
        (Value::Integer(left), Value::Integer(right)) => {
            Ok(Value::Integer(left.wrapping_rem(right)))
        }
        (left, right) => match real(&right)? {
            0.0 => Err(divide_by_zero()),
            right => Ok(Value::Real(real(&left)? % right)),
        },
    }
}

fn like(arguments: &[Value]) -> Result<Value, ServerError> {
    let escape = match &arguments[2] {
        Value::Null => None,
        escape => text(escape).chars().next(),
    };
    Ok(Value::Integer(like::matches(&text(&arguments[0]), &text(&arguments[1]), escape).into()))
}

/// Lengths and positions count UTF-16 units.
fn units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn data_length(value: &Value) -> i64 {
    let length = match value {
        Value::Null => 0,
        Value::Integer(number) if i32::try_from(*number).is_ok() => 4,
        Value::Integer(_) | Value::Real(_) => 8,
        Value::Text(text) => units(text).len() * 2,
        Value::Blob(bytes) => bytes.len(),
    };
    length as i64
}

fn substring(arguments: &[Value]) -> Result<Value, ServerError> {
    let (start, length) = (integer(&arguments[1])?, integer(&arguments[2])?);
    if length < 0 {
        return Err(ServerError::new(
            537,
            16,
            "Invalid length parameter passed to the LEFT or SUBSTRING function.",
        ));
    }
    // A start before the text uses up some of the length.
    let end = start.saturating_add(length).saturating_sub(1).max(0);
    let skip = start.saturating_sub(1).max(0);
    let units = units(&text(&arguments[0]));
    let part: Vec<u16> = units.into_iter().take(end as usize).skip(skip as usize).collect();
    Ok(Value::Text(String::from_utf16_lossy(&part)))
}

fn right(arguments: &[Value]) -> Result<Value, ServerError> {
    let (units, length) = (units(&text(&arguments[0])), integer(&arguments[1])?);
    let Ok(length) = usize::try_from(length) else {
        return Err(ServerError::new(
            536,
            16,
            "Invalid length parameter passed to the RIGHT function.",
        ));
    };
    Ok(Value::Text(String::from_utf16_lossy(&units[units.len().saturating_sub(length)..])))
}

/// Without regard to case, as the collation has it.
fn replace(arguments: &[Value]) -> Result<Value, ServerError> {
    let (whole, pattern, with) = (text(&arguments[0]), text(&arguments[1]), text(&arguments[2]));
    let (lower, pattern) = (whole.to_ascii_lowercase(), pattern.to_ascii_lowercase());
    if pattern.is_empty() {
        return Ok(Value::Text(whole));
    }
    let mut replaced = String::new();
    let mut at = 0;
    while let Some(found) = lower[at..].find(&pattern) {
        replaced.push_str(&whole[at..at + found]);
        replaced.push_str(&with);
        at += found + pattern.len();
    }
    replaced.push_str(&whole[at..]);
    Ok(Value::Text(replaced))
}

fn position(arguments: &[Value]) -> Result<Value, ServerError> {
    let (pattern, whole) = (
        units(&text(&arguments[0]).to_ascii_lowercase()),
        units(&text(&arguments[1]).to_ascii_lowercase()),
    );
    let start = match arguments.get(2) {
        Some(start) => usize::try_from(integer(start)? - 1).unwrap_or(0),
        None => 0,
    };
    if pattern.is_empty() || start >= whole.len() {
        return Ok(Value::Integer(0));
    }
    let found = whole[start..].windows(pattern.len()).position(|window| window == pattern);
    Ok(Value::Integer(found.map_or(0, |found| (start + found + 1) as i64)))
}

fn cast(value: &Value, declared: &Value) -> Result<Value, ServerError> {
    match SqlType::parse(&text(declared)) {
        Some(sql_type) => convert(value, sql_type),
        None => Err(ServerError::unsupported(text(declared))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        register(&connection, SessionContext::default()).unwrap();
        connection
    }

    #[test]
    fn functions_answer_as_tsql_does() {
        let connection = connection();
        for (sql, expected) in [
            ("tsql_add('a', 'b')", Value::Text("ab".into())),
            ("tsql_add('1', 2)", Value::Integer(3)),
            ("tsql_add(NULL, 'b')", Value::Null),
            ("tsql_divide(7, 2)", Value::Integer(3)),
            ("tsql_divide(7, 2.0)", Value::Real(3.5)),
            ("tsql_modulo(-7, 4)", Value::Integer(-3)),
            ("tsql_len('né  ')", Value::Integer(2)),
            ("tsql_datalength('né  ')", Value::Integer(8)),
            ("tsql_substring('abcdef', 2, 3)", Value::Text("bcd".into())),
            ("tsql_substring('abcdef', 0, 3)", Value::Text("ab".into())),
            ("tsql_left('abc', 9)", Value::Text("abc".into())),
            ("tsql_right('abc', 2)", Value::Text("bc".into())),
            ("tsql_replace('aBc abc', 'B', '-')", Value::Text("a-c a-c".into())),
            ("tsql_charindex('C', 'abcabc')", Value::Integer(3)),
            ("tsql_charindex('c', 'abcabc', 4)", Value::Integer(6)),
            ("tsql_charindex('x', 'abc')", Value::Integer(0)),
            ("tsql_concat('a', NULL, 1)", Value::Text("a1".into())),
            ("tsql_cast('12.345', 'decimal(5,2)')", Value::Real(12.35)),
            ("tsql_cast(2.9, 'int')", Value::Integer(2)),
            ("tsql_cast('2024-01-02T03:04:05', 'date')", Value::Text("2024-01-02".into())),
            ("tsql_cast(12345, 'nvarchar(3)')", Value::Text("123".into())),
            ("tsql_try_cast('x', 'int')", Value::Null),
            ("tsql_like('Straw', 's_r%', NULL)", Value::Integer(1)),
            ("tsql_session_context('k')", Value::Null),
        ] {
            let value: Value =
                connection.query_row(&format!("SELECT {sql}"), [], |row| row.get(0)).expect(sql);
            assert_eq!(value, expected, "{sql}");
        }
    }

    #[test]
    fn errors_keep_their_numbers_through_sqlite() {
        let connection = connection();
        for (sql, number) in [
            ("tsql_divide(1, 0)", 8134),
            ("tsql_add('x', 1)", 245),
            ("tsql_cast('x', 'date')", 241),
            ("tsql_cast(300, 'tinyint')", 8115),
            ("tsql_substring('a', 1, -1)", 537),
        ] {
            let error = connection.query_row(&format!("SELECT {sql}"), [], |_| Ok(())).unwrap_err();
            assert_eq!(ServerError::from(error).number, number, "{sql}");
        }
    }
}
