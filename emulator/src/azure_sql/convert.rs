//! Values of one type from values of another, as CAST makes them.

use rusqlite::types::Value;
use uuid::Uuid;

use super::{
    bytes::utf16, code_page::from_windows_1252, decimal::Decimal, error::ServerError,
    moments::Moment, types::SqlType,
};

/// `value` as one of this type.
pub(crate) fn convert(value: &Value, sql_type: SqlType) -> Result<Value, ServerError> {
    let within = |least: i64, most: i64| match integer(value, sql_type)? {
        number if (least..=most).contains(&number) => Ok(Value::Integer(number)),
        _ => Err(overflow(sql_type)),
    };
    let cut = |length: Option<u16>| {
        let units = text(value).encode_utf16().collect::<Vec<u16>>();
        let length = length.map_or(units.len(), |length| units.len().min(length.into()));
        Value::Text(String::from_utf16_lossy(&units[..length]))
    };
    if *value == Value::Null {
        return Ok(Value::Null);
    }
    match sql_type {
        SqlType::Bit => match value {
            Value::Text(text) if text.eq_ignore_ascii_case("true") => Ok(Value::Integer(1)),
            Value::Text(text) if text.eq_ignore_ascii_case("false") => Ok(Value::Integer(0)),
            _ => Ok(Value::Integer((real(value, sql_type)? != 0.0).into())),
        },
        SqlType::TinyInt => within(0, 255),
        SqlType::SmallInt => within(i16::MIN.into(), i16::MAX.into()),
        SqlType::Int => within(i32::MIN.into(), i32::MAX.into()),
        SqlType::BigInt => within(i64::MIN, i64::MAX),
        SqlType::Real => Ok(Value::Real(f64::from(real(value, sql_type)? as f32))),
        SqlType::Float => Ok(Value::Real(real(value, sql_type)?)),
        SqlType::Decimal { precision, scale } => decimal(value, sql_type)?
            .rescaled(scale)
            .filter(|decimal| decimal.fits(precision))
            .map(|decimal| decimal.to_value())
            .ok_or_else(|| overflow(sql_type)),
        SqlType::SmallMoney | SqlType::Money => decimal(value, sql_type)?
            .rescaled(4)
            .map(|decimal| decimal.to_value())
            .ok_or_else(|| overflow(sql_type)),
        SqlType::Date => moment_text(moment(value)?.date_text(), sql_type),
        SqlType::Time(scale) => Ok(Value::Text(moment(value)?.rounded(scale).time_text())),
        SqlType::SmallDateTime => moment_text(moment(value)?.rounded(0).date_time_text(), sql_type),
        SqlType::DateTime => moment_text(moment(value)?.rounded(3).date_time_text(), sql_type),
        SqlType::DateTime2(scale) => {
            moment_text(moment(value)?.rounded(scale).date_time_text(), sql_type)
        }
        SqlType::DateTimeOffset(scale) => {
            moment_text(moment(value)?.rounded(scale).offset_text(), sql_type)
        }
        SqlType::Char(length) | SqlType::NChar(length) => Ok(cut(Some(length))),
        SqlType::VarChar(length) | SqlType::NVarChar(length) => Ok(cut(length)),
        SqlType::UniqueIdentifier => match Uuid::parse_str(text(value).trim()) {
            Ok(uuid) => Ok(Value::Text(uuid.to_string())),
            Err(_) => Err(ServerError::new(
                8169,
                16,
                "Conversion failed when converting from a character string to uniqueidentifier.",
            )),
        },
        SqlType::Binary(_) | SqlType::VarBinary(_) => Ok(match value {
            Value::Blob(bytes) => Value::Blob(bytes.clone()),
            Value::Integer(number) => Value::Blob((*number as i32).to_be_bytes().to_vec()),
            other => Value::Blob(utf16(&text(other))),
        }),
    }
}

fn moment_text(text: Option<String>, sql_type: SqlType) -> Result<Value, ServerError> {
    text.map(Value::Text).ok_or_else(|| overflow(sql_type))
}

/// Any value as text, as SQL Server would show it.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => from_windows_1252(bytes),
    }
}

fn conversion(value: &Value, sql_type: SqlType) -> ServerError {
    ServerError::new(
        245,
        16,
        format!(
            "Conversion failed when converting the value '{}' to data type {sql_type}.",
            text(value)
        ),
    )
}

/// Cut, not rounded, as SQL Server does.
pub(crate) fn integer(value: &Value, sql_type: SqlType) -> Result<i64, ServerError> {
    match value {
        Value::Integer(number) => Ok(*number),
        Value::Real(number) if number.abs() < 9.3e18 => Ok(number.trunc() as i64),
        Value::Text(text) if text.trim().is_empty() => Ok(0),
        Value::Text(text) => text.trim().parse().map_err(|_| conversion(value, sql_type)),
        _ => Err(conversion(value, sql_type)),
    }
}

pub(crate) fn real(value: &Value, sql_type: SqlType) -> Result<f64, ServerError> {
    match value {
        Value::Integer(number) => Ok(*number as f64),
        Value::Real(number) => Ok(*number),
        Value::Text(text) => text.trim().parse().map_err(|_| conversion(value, sql_type)),
        _ => Err(conversion(value, sql_type)),
    }
}

pub(crate) fn decimal(value: &Value, sql_type: SqlType) -> Result<Decimal, ServerError> {
    match value {
        Value::Integer(number) => Some(Decimal { units: i128::from(*number), scale: 0 }),
        Value::Real(number) => Decimal::parse(&number.to_string()),
        Value::Text(text) => Decimal::parse(text.trim()),
        _ => None,
    }
    .ok_or_else(|| conversion(value, sql_type))
}

pub(crate) fn moment(value: &Value) -> Result<Moment, ServerError> {
    let failed = || {
        ServerError::new(
            241,
            16,
            "Conversion failed when converting date and/or time from character string.",
        )
    };
    match value {
        Value::Text(text) => Moment::parse(text).ok_or_else(failed),
        _ => Err(failed()),
    }
}

pub(crate) fn overflow(sql_type: SqlType) -> ServerError {
    ServerError::new(
        8115,
        16,
        format!("Arithmetic overflow error converting expression to data type {sql_type}."),
    )
}
