//! Values of one type from values of another, as CAST and assignments convert them.
//!
//! In SQLite, integers, `bit` and `decimal` are integers (a `decimal` counts units of its last
//! digit), and everything else is text.

use rusqlite::types::Value;
use time::{Date, macros::format_description};

use super::{error::ServerError, types::SqlType};

type Result<T> = std::result::Result<T, ServerError>;

/// Whether the emulator converts values of `from` to `to`, as SQL Server does.
pub(crate) fn is_convertible(from: SqlType, to: SqlType) -> bool {
    match from.digits() {
        Some(_) => to.digits().is_some() || to.is_text(),
        None if from.is_text() => to.is_text() || to == SqlType::Date,
        None => from == to,
    }
}

/// Converts `value` from the type `from` to the type `to`. Longer text is truncated.
pub(crate) fn convert(value: &Value, from: SqlType, to: SqlType) -> Result<Value> {
    if !is_convertible(from, to) {
        return Err(ServerError::unsupported(format_args!("a conversion from {from} to {to}")));
    }
    match (value, from.digits(), to.digits()) {
        (Value::Null, ..) => Ok(Value::Null),
        (Value::Integer(units), Some((_, scale)), Some(_)) => number(*units, scale, from, to),
        (Value::Integer(units), Some((_, scale)), None) => shown_as(*units, scale, from, to),
        (Value::Text(text), None, None) if to == SqlType::Date => match parse_date(text) {
            Some(date) => Ok(Value::Text(date.to_string())),
            None => Err(ServerError::unsupported(format_args!("'{text}' as a date"))),
        },
        (Value::Text(text), ..) => cut(text, to),
        _ => Err(not_a_value()),
    }
}

/// Like [`convert`], for a column of a table: text that would be truncated is an error.
pub(crate) fn store(value: &Value, from: SqlType, to: SqlType, column: &str) -> Result<Value> {
    if let (Some(length), Value::Text(text)) = (to.length(), value) {
        // Trailing spaces are dropped without an error.
        if unit_count(text.trim_end_matches(' '), to) > usize::from(length) {
            let text = format!("String or binary data would be truncated in column '{column}'.");
            return Err(ServerError::new(2628, 16, text));
        }
    }
    convert(value, from, to)
}

/// Parses a date such as `2024-01-02`. The emulator refuses SQL Server's other formats.
pub(crate) fn parse_date(text: &str) -> Option<Date> {
    let date = Date::parse(text, format_description!("[year]-[month]-[day]")).ok();
    date.filter(|date| text.len() == 10 && date.year() > 0)
}

/// The emulator cannot hold the value of a parameter or an expression.
pub(crate) fn not_a_value() -> ServerError {
    ServerError::unsupported("a decimal of more than 18 digits, or varchar that is not ASCII")
}

pub(crate) fn overflow(to: SqlType) -> ServerError {
    let text = format!("Arithmetic overflow error converting expression to data type {to}.");
    ServerError::new(8115, 16, text)
}

fn number(units: i64, scale: u8, from: SqlType, to: SqlType) -> Result<Value> {
    let units = i128::from(units);
    match to {
        SqlType::Bit => Ok(Value::Integer((units != 0).into())),
        SqlType::Decimal { precision, scale: decimals } => {
            let units = rescaled(units, scale, decimals).ok_or_else(|| overflow(to))?;
            if units.unsigned_abs() >= 10_u128.pow(precision.into()) {
                return Err(overflow(to));
            }
            i64::try_from(units).map(Value::Integer).map_err(|_| not_a_value())
        }
        _ => {
            // Decimals are truncated, not rounded.
            let number = units / 10_i128.pow(scale.into());
            in_range(number, to).ok_or_else(|| {
                if from < SqlType::BigInt && to < SqlType::Int {
                    let text =
                        format!("Arithmetic overflow error for data type {to}, value = {number}.");
                    return ServerError::new(220, 16, text);
                }
                overflow(to)
            })
        }
    }
}

/// The same number with `to` decimals, rounded half away from zero.
fn rescaled(units: i128, from: u8, to: u8) -> Option<i128> {
    if to >= from {
        return units.checked_mul(10_i128.checked_pow((to - from).into())?);
    }
    let divisor = 10_i128.checked_pow((from - to).into())?;
    let (quotient, rest) = (units / divisor, units % divisor);
    Some(quotient + if rest.abs() * 2 >= divisor { units.signum() } else { 0 })
}

/// The number, if it fits the integer type.
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

/// A number as text.
fn shown_as(units: i64, scale: u8, from: SqlType, to: SqlType) -> Result<Value> {
    let (sign, scale) = (if units < 0 { "-" } else { "" }, usize::from(scale));
    let digits = format!("{:0>width$}", units.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if scale > 0 { "." } else { "" };
    let text = format!("{sign}{whole}{point}{fraction}");
    match to.length() {
        Some(most) if text.len() > most.into() => match to.is_unicode() || !from.is_integer() {
            true => Err(overflow(to)),
            false => Ok(Value::Text("*".to_owned())),
        },
        _ => Ok(Value::Text(text)),
    }
}

/// Lengths count UTF-16 units, or ASCII characters.
pub(crate) fn unit_count(text: &str, of: SqlType) -> usize {
    if of.is_unicode() { text.encode_utf16().count() } else { text.chars().count() }
}

fn cut(text: &str, to: SqlType) -> Result<Value> {
    if !to.is_unicode()
        && let Some(c) = text.chars().find(|c| !c.is_ascii())
    {
        return Err(ServerError::unsupported(format_args!("{c} in {to}")));
    }
    let mut room = to.length().map_or(usize::MAX, usize::from);
    let mut cut = String::new();
    for c in text.chars() {
        match room.checked_sub(c.len_utf16()) {
            Some(rest) => room = rest,
            // SQL Server would keep half a character.
            None if room > 0 => return Err(ServerError::unsupported(format_args!("half of {c}"))),
            None => break,
        }
        cut.push(c);
    }
    Ok(Value::Text(cut))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_rounded_half_away_from_zero_and_shown_with_their_scale() {
        let decimal = |scale| SqlType::Decimal { precision: 9, scale };
        for (units, from, to, text) in [
            (125, 2, 1, "1.3"),
            (-125, 2, 1, "-1.3"),
            (124, 2, 1, "1.2"),
            (1, 0, 1, "1.0"),
            (-4, 2, 1, "0.0"),
            (-5, 1, 1, "-0.5"),
            (-12, 0, 0, "-12"),
        ] {
            let value = convert(&Value::Integer(units), decimal(from), decimal(to)).unwrap();
            let shown = convert(&value, decimal(to), SqlType::NVarChar(None)).unwrap();
            assert_eq!(shown, Value::Text(text.to_owned()), "{units}");
        }
    }

    #[test]
    fn only_one_date_format_is_accepted() {
        assert_eq!(parse_date("2024-02-29").unwrap().to_string(), "2024-02-29");
        for text in ["", "2023-02-29", "20240131", "2024-1-31", "2024-01-31 10:11", "-001-01-01"] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
