//! Values: PostgreSQL's names for their types, their form in SQLite, and their text and
//! binary formats.
//!
//! SQLite stores integers, booleans (0 and 1), floats and text unchanged, a `date` as the
//! days since 2000-01-01, and a `numeric` as the text that PostgreSQL prints.

use pgwire::api::Type;
use rusqlite::types::Value;
use time::{
    Date, Duration,
    macros::{date, format_description},
};

use super::{error::SqlError, numeric};

const EPOCH: Date = date!(2000 - 01 - 01);

/// A type, and its modifier as PostgreSQL numbers it (`atttypmod`): -1 means no modifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ty {
    pub(super) base: Type,
    pub(super) modifier: i32,
}

impl From<Type> for Ty {
    fn from(base: Type) -> Self {
        Self { base, modifier: -1 }
    }
}

/// Types whose values can be compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Integer,
    Boolean,
    Text,
    Date,
    /// Never compared.
    Other,
}

impl Ty {
    /// The type of this name, as written in `CREATE TABLE` and `::`.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (word, numbers) = match name.split_once('(') {
            Some((word, numbers)) => (word, numbers.strip_suffix(')')?),
            None => (name.as_str(), ""),
        };
        let base = match word.trim() {
            "smallint" | "int2" => Type::INT2,
            "integer" | "int" | "int4" => Type::INT4,
            "bigint" | "int8" => Type::INT8,
            "double precision" | "float8" => Type::FLOAT8,
            "text" => Type::TEXT,
            "varchar" | "character varying" => Type::VARCHAR,
            "date" => Type::DATE,
            "numeric" | "decimal" => Type::NUMERIC,
            _ => return None,
        };
        let numbers: Vec<i32> = match numbers {
            "" => Vec::new(),
            numbers => numbers.split(',').map(|n| n.trim().parse().ok()).collect::<Option<_>>()?,
        };
        let modifier = match (&base, numbers.as_slice()) {
            (_, []) => -1,
            (&Type::VARCHAR, [length @ 1..=10_485_760]) => length + 4,
            (&Type::NUMERIC, [precision @ 1..=numeric::DIGITS]) => (precision << 16) + 4,
            (&Type::NUMERIC, [precision @ 1..=numeric::DIGITS, scale])
                if (0..=*precision).contains(scale) =>
            {
                (precision << 16 | scale) + 4
            }
            _ => return None,
        };
        Some(Self { base, modifier })
    }

    /// The name that [`Self::by_name`] reads again.
    pub(super) fn name(&self) -> String {
        let (name, bits) = (self.base.name(), self.modifier - 4);
        match self.base {
            _ if self.modifier == -1 => name.to_owned(),
            Type::NUMERIC => format!("{name}({},{})", bits >> 16, bits & 0xffff),
            _ => format!("{name}({bits})"),
        }
    }

    pub(super) fn class(&self) -> Class {
        match self.base {
            Type::INT2 | Type::INT4 | Type::INT8 => Class::Integer,
            Type::BOOL => Class::Boolean,
            Type::TEXT | Type::VARCHAR | Type::NAME => Class::Text,
            Type::DATE => Class::Date,
            _ => Class::Other,
        }
    }
}

pub(super) fn invalid(ty: &str, text: &str) -> SqlError {
    SqlError::new("22P02", format!("invalid input syntax for type {ty}: \"{text}\""))
}

/// Reads a text as a value of `ty`.
pub(super) fn parse(text: &str, ty: &Type) -> Result<Value, SqlError> {
    let unsupported = || SqlError::unsupported(format!("the {} '{text}'", ty.name()));
    let trimmed = text.trim();
    Ok(match *ty {
        Type::INT2 | Type::INT4 | Type::INT8 => {
            let number: i64 = trimmed.parse().map_err(|_| invalid(ty.name(), text))?;
            let fits = match *ty {
                Type::INT2 => i16::try_from(number).is_ok(),
                Type::INT4 => i32::try_from(number).is_ok(),
                _ => true,
            };
            if !fits {
                return Err(SqlError::new("22003", format!("{} out of range", ty.name())));
            }
            Value::Integer(number)
        }
        Type::FLOAT8 => Value::Real(trimmed.parse().map_err(|_| invalid(ty.name(), text))?),
        Type::DATE => {
            let is_digit = |byte: u8| byte.is_ascii_digit() || byte == b'-';
            let is_plain = text.len() == 10 && text.bytes().all(is_digit);
            match Date::parse(text, format_description!("[year]-[month]-[day]")) {
                Ok(date) if is_plain => Value::Integer((date - EPOCH).whole_days()),
                Err(_) if is_plain => {
                    let message = format!("date/time field value out of range: \"{text}\"");
                    return Err(SqlError::new("22008", message));
                }
                _ => return Err(unsupported()),
            }
        }
        Type::NUMERIC => match trimmed.to_ascii_lowercase() {
            // PostgreSQL accepts exponents, not-a-number and infinities.
            word if word.contains(['e', 'n']) => return Err(unsupported()),
            _ => Value::Text(numeric::parse(text)?.to_string()),
        },
        Type::TEXT | Type::VARCHAR => {
            if text.contains('\0') {
                let message = "invalid byte sequence for encoding \"UTF8\": 0x00";
                return Err(SqlError::new("22021", message));
            }
            Value::Text(text.to_owned())
        }
        _ => return Err(unsupported()),
    })
}

