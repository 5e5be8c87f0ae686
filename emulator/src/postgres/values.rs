//! Values: what PostgreSQL calls their types, how SQLite keeps them, and how
//! they look on the wire, as text and as binary.
//!
//! SQLite keeps integers, booleans (0 and 1), floats, text and blobs; dates,
//! times, UUIDs and numerics are kept as the text PostgreSQL would print, times
//! with time zone in UTC.

use pgwire::api::Type;
use rusqlite::types::Value;

use super::{error::SqlError, time_text};

/// The type of this name, as written in `CREATE TABLE` and `::`.
pub(super) fn type_by_name(name: &str) -> Option<Type> {
    Some(match base_name(name).as_str() {
        "smallint" | "int2" | "smallserial" | "serial2" => Type::INT2,
        "integer" | "int" | "int4" | "serial" | "serial4" => Type::INT4,
        "bigint" | "int8" | "bigserial" | "serial8" => Type::INT8,
        "real" | "float4" => Type::FLOAT4,
        "double precision" | "double" | "float8" | "float" => Type::FLOAT8,
        "boolean" | "bool" => Type::BOOL,
        "text" => Type::TEXT,
        "varchar" | "character varying" => Type::VARCHAR,
        "char" | "character" | "bpchar" => Type::BPCHAR,
        "name" => Type::NAME,
        "timestamptz" | "timestamp with time zone" => Type::TIMESTAMPTZ,
        "timestamp" | "timestamp without time zone" => Type::TIMESTAMP,
        "date" => Type::DATE,
        "uuid" => Type::UUID,
        "bytea" => Type::BYTEA,
        "numeric" | "decimal" | "dec" => Type::NUMERIC,
        "json" => Type::JSON,
        "jsonb" => Type::JSONB,
        "oid" => Type::OID,
        "void" => Type::VOID,
        _ => return None,
    })
}

/// In lower case, without what stands in parentheses: `VARCHAR(20)`.
fn base_name(name: &str) -> String {
    let mut depth = 0;
    let bare: String = name
        .chars()
        .filter(|c| {
            depth += i32::from(*c == '(');
            let outside = depth == 0;
            depth -= i32::from(*c == ')');
            outside
        })
        .collect();
    let words: Vec<&str> = bare.split_whitespace().collect();
    words.join(" ").trim_matches('"').to_ascii_lowercase()
}

fn invalid(ty: &Type, text: &str) -> SqlError {
    let name = long_name(ty);
    SqlError::new("22P02", format!("invalid input syntax for type {name}: \"{text}\""))
}

pub(super) fn long_name(ty: &Type) -> &str {
    match *ty {
        Type::INT2 => "smallint",
        Type::INT4 => "integer",
        Type::INT8 => "bigint",
        Type::FLOAT4 => "real",
        Type::FLOAT8 => "double precision",
        Type::BOOL => "boolean",
        Type::TIMESTAMPTZ => "timestamp with time zone",
        Type::TIMESTAMP => "timestamp without time zone",
        _ => ty.name(),
    }
}

/// `value` as SQLite keeps values of `ty`: what `::` does.
pub(super) fn cast(value: Value, ty: &Type) -> Result<Value, SqlError> {
    if value == Value::Null {
        return Ok(Value::Null);
    }
    Ok(match *ty {
        Type::INT2 => Value::Integer(integer(value, ty, i16::MIN.into(), i16::MAX.into())?),
        Type::INT4 => Value::Integer(integer(value, ty, i32::MIN.into(), i32::MAX.into())?),
        Type::INT8 => Value::Integer(integer(value, ty, i64::MIN, i64::MAX)?),
        Type::OID => Value::Integer(integer(value, ty, 0, u32::MAX.into())?),
        Type::FLOAT4 | Type::FLOAT8 => Value::Real(float(value, ty)?),
        Type::BOOL => Value::Integer(boolean(value)?.into()),
        Type::BYTEA => Value::Blob(bytes(value)?),
        Type::VOID => Value::Text(String::new()),
        _ => Value::Text(text_of(value, ty)?),
    })
}

