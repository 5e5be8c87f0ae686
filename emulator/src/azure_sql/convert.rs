//! Values of one type from values of another, as CAST and assignments make them.
//!
//! In SQLite, integers, `bit`, `decimal` and `money` are integers (the last two count units of
//! their last decimal), `real` and `float` are reals, `binary` is a blob, and all else is text.

use std::mem::discriminant;

use rusqlite::types::Value;
use uuid::Uuid;

use super::{
    code_page::windows_1252,
    decimal::Decimal,
    error::ServerError,
    moments::{DAYS_TO_1900, Moment, SECOND},
    types::SqlType,
};

type Result<T> = std::result::Result<T, ServerError>;

/// Whether the stand-in converts values of `from` to `to`, as SQL Server does.
pub(crate) fn is_convertible(from: SqlType, to: SqlType) -> bool {
    match (from, to) {
        (from, to) if discriminant(&from) == discriminant(&to) => true,
        (from, to) if from.is_text() => !to.is_binary() && to != SqlType::Money,
        (from, to) if to.is_text() => from.is_integer() || matches!(from, SqlType::Decimal { .. }),
        (from, to) if from.is_float() => to.is_integer() || to.is_float(),
        (from, to) if from.is_number() => to.is_number(),
        (SqlType::DateTime2(_), to) => to > SqlType::Float,
        _ => false,
    }
}

/// `value`, which is of type `from`, as one of type `to`: longer text is cut.
pub(crate) fn convert(value: &Value, from: SqlType, to: SqlType) -> Result<Value> {
    if *value == Value::Null || (from == to && to.digits().is_none()) {
        return Ok(value.clone());
    }
    if !is_convertible(from, to) {
        return Err(ServerError::unsupported(format_args!("a conversion from {from} to {to}")));
    }
    match to {
        SqlType::Bit if from.is_text() => match shown(value, from)?.trim() {
            text if text.eq_ignore_ascii_case("true") => Ok(Value::Integer(1)),
            text if text.eq_ignore_ascii_case("false") => Ok(Value::Integer(0)),
            _ => Ok(Value::Integer((integer(value, from, to)? != 0).into())),
        },
        SqlType::Bit if from.is_float() => Ok(Value::Integer((real(value, from)? != 0.0).into())),
        SqlType::Bit => Ok(Value::Integer((exact(value, from)?.units != 0).into())),
        _ if to.is_integer() => {
            let number = integer(value, from, to)?;
            in_range(number, to).ok_or_else(|| out_of_range(number, from, to))
        }
        SqlType::Real | SqlType::Float => finite(real(value, from)?, to),
        _ if to.digits().is_some() => {
            let decimal = match from.is_text() {
                true => Decimal::parse(shown(value, from)?.trim()).ok_or_else(|| {
                    ServerError::new(8114, 16, "Error converting data type varchar to numeric.")
                })?,
                false => exact(value, from)?,
            };
            units(decimal, to)
        }
        SqlType::UniqueIdentifier => guid(&shown(value, from)?),
        _ if to.is_text() => text(&shown(value, from)?, from, to),
        _ if to.is_binary() => {
            let Value::Blob(bytes) = value else { return Err(not_a_value()) };
            let mut bytes = bytes.clone();
            bytes.truncate(to.length().map_or(bytes.len(), usize::from));
            Ok(Value::Blob(bytes))
        }
        _ => moment(&shown(value, from)?, from, to),
    }
}

/// As [`convert`] for a column of a table, where text that is cut is an error.
pub(crate) fn store(value: &Value, from: SqlType, to: SqlType, column: &str) -> Result<Value> {
    if let (Some(length), false) = (to.length(), *value == Value::Null) {
        let units = match value {
            Value::Blob(bytes) => bytes.len(),
            // Blanks at the end may go.
            _ => unit_count(shown(value, from)?.trim_end_matches(' '), to),
        };
        if units > usize::from(length) && (from.is_text() || from.is_binary()) {
            let text = format!("String or binary data would be truncated in column '{column}'.");
            return Err(ServerError::new(2628, 16, text));
        }
    }
    convert(value, from, to)
}