/// Prints a value as PostgreSQL does.
pub(super) fn print(value: &Value, ty: &Type) -> Result<String, SqlError> {
    let out_of_range = || SqlError::new("22008", format!("{} out of range", ty.name()));
    Ok(match (value, ty) {
        (Value::Integer(flag), &Type::BOOL) => if *flag == 0 { "f" } else { "t" }.to_owned(),
        (Value::Integer(days), &Type::DATE) => {
            let date = EPOCH.checked_add(Duration::days(*days));
            date.filter(|date| date.year() > 0).ok_or_else(out_of_range)?.to_string()
        }
        (Value::Integer(number), _) => number.to_string(),
        // PostgreSQL prints other numbers with an exponent.
        (Value::Real(number), _) if (1e-4..1e15).contains(&number.abs()) => number.to_string(),
        (Value::Text(text), _) => text.clone(),
        _ => return Err(SqlError::unsupported(format!("{} as text", ty.name()))),
    })
}

/// Converts a value as an assignment does. The compiler has refused unknown casts.
pub(super) fn cast(value: Value, from: &Type, to: &Ty) -> Result<Value, SqlError> {
    let value = match value {
        Value::Null => return Ok(Value::Null),
        value if *from == to.base => value,
        value => parse(&print(&value, from)?, &to.base)?,
    };
    let size = u32::try_from(to.modifier - 4).unwrap_or(0);
    match (value, &to.base) {
        (Value::Text(number), &Type::NUMERIC) if to.modifier != -1 => {
            let number = numeric::fit(numeric::parse(&number)?, size >> 16, size & 0xffff)?;
            Ok(Value::Text(number.to_string()))
        }
        (Value::Text(text), &Type::VARCHAR) if to.modifier != -1 => {
            let kept: String = text.chars().take(size as usize).collect();
            // PostgreSQL removes trailing spaces.
            if text[kept.len()..].bytes().any(|byte| byte != b' ') {
                let message = format!("value too long for type character varying({size})");
                return Err(SqlError::new("22001", message));
            }
            Ok(Value::Text(kept))
        }
        (value, _) => Ok(value),
    }
}

/// Encodes a value as PostgreSQL's `…send` functions do.
pub(super) fn to_binary(value: &Value, ty: &Type) -> Result<Vec<u8>, SqlError> {
    #[allow(clippy::cast_possible_truncation)] // The value is of its type.
    Ok(match (value, ty) {
        (Value::Integer(flag), &Type::BOOL) => vec![u8::from(*flag != 0)],
        (Value::Integer(number), &Type::INT2) => (*number as i16).to_be_bytes().into(),
        (Value::Integer(number), &Type::INT4 | &Type::DATE) => {
            (*number as i32).to_be_bytes().into()
        }
        (Value::Integer(number), _) => number.to_be_bytes().into(),
        (Value::Real(number), _) => number.to_be_bytes().into(),
        (Value::Text(number), &Type::NUMERIC) => numeric::to_binary(numeric::parse(number)?),
        (value, ty) => print(value, ty)?.into_bytes(),
    })
}

/// Decodes a binary parameter.
pub(super) fn from_binary(bytes: &[u8], ty: &Type) -> Result<Value, SqlError> {
    let wrong = |_| {
        let name = ty.name();
        SqlError::new("22P03", format!("incorrect binary data format for type {name}"))
    };
    Ok(match *ty {
        Type::INT2 => Value::Integer(i16::from_be_bytes(bytes.try_into().map_err(wrong)?).into()),
        Type::INT4 | Type::DATE => {
            Value::Integer(i32::from_be_bytes(bytes.try_into().map_err(wrong)?).into())
        }
        Type::INT8 => Value::Integer(i64::from_be_bytes(bytes.try_into().map_err(wrong)?)),
        Type::TEXT | Type::VARCHAR => {
            let message = "invalid byte sequence for encoding \"UTF8\"";
            parse(std::str::from_utf8(bytes).map_err(|_| SqlError::new("22021", message))?, ty)?
        }
        _ => return Err(SqlError::unsupported(format!("a binary {} parameter", ty.name()))),
    })
}