fn text_of(value: Value, ty: &Type) -> Result<String, SqlError> {
    let text = plain_text(value);
    let fail = || {
        if matches!(*ty, Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::DATE) {
            SqlError { code: "22007".to_owned(), ..invalid(ty, &text) }
        } else {
            invalid(ty, &text)
        }
    };
    Ok(match *ty {
        Type::TIMESTAMPTZ | Type::TIMESTAMP => {
            let with_zone = *ty == Type::TIMESTAMPTZ;
            let micros = time_text::parse_timestamp(&text, with_zone).ok_or_else(fail)?;
            time_text::format_timestamp(micros, with_zone).ok_or_else(fail)?
        }
        Type::DATE => {
            let days = time_text::parse_date(&text).ok_or_else(fail)?;
            time_text::format_date(days).ok_or_else(fail)?
        }
        Type::UUID => uuid::Uuid::try_parse(text.trim()).map_err(|_| fail())?.to_string(),
        Type::NUMERIC => {
            let number = text.trim();
            if Decimal::parse(number).is_none() {
                return Err(fail());
            }
            number.to_owned()
        }
        Type::JSON | Type::JSONB => {
            serde_json::from_str::<serde_json::Value>(&text).map_err(|_| fail())?;
            text
        }
        _ => text,
    })
}

