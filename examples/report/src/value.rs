use std::borrow::Cow;

use examples_common::Problem;

/// The type of a column, of either database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int,
    Float,
    /// At most 38 digits, with this many after the point.
    Decimal(i8),
    Text,
    Binary,
    Date,
    Time,
    /// Without a time zone.
    Timestamp,
    /// A point in time.
    TimestampUtc,
}

/// The value of a field; `None` for NULL.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Bool(Option<bool>),
    Int(Option<i64>),
    Float(Option<f64>),
    /// In units of the column's last digit.
    Decimal(Option<i128>),
    Text(Option<Cow<'a, str>>),
    Binary(Option<Cow<'a, [u8]>>),
    /// Days since 1970-01-01.
    Date(Option<i32>),
    /// Nanoseconds since midnight.
    Time(Option<i64>),
    /// Microseconds since 1970-01-01.
    Timestamp(Option<i64>),
}

impl Value<'_> {
    /// The length of a value whose type has no fixed length.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Text(Some(text)) => text.len(),
            Self::Binary(Some(bytes)) => bytes.len(),
            _ => 0,
        }
    }
}

/// A decimal, given in units of the last of `scale` digits after the point.
pub(crate) fn decimal_text(value: i128, scale: u8) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let (digits, scale) = (value.unsigned_abs().to_string(), usize::from(scale));
    let digits = format!("{digits:0>width$}", width = scale + 1);
    match digits.split_at(digits.len() - scale) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

/// A field that does not fit its column, or has a type that is not supported.
#[derive(Debug, thiserror::Error)]
#[error("column {column}: {problem}: let the query cast it to text")]
pub(crate) struct Unfit {
    pub(crate) column: String,
    pub(crate) problem: String,
}

impl From<Unfit> for Problem {
    fn from(error: Unfit) -> Self {
        Self::of(&error, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_every_digit() {
        for (value, scale, text) in [
            (1250, 2, "12.50"),
            (-5, 1, "-0.5"),
            (7, 0, "7"),
            (0, 3, "0.000"),
            (i128::MAX, 38, "1.70141183460469231731687303715884105727"),
        ] {
            assert_eq!(decimal_text(value, scale), text);
        }
    }
}