/// A value of the type that a parameter, variable or column does not have cannot be in SQLite.
fn not_a_value() -> ServerError {
    ServerError::unsupported("a decimal of more than 18 digits")
}

pub(crate) fn overflow(to: SqlType) -> ServerError {
    let text = format!("Arithmetic overflow error converting expression to data type {to}.");
    ServerError::new(8115, 16, text)
}

/// An exact number.
pub(crate) fn exact(value: &Value, from: SqlType) -> Result<Decimal> {
    match (value, from.digits()) {
        (Value::Integer(units), Some((_, scale))) => {
            Ok(Decimal { units: i128::from(*units), scale })
        }
        _ => Err(not_a_value()),
    }
}

/// A decimal or money as SQLite has it.
fn units(decimal: Decimal, to: SqlType) -> Result<Value> {
    let (precision, scale) = to.digits().ok_or_else(not_a_value)?;
    let decimal = decimal.rescaled(scale).filter(|decimal| decimal.fits(precision));
    let units = decimal.ok_or_else(|| overflow(to))?.units;
    i64::try_from(units).map(Value::Integer).map_err(|_| not_a_value())
}

fn real(value: &Value, from: SqlType) -> Result<f64> {
    let number = match value {
        Value::Real(number) => return Ok(*number),
        Value::Text(text) if text.trim().is_empty() => return Ok(0.0),
        // Rust's numbers have names, too.
        Value::Text(text) => Some(text.trim().to_owned()).filter(|text| {
            text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
        }),
        _ => Some(exact(value, from)?.to_string()),
    };
    number.and_then(|number| number.parse().ok()).ok_or_else(|| {
        ServerError::new(8114, 16, format!("Error converting data type {from} to float."))
    })
}

fn finite(number: f64, to: SqlType) -> Result<Value> {
    let number = if to == SqlType::Real { f64::from(number as f32) } else { number };
    if number.is_finite() { Ok(Value::Real(number)) } else { Err(overflow(to)) }
}

/// Cut, not rounded, as SQL Server does.
fn integer(value: &Value, from: SqlType, to: SqlType) -> Result<i128> {
    match value {
        Value::Integer(_) => {
            let decimal = exact(value, from)?;
            Ok(decimal.units / 10_i128.pow(decimal.scale.into()))
        }
        // Infinities and what is out of range become the ends of the range.
        Value::Real(number) => Ok(number.trunc() as i128),
        Value::Text(text) if text.trim().is_empty() => Ok(0),
        Value::Text(text) => text.trim().parse().map_err(|_| {
            let text = format!(
                "Conversion failed when converting the {from} value '{text}' to data type {to}."
            );
            ServerError::new(245, 16, text)
        }),
        _ => Err(not_a_value()),
    }
}

/// The number, if the type has it.
pub(crate) fn in_range(number: i128, of: SqlType) -> Option<Value> {
    let (least, most) = match of {
        SqlType::TinyInt => (0, 255),
        SqlType::SmallInt => (i16::MIN.into(), i16::MAX.into()),
        SqlType::Int => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN, i64::MAX),
    };
    let number = i64::try_from(number).ok();
    number.filter(|number| (least..=most).contains(number)).map(Value::Integer)
}

/// That a number is none of an integer type's depends on where it comes from.
fn out_of_range(number: i128, from: SqlType, to: SqlType) -> ServerError {
    if from.is_text() && to != SqlType::BigInt {
        let text = format!("The conversion of the {from} value overflowed a column of type {to}.");
        return ServerError::new(if to == SqlType::Int { 248 } else { 244 }, 16, text);
    }
    if from < SqlType::BigInt && to < SqlType::Int {
        let text = format!("Arithmetic overflow error for data type {to}, value = {number}.");
        return ServerError::new(220, 16, text);
    }
    overflow(to)
}