fn plain_text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text,
        Value::Blob(bytes) => hex(&bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn integer(value: Value, ty: &Type, min: i64, max: i64) -> Result<i64, SqlError> {
    let out_of_range = || SqlError::new("22003", format!("{} out of range", long_name(ty)));
    let number = match value {
        Value::Integer(number) => number,
        // Half to even, as rint() does there.
        Value::Real(number) => {
            let rounded = number.round_ties_even();
            #[allow(clippy::cast_possible_truncation)]
            let whole = rounded as i64;
            if rounded.is_nan() || (rounded - whole as f64).abs() > 0.5 {
                return Err(out_of_range());
            }
            whole
        }
        other => {
            let text = plain_text(other);
            text.trim().parse().map_err(|_| invalid(ty, &text))?
        }
    };
    if (min..=max).contains(&number) { Ok(number) } else { Err(out_of_range()) }
}

fn float(value: Value, ty: &Type) -> Result<f64, SqlError> {
    match value {
        Value::Integer(number) => Ok(number as f64),
        Value::Real(number) => Ok(number),
        other => {
            let text = plain_text(other);
            text.trim().parse().map_err(|_| invalid(ty, &text))
        }
    }
}

fn boolean(value: Value) -> Result<bool, SqlError> {
    match value {
        Value::Integer(number) => Ok(number != 0),
        other => {
            let text = plain_text(other);
            match text.trim().to_ascii_lowercase().as_str() {
                "t" | "true" | "yes" | "y" | "on" | "1" => Ok(true),
                "f" | "false" | "no" | "n" | "off" | "0" => Ok(false),
                _ => Err(invalid(&Type::BOOL, &text)),
            }
        }
    }
}

fn bytes(value: Value) -> Result<Vec<u8>, SqlError> {
    let text = match value {
        Value::Blob(bytes) => return Ok(bytes),
        other => plain_text(other),
    };
    let Some(digits) = text.strip_prefix("\\x") else {
        return Ok(text.into_bytes());
    };
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect::<Option<_>>().ok_or_else(|| invalid(&Type::BYTEA, &text))
}

/// As PostgreSQL prints it.
pub(super) fn to_text(value: Value, ty: &Type) -> Result<Vec<u8>, SqlError> {
    let value = cast(value, ty)?;
    Ok(match (value, ty) {
        (Value::Integer(flag), &Type::BOOL) => if flag == 0 { "f" } else { "t" }.into(),
        (value, _) => plain_text(value).into_bytes(),
    })
}

/// As PostgreSQL's `…send` functions have it.
pub(super) fn to_binary(value: Value, ty: &Type) -> Result<Vec<u8>, SqlError> {
    let value = cast(value, ty)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(match (value, ty) {
        (Value::Integer(number), &Type::BOOL) => vec![u8::from(number != 0)],
        (Value::Integer(number), &Type::INT2) => (number as i16).to_be_bytes().into(),
        (Value::Integer(number), &Type::INT4) => (number as i32).to_be_bytes().into(),
        (Value::Integer(number), &Type::OID) => (number as u32).to_be_bytes().into(),
        (Value::Integer(number), _) => number.to_be_bytes().into(),
        (Value::Real(number), &Type::FLOAT4) => (number as f32).to_be_bytes().into(),
        (Value::Real(number), _) => number.to_be_bytes().into(),
        (Value::Blob(bytes), _) => bytes,
        (Value::Null, _) => Vec::new(),
        (Value::Text(text), ty) => match *ty {
            Type::TIMESTAMPTZ | Type::TIMESTAMP => {
                let micros = time_text::parse_timestamp(&text, *ty == Type::TIMESTAMPTZ);
                micros.ok_or_else(|| invalid(ty, &text))?.to_be_bytes().into()
            }
            Type::DATE => {
                let days = time_text::parse_date(&text).ok_or_else(|| invalid(ty, &text))?;
                days.to_be_bytes().into()
            }
            Type::UUID => {
                let uuid = uuid::Uuid::try_parse(&text).map_err(|_| invalid(ty, &text))?;
                uuid.into_bytes().into()
            }
            Type::NUMERIC => Decimal::parse(&text).ok_or_else(|| invalid(ty, &text))?.to_binary(),
            // A version number comes first.
            Type::JSONB => [&[1], text.as_bytes()].concat(),
            _ => text.into_bytes(),
        },
    })
}

/// A parameter as it came in binary.
pub(super) fn from_binary(bytes: &[u8], ty: &Type) -> Result<Value, SqlError> {
    let wrong =
        |_| SqlError::new("22P03", format!("incorrect binary data format for {}", long_name(ty)));
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec())
            .map(Value::Text)
            .map_err(|_| SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\""))
    };
    let value = match *ty {
        Type::BOOL => Value::Integer(u8::from_be_bytes(bytes.try_into().map_err(wrong)?).into()),
        Type::INT2 => Value::Integer(i16::from_be_bytes(bytes.try_into().map_err(wrong)?).into()),
        Type::INT4 => Value::Integer(i32::from_be_bytes(bytes.try_into().map_err(wrong)?).into()),
        Type::INT8 => Value::Integer(i64::from_be_bytes(bytes.try_into().map_err(wrong)?)),
        Type::OID => Value::Integer(u32::from_be_bytes(bytes.try_into().map_err(wrong)?).into()),
        Type::FLOAT4 => Value::Real(f32::from_be_bytes(bytes.try_into().map_err(wrong)?).into()),
        Type::FLOAT8 => Value::Real(f64::from_be_bytes(bytes.try_into().map_err(wrong)?)),
        Type::TIMESTAMPTZ | Type::TIMESTAMP => {
            let micros = i64::from_be_bytes(bytes.try_into().map_err(wrong)?);
            let text = time_text::format_timestamp(micros, *ty == Type::TIMESTAMPTZ);
            Value::Text(text.ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?)
        }
        Type::DATE => {
            let days = i32::from_be_bytes(bytes.try_into().map_err(wrong)?);
            let text = time_text::format_date(days);
            Value::Text(text.ok_or_else(|| SqlError::new("22008", "date out of range"))?)
        }
        Type::UUID => {
            let uuid = uuid::Uuid::from_bytes(bytes.try_into().map_err(wrong)?);
            Value::Text(uuid.to_string())
        }
        Type::BYTEA => Value::Blob(bytes.to_vec()),
        Type::NUMERIC => Value::Text(
            Decimal::from_binary(bytes)
                .ok_or_else(|| SqlError::new("22P03", "invalid numeric"))?
                .to_string(),
        ),
        Type::JSONB => text(bytes.get(1..).unwrap_or_default())?,
        _ => text(bytes)?,
    };
    Ok(value)
}

/// A parameter as it came in text.
pub(super) fn from_text(bytes: &[u8], ty: &Type) -> Result<Value, SqlError> {
    let text = from_binary(bytes, &Type::TEXT)?;
    cast(text, ty)
}

pub(super) use super::decimal::Decimal;
