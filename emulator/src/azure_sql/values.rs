//! Converts values between SQLite and TYPE_VARBYTE (MS-TDS 2.2.5.5).

use rusqlite::types::Value;
use time::Date;

use super::{
    bytes::{Malformed, Reader, utf16},
    convert::{not_a_value, parse_date},
    error::ServerError,
    types::{Prefix, SqlType, decimal_length},
};

const NULL_LENGTH: u16 = 0xffff;
/// Partially length-prefixed values, PLP (MS-TDS 2.2.5.2.3).
const PLP_NULL: u64 = u64::MAX;
const PLP_UNKNOWN_LENGTH: u64 = u64::MAX - 1;

/// The Julian day of 0001-01-01, from which `date` counts days.
const FIRST_DAY: i32 = 1_721_426;

/// Writes `value`, which is of this type.
pub(crate) fn write(
    value: &Value,
    sql_type: SqlType,
    out: &mut Vec<u8>,
) -> Result<(), ServerError> {
    let bytes = match value {
        Value::Null => None,
        value => Some(encoded(value, sql_type)?),
    };
    match (sql_type.prefix(), bytes) {
        (Prefix::Byte, None) => out.push(0),
        (Prefix::Short, None) => out.extend(NULL_LENGTH.to_le_bytes()),
        (Prefix::Chunks, None) => out.extend(PLP_NULL.to_le_bytes()),
        (Prefix::Byte, Some(bytes)) => {
            out.push(bytes.len() as u8);
            out.extend(bytes);
        }
        (Prefix::Short, Some(bytes)) => {
            out.extend((bytes.len() as u16).to_le_bytes());
            out.extend(bytes);
        }
        (Prefix::Chunks, Some(bytes)) => {
            out.extend((bytes.len() as u64).to_le_bytes());
            // A chunk's length is a DWORD, and one of 0 ends the value.
            for chunk in bytes.chunks(1 << 20) {
                out.extend((chunk.len() as u32).to_le_bytes());
                out.extend(chunk);
            }
            out.extend(0_u32.to_le_bytes());
        }
    }
    Ok(())
}

fn encoded(value: &Value, sql_type: SqlType) -> Result<Vec<u8>, ServerError> {
    Ok(match (value, sql_type) {
        (Value::Text(text), SqlType::Date) => {
            let date = parse_date(text).ok_or_else(not_a_value)?;
            (date.to_julian_day() - FIRST_DAY).to_le_bytes()[..3].to_vec()
        }
        (Value::Text(text), _) if sql_type.is_text() => {
            let unicode = sql_type.is_unicode();
            let bytes = if unicode { utf16(text) } else { text.as_bytes().to_vec() };
            let most =
                sql_type.length().map(|most| usize::from(most) * if unicode { 2 } else { 1 });
            // Clients cannot read a value that is longer than its column's type.
            if most.is_some_and(|most| bytes.len() > most) {
                let text = "String or binary data would be truncated.";
                return Err(ServerError::new(2628, 16, text));
            }
            bytes
        }
        (Value::Integer(units), SqlType::Decimal { precision, .. }) => {
            let magnitude = u128::from(units.unsigned_abs()).to_le_bytes();
            let length = usize::from(decimal_length(precision)) - 1;
            [&[u8::from(*units >= 0)], &magnitude[..length]].concat()
        }
        (Value::Integer(number), _) => {
            let size = match sql_type {
                SqlType::Bit | SqlType::TinyInt => 1,
                SqlType::SmallInt => 2,
                SqlType::Int => 4,
                _ => 8,
            };
            number.to_le_bytes()[..size].to_vec()
        }
        _ => return Err(not_a_value()),
    })
}

/// Reads a parameter's value of this type. A value that the emulator cannot hold becomes a blob,
/// which is refused where it is used.
pub(crate) fn read(reader: &mut Reader<'_>, sql_type: SqlType) -> Result<Value, Malformed> {
    let Some(bytes) = read_bytes(reader, sql_type.prefix())? else { return Ok(Value::Null) };
    let mut number = [0; 16];
    let integer = |size: usize| (bytes.len() == size).then_some(());
    let value = match sql_type {
        SqlType::NVarChar(_) => Some(Value::Text(Reader::new(&bytes, "text").utf16(bytes.len())?)),
        SqlType::VarChar(_) if bytes.is_ascii() => String::from_utf8(bytes).ok().map(Value::Text),
        SqlType::VarChar(_) | SqlType::Refused(..) => Some(Value::Blob(bytes)),
        SqlType::Bit => integer(1).map(|()| Value::Integer((bytes[0] != 0).into())),
        SqlType::TinyInt => integer(1).map(|()| Value::Integer(bytes[0].into())),
        SqlType::Decimal { .. } => match &bytes[..] {
            [sign, magnitude @ ..] if [4, 8, 12, 16].contains(&magnitude.len()) => {
                number[..magnitude.len()].copy_from_slice(magnitude);
                Some(match i64::try_from(u128::from_le_bytes(number)) {
                    Ok(units) => Value::Integer(if *sign != 0 { units } else { -units }),
                    Err(_) => Value::Blob(bytes),
                })
            }
            _ => None,
        },
        SqlType::Date => integer(3).and_then(|()| {
            number[..3].copy_from_slice(&bytes);
            let days = i32::try_from(u128::from_le_bytes(number)).ok()?;
            let date = Date::from_julian_day(days + FIRST_DAY).ok()?;
            Some(Value::Text(date.to_string()))
        }),
        SqlType::SmallInt | SqlType::Int | SqlType::BigInt => {
            let mut reader = Reader::new(&bytes, "integer");
            Some(Value::Integer(match (sql_type, bytes.len()) {
                (SqlType::SmallInt, 2) => reader.u16()?.cast_signed().into(),
                (SqlType::Int, 4) => reader.u32()?.cast_signed().into(),
                (SqlType::BigInt, 8) => reader.u64()?.cast_signed(),
                _ => return reader.malformed(),
            }))
        }
    };
    value.map_or_else(|| reader.malformed(), Ok)
}