fn guid(text: &str) -> Result<Value> {
    match Uuid::parse_str(text) {
        Ok(uuid) if text.len() == 36 => Ok(Value::Text(uuid.to_string().to_uppercase())),
        _ => {
            let text =
                "Conversion failed when converting from a character string to uniqueidentifier.";
            Err(ServerError::new(8169, 16, text))
        }
    }
}

/// Any value but floating point numbers as SQL Server shows it.
pub(crate) fn shown(value: &Value, from: SqlType) -> Result<String> {
    match (value, from) {
        (Value::Text(text), _) => Ok(text.clone()),
        _ => Ok(exact(value, from)?.to_string()),
    }
}

/// Lengths count UTF-16 units, or bytes of code page 1252.
pub(crate) fn unit_count(text: &str, of: SqlType) -> usize {
    if of.is_unicode() { text.encode_utf16().count() } else { text.chars().count() }
}

fn text(shown: &str, from: SqlType, to: SqlType) -> Result<Value> {
    if !to.is_unicode()
        && let Some(c) = shown.chars().find(|c| windows_1252(*c).is_none())
    {
        return Err(ServerError::unsupported(format_args!("{c} in {to}")));
    }
    let most = to.length().map_or(usize::MAX, usize::from);
    if unit_count(shown, to) > most && from.is_number() {
        return match to.is_unicode() || !from.is_integer() {
            true => Err(overflow(to)),
            false => Ok(Value::Text("*".to_owned())),
        };
    }
    let mut cut = String::new();
    let mut room = most;
    for c in shown.chars() {
        let units = if to.is_unicode() { c.len_utf16() } else { 1 };
        match room.checked_sub(units) {
            Some(rest) => room = rest,
            // SQL Server would keep half a character.
            None if room > 0 => return Err(ServerError::unsupported(format_args!("half of {c}"))),
            None => break,
        }
        cut.push(c);
    }
    Ok(Value::Text(cut))
}

fn moment(text: &str, from: SqlType, to: SqlType) -> Result<Value> {
    const MINUTE: u64 = 60 * SECOND;
    let failed = || {
        let text = "Conversion failed when converting date and/or time from character string.";
        ServerError::new(241, 16, text)
    };
    let moment = Moment::parse(text).ok_or_else(failed)?;
    let small = matches!(to, SqlType::DateTime | SqlType::SmallDateTime);
    let decimals = text.split_once('.').map_or("", |(_, rest)| rest);
    let decimals = decimals.bytes().take_while(|byte| byte.is_ascii_digit()).count();
    let has_offset = moment.offset != 0 && !matches!(to, SqlType::DateTimeOffset(_));
    if from.is_text() && ((small && decimals > 3) || has_offset) {
        return Err(failed());
    }
    let moment = match to {
        SqlType::DateTime => {
            let (days, count) = moment.to_300ths();
            Moment::from_300ths(days, count)
        }
        SqlType::SmallDateTime => {
            // From 29.999 s on, a minute is rounded up.
            let minutes = (moment.ticks + 30 * SECOND + SECOND / 1000) / MINUTE;
            let days = moment.days + (minutes / 1440) as i32;
            Moment { days, ticks: minutes % 1440 * MINUTE, offset: 0 }
        }
        SqlType::Time(scale) | SqlType::DateTime2(scale) | SqlType::DateTimeOffset(scale) => {
            moment.rounded(scale)
        }
        _ => moment,
    };
    let written = match to {
        SqlType::Date => moment.date_text(),
        SqlType::Time(_) => Some(moment.time_text()),
        SqlType::DateTimeOffset(_) => moment.offset_text(),
        _ => moment.date_time_text(),
    };
    let days = moment.days - DAYS_TO_1900;
    let in_range = match to {
        // From 1753, when Great Britain took the calendar.
        SqlType::DateTime => days >= -53_690,
        SqlType::SmallDateTime => (0..=65_535).contains(&days),
        _ => true,
    };
    written.filter(|_| in_range).map(Value::Text).ok_or_else(|| {
        let text = format!("The conversion of a {from} data type to a {to} data type resulted in an out-of-range value.");
        ServerError::new(242, 16, text)
    })
}
