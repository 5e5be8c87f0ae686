//! T-SQL's operators and functions where SQLite's differ, as functions of a session's
//! connection. Types go with the values, since SQLite does not have them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

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

/// What `sp_set_session_context` has set; keys in lower case.
pub(crate) type SessionContext = Arc<Mutex<BTreeMap<String, (Value, SqlType)>>>;

type Function = fn(&[Value]) -> Result<Value>;

/// Name, number of arguments, and the function.
const FUNCTIONS: &[(&str, i32, Function)] = &[
    // value, its type, the type that it is to have
    ("tsql_cast", 3, |a| convert(&a[0], sql_type(&a[1])?, sql_type(&a[2])?)),
    // … and the column where it goes
    ("tsql_store", 4, |a| store(&a[0], sql_type(&a[1])?, sql_type(&a[2])?, text(&a[3]))),
    ("tsql_math", 4, math),
    ("tsql_equal_key", 1, |a| key(&a[0], is_in_equality)),
    ("tsql_order_key", 1, |a| key(&a[0], |c| c == ' ' || c.is_ascii_alphanumeric())),
    ("tsql_len", 1, |a| match &a[0] {
        Value::Text(text) => {
            let units = text.trim_end_matches(' ').encode_utf16().count();
            Ok(Value::Integer(units as i64))
        }
        _ => Ok(Value::Null),
    }),
    ("tsql_top", 1, |a| match a[0] {
        Value::Integer(count @ 0..) => Ok(Value::Integer(count)),
        _ => Err(ServerError::new(127, 15, "A TOP N or FETCH rowcount value may not be negative.")),
    }),
];

/// Makes them known to `connection`.
pub(crate) fn register(connection: &Connection, session: SessionContext) -> rusqlite::Result<()> {
    for (name, arguments, function) in FUNCTIONS {
        // Without the latter, CHECK does not take them.
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        let call = |context: &Context<'_>| {
            let arguments: rusqlite::Result<Vec<Value>> =
                (0..context.len()).map(|index| context.get(index)).collect();
            function(&arguments?).map_err(|error| error.through_sqlite())
        };
        connection.create_scalar_function(*name, *arguments, flags, call)?;
    }
    let flags = FunctionFlags::SQLITE_UTF8;
    connection.create_scalar_function("tsql_session_context", 2, flags, move |context| {
        let (key, to) = (context.get::<String>(0)?, context.get::<Value>(1)?);
        let session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((value, from)) = session.get(&key.to_lowercase()) else { return Ok(Value::Null) };
        sql_type(&to).and_then(|to| convert(value, *from, to)).map_err(|e| e.through_sqlite())
    })
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

/// What is equal without regard to case, and to nothing else: of what else there is, `ß` equals
/// `ss`, and characters that the collation does not know equal nothing at all.
fn is_in_equality(c: char) -> bool {
    const EXPANDED: &str = "ÆÐØÞßæðøþ×÷";
    matches!(c, ' '..='~' | 'À'..='ÿ') && !EXPANDED.contains(c)
}

/// What stands for a text in comparisons, which know neither case nor blanks at the end.
fn key(value: &Value, is_known: fn(char) -> bool) -> Result<Value> {
    let Value::Text(text) = value else { return Ok(Value::Null) };
    let text = text.trim_end_matches(' ');
    match text.chars().find(|c| !is_known(*c)) {
        Some(c) => Err(ServerError::unsupported(format_args!("{c} in a comparison"))),
        None => Ok(Value::Text(text.to_lowercase())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_numbers_through_sqlite() {
        let connection = Connection::open_in_memory().unwrap();
        register(&connection, SessionContext::default()).unwrap();
        for (sql, number) in [
            ("tsql_math(1, '/', 0, 'int')", 8134),
            ("tsql_cast('x', 'varchar(1)', 'int')", 245),
            ("tsql_cast('x', 'varchar(1)', 'date')", 241),
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