fn read_bytes(reader: &mut Reader<'_>, prefix: Prefix) -> Result<Option<Vec<u8>>, Malformed> {
    let length = match prefix {
        Prefix::Byte => Some(u16::from(reader.u8()?)).filter(|length| *length > 0),
        Prefix::Short => Some(reader.u16()?).filter(|length| *length != NULL_LENGTH),
        Prefix::Chunks => return read_chunks(reader),
    };
    length.map(|length| reader.take(length.into()).map(<[u8]>::to_vec)).transpose()
}

fn read_chunks(reader: &mut Reader<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    let total = reader.u64()?;
    if total == PLP_NULL {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    loop {
        match reader.u32()? {
            0 => break,
            length => bytes.extend(reader.take(length as usize)?),
        }
    }
    if total != PLP_UNKNOWN_LENGTH && total != bytes.len() as u64 {
        return reader.malformed();
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_longer_than_its_type() {
        for (sql_type, longest) in [
            (SqlType::VarChar(Some(3)), "abc"),
            (SqlType::NVarChar(Some(3)), "a\u{1f980}"),
            (SqlType::NVarChar(Some(3)), "abc"),
        ] {
            let mut out = Vec::new();
            assert_eq!(write(&Value::Text(longest.to_owned()), sql_type, &mut out), Ok(()));
            let before = out.clone();
            let longer = Value::Text(format!("{longest}x"));
            let error = write(&longer, sql_type, &mut out).unwrap_err();
            assert_eq!((error.number, &out), (2628, &before), "{sql_type}");
        }
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (declared, value) in [
            ("bit", Value::Integer(1)),
            ("tinyint", Value::Integer(255)),
            ("smallint", Value::Integer(-2)),
            ("int", Value::Integer(i32::MIN.into())),
            ("bigint", Value::Integer(i64::MAX)),
            ("decimal(10,2)", Value::Integer(-1234)),
            ("decimal(38,0)", Value::Integer(i64::MIN + 1)),
            ("date", text("0001-01-01")),
            ("date", text("2024-02-29")),
            ("varchar(20)", text("cafe")),
            ("nvarchar(20)", text("κόσμε 🦀")),
            ("nvarchar(max)", text(&"long ".repeat(300_000))),
        ] {
            let sql_type = SqlType::parse(declared).unwrap();
            for value in [value, Value::Null] {
                let mut bytes = Vec::new();
                write(&value, sql_type, &mut bytes).unwrap();
                let mut reader = Reader::new(&bytes, "value");
                assert_eq!(read(&mut reader, sql_type), Ok(value), "{declared}");
                assert!(reader.is_empty(), "{declared}");
            }
        }
    }

    #[test]
    fn a_value_that_sqlite_cannot_hold_is_refused_where_it_is_used() {
        let wide = [&[17, 1][..], &[0xff; 15], &[0]].concat();
        for (declared, bytes) in [("decimal(38,0)", &wide[..]), ("varchar(9)", &[1, 0, 0xe9])] {
            let sql_type = SqlType::parse(declared).unwrap();
            let value = read(&mut Reader::new(bytes, "value"), sql_type).unwrap();
            assert_eq!(write(&value, sql_type, &mut Vec::new()).unwrap_err().number, 102);
        }
    }

    #[test]
    fn a_truncated_value_is_malformed() {
        for declared in ["int", "decimal(10,2)", "date", "nvarchar(10)", "nvarchar(max)"] {
            let sql_type = SqlType::parse(declared).unwrap();
            for bytes in [&[][..], &[1], &[200, 1, 2], &[3, 0, 0], &[10, 0, 0, 0, 0, 0, 0, 0, 9]] {
                assert!(
                    read(&mut Reader::new(bytes, "value"), sql_type).is_err(),
                    "{declared} {bytes:?}"
                );
            }
        }
    }
}
