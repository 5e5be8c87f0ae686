//! Values: SQLite's on one side, TYPE_VARBYTE on the other (MS-TDS 2.2.5.5).

use rusqlite::types::Value;
use uuid::Uuid;

use super::{
    bytes::{Malformed, Reader, utf16},
    code_page::{from_windows_1252, windows_1252},
    convert::exact,
    error::ServerError,
    moments::{DAYS_TO_1900, Moment},
    types::{SqlType, decimal_length},
};

const NULL_LENGTH: u16 = 0xffff;
/// Values of `max` types come in chunks, PLP (MS-TDS 2.2.5.2.3).
const PLP_NULL: u64 = u64::MAX;
const PLP_UNKNOWN_LENGTH: u64 = u64::MAX - 1;

/// Writes `value`, which is of this type.
pub(crate) fn write(
    value: &Value,
    sql_type: SqlType,
    out: &mut Vec<u8>,
) -> Result<(), ServerError> {
    let bytes = match value {
        Value::Null => None,
        _ if sql_type.is_unicode() => Some(utf16(text(value))),
        _ if sql_type.is_text() => {
            Some(text(value).chars().map(|c| windows_1252(c).unwrap_or(b'?')).collect())
        }
        Value::Blob(bytes) if sql_type.is_binary() => Some(bytes.clone()),
        _ => Some(fixed(value, sql_type)?),
    };
    match bytes {
        None if !(sql_type.is_text() || sql_type.is_binary()) => out.push(0),
        None if sql_type.length().is_none() => out.extend(PLP_NULL.to_le_bytes()),
        None => out.extend(NULL_LENGTH.to_le_bytes()),
        Some(bytes) if !(sql_type.is_text() || sql_type.is_binary()) => {
            out.push(bytes.len() as u8);
            out.extend(bytes);
        }
        Some(bytes) if sql_type.length().is_none() => {
            out.extend((bytes.len() as u64).to_le_bytes());
            // A chunk's length is a DWORD, and one of 0 ends the value.
            for chunk in bytes.chunks(1 << 20) {
                out.extend((chunk.len() as u32).to_le_bytes());
                out.extend(chunk);
            }
            out.extend(0_u32.to_le_bytes());
        }
        Some(bytes) => {
            // A value longer than its column says would break clients.
            let unit = if sql_type.is_unicode() { 2 } else { 1 };
            if sql_type.length().is_some_and(|most| bytes.len() > usize::from(most) * unit) {
                let text = "String or binary data would be truncated.";
                return Err(ServerError::new(2628, 16, text));
            }
            out.extend((bytes.len() as u16).to_le_bytes());
            out.extend(bytes);
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    if let Value::Text(text) = value { text } else { "" }
}

/// Types whose values have one byte of length in front.
fn fixed(value: &Value, sql_type: SqlType) -> Result<Vec<u8>, ServerError> {
    let wrong = || ServerError::new(8624, 16, format!("{value:?} is no {sql_type}."));
    if let Value::Real(number) = value {
        return match sql_type {
            SqlType::Real => Ok((*number as f32).to_le_bytes().to_vec()),
            SqlType::Float => Ok(number.to_le_bytes().to_vec()),
            _ => Err(wrong()),
        };
    }
    if let SqlType::UniqueIdentifier = sql_type {
        return Ok(Uuid::parse_str(text(value)).map_err(|_| wrong())?.to_bytes_le().to_vec());
    }
    if sql_type > SqlType::Float {
        return Ok(moment_bytes(Moment::parse(text(value)).ok_or_else(wrong)?, sql_type));
    }
    let units = exact(value, sql_type)?.units;
    let bytes = units.to_le_bytes();
    Ok(match sql_type {
        SqlType::Bit | SqlType::TinyInt => bytes[..1].to_vec(),
        SqlType::SmallInt => bytes[..2].to_vec(),
        SqlType::Int => bytes[..4].to_vec(),
        SqlType::BigInt => bytes[..8].to_vec(),
        // The more significant half comes first (MS-TDS 2.2.5.5.1.4).
        SqlType::Money => [&bytes[4..8], &bytes[..4]].concat(),
        SqlType::Decimal { precision, .. } => {
            let magnitude = units.unsigned_abs().to_le_bytes();
            let length = usize::from(decimal_length(precision)) - 1;
            [&[u8::from(units >= 0)], &magnitude[..length]].concat()
        }
        _ => return Err(wrong()),
    })
}

/// MS-TDS 2.2.5.5.1.7 and .8.
fn moment_bytes(moment: Moment, sql_type: SqlType) -> Vec<u8> {
    let date = |moment: Moment| moment.days.to_le_bytes()[..3].to_vec();
    let time = |moment: Moment, scale: u8| {
        let count = moment.ticks / 10_u64.pow(7 - u32::from(scale));
        count.to_le_bytes()[..time_length(scale)].to_vec()
    };
    match sql_type {
        SqlType::Date => date(moment),
        SqlType::Time(scale) => time(moment.rounded(scale), scale),
        SqlType::SmallDateTime => {
            let days = u16::try_from(moment.days - DAYS_TO_1900).unwrap_or(0);
            let minutes = (moment.ticks / (60 * super::moments::SECOND)) as u16;
            [days.to_le_bytes(), minutes.to_le_bytes()].concat()
        }
        SqlType::DateTime => {
            let (days, count) = moment.to_300ths();
            [(days - DAYS_TO_1900).to_le_bytes(), count.to_le_bytes()].concat()
        }
        SqlType::DateTimeOffset(scale) => {
            let utc = moment.rounded(scale).to_utc();
            [time(utc, scale), date(utc), moment.offset.to_le_bytes().to_vec()].concat()
        }
        SqlType::DateTime2(scale) => {
            [time(moment.rounded(scale), scale), date(moment.rounded(scale))].concat()
        }
        _ => Vec::new(),
    }
}

fn time_length(scale: u8) -> usize {
    match scale {
        0..=2 => 3,
        3..=4 => 4,
        _ => 5,
    }
}

/// Reads a parameter's value of this type.
pub(crate) fn read(reader: &mut Reader<'_>, sql_type: SqlType) -> Result<Value, Malformed> {
    Ok(match sql_type {
        _ if sql_type.is_text() || sql_type.is_binary() => {
            match read_bytes(reader, sql_type.length().is_none())? {
                None => Value::Null,
                Some(bytes) if sql_type.is_unicode() => {
                    Value::Text(Reader::new(&bytes, "text").utf16(bytes.len())?)
                }
                Some(bytes) if sql_type.is_text() => Value::Text(from_windows_1252(&bytes)),
                Some(bytes) => Value::Blob(bytes),
            }
        }
        _ => match reader.u8()? {
            0 => Value::Null,
            length => {
                let bytes = reader.take(usize::from(length))?;
                match read_fixed(bytes, sql_type)? {
                    Some(value) => value,
                    None => return reader.malformed(),
                }
            }
        },
    })
}

fn read_bytes(reader: &mut Reader<'_>, long: bool) -> Result<Option<Vec<u8>>, Malformed> {
    if !long {
        return Ok(match reader.u16()? {
            NULL_LENGTH => None,
            length => Some(reader.take(usize::from(length))?.to_vec()),
        });
    }
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

/// `None`: so many bytes are not a value of this type.
fn read_fixed(bytes: &[u8], sql_type: SqlType) -> Result<Option<Value>, Malformed> {
    let mut reader = Reader::new(bytes, "parameter");
    let value = match (sql_type, bytes.len()) {
        (SqlType::Bit, 1) => Value::Integer((reader.u8()? != 0).into()),
        (SqlType::TinyInt, 1) => Value::Integer(reader.u8()?.into()),
        (SqlType::SmallInt, 2) => Value::Integer(reader.u16()?.cast_signed().into()),
        (SqlType::Int, 4) => Value::Integer(reader.u32()?.cast_signed().into()),
        (SqlType::BigInt, 8) => Value::Integer(reader.u64()?.cast_signed()),
        (SqlType::Real, 4) => Value::Real(f32::from_bits(reader.u32()?).into()),
        (SqlType::Float, 8) => Value::Real(f64::from_bits(reader.u64()?)),
        (SqlType::Decimal { .. }, 5 | 9 | 13 | 17) => {
            let positive = reader.u8()? != 0;
            let mut magnitude = [0; 16];
            magnitude[..bytes.len() - 1].copy_from_slice(reader.rest());
            match i64::try_from(u128::from_le_bytes(magnitude)) {
                Ok(units) => Value::Integer(if positive { units } else { -units }),
                // Whatever it is used for is refused.
                Err(_) => Value::Blob(magnitude.to_vec()),
            }
        }
        (SqlType::Money, 8) => {
            let (high, low) = (reader.u32()?.cast_signed(), reader.u32()?);
            Value::Integer((i64::from(high) << 32) | i64::from(low))
        }
        (SqlType::UniqueIdentifier, 16) => Uuid::from_slice_le(bytes)
            .map_or(Value::Null, |uuid| Value::Text(uuid.to_string().to_uppercase())),
        _ => return read_moment(reader, sql_type, bytes.len()),
    };
    Ok(Some(value))
}

fn read_moment(
    mut reader: Reader<'_>,
    sql_type: SqlType,
    length: usize,
) -> Result<Option<Value>, Malformed> {
    fn number(reader: &mut Reader<'_>, length: usize) -> Result<u64, Malformed> {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(reader.take(length)?);
        Ok(u64::from_le_bytes(bytes))
    }
    let time = |reader: &mut Reader<'_>, scale: u8| {
        let count = number(reader, time_length(scale))?;
        let ticks = count.checked_mul(10_u64.pow(7 - u32::from(scale)));
        ticks
            .filter(|ticks| *ticks < 86_400 * super::moments::SECOND)
            .map_or_else(|| reader.malformed(), Ok)
    };
    let moment = |days: i32, ticks: u64| Moment { days, ticks, offset: 0 };
    let text = match (sql_type, length) {
        (SqlType::Date, 3) => moment(number(&mut reader, 3)? as i32, 0).date_text(),
        (SqlType::Time(scale), _) if length == time_length(scale) => {
            Some(moment(0, time(&mut reader, scale)?).time_text())
        }
        (SqlType::SmallDateTime, 4) => {
            let (days, minutes) = (i32::from(reader.u16()?), u64::from(reader.u16()?));
            moment(days + DAYS_TO_1900, minutes % 1440 * 60 * super::moments::SECOND)
                .date_time_text()
        }
        (SqlType::DateTime, 8) => {
            let (days, count) = (reader.u32()?.cast_signed(), reader.u32()?);
            days.checked_add(DAYS_TO_1900)
                .filter(|_| count < 86_400 * 300)
                .and_then(|days| Moment::from_300ths(days, count).date_time_text())
        }
        (SqlType::DateTime2(scale), _) if length == time_length(scale) + 3 => {
            let ticks = time(&mut reader, scale)?;
            moment(number(&mut reader, 3)? as i32, ticks).date_time_text()
        }
        (SqlType::DateTimeOffset(scale), _) if length == time_length(scale) + 5 => {
            let ticks = time(&mut reader, scale)?;
            let days = number(&mut reader, 3)? as i32;
            let offset = reader.u16()?.cast_signed();
            if offset.unsigned_abs() > 14 * 60 {
                return Ok(None);
            }
            Moment { days, ticks, offset }.to_local().offset_text()
        }
        _ => None,
    };
    Ok(text.map(Value::Text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_longer_than_its_type() {
        for (sql_type, longest) in [
            (SqlType::VarChar(Some(3)), "af\u{e9}"),
            (SqlType::NVarChar(Some(3)), "a\u{1f980}"),
            (SqlType::NVarChar(Some(3)), "abc"),
            (SqlType::VarBinary(Some(3)), "abc"),
        ] {
            let mut out = Vec::new();
            let value = |text: String| match sql_type {
                SqlType::VarBinary(_) => Value::Blob(text.into_bytes()),
                _ => Value::Text(text),
            };
            assert_eq!(write(&value(longest.to_owned()), sql_type, &mut out), Ok(()));
            let before = out.clone();
            let error = write(&value(format!("{longest}x")), sql_type, &mut out).unwrap_err();
            assert_eq!((error.number, &out), (2628, &before), "{sql_type}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (declared, value) in [
            ("bit", Value::Integer(1)),
            ("tinyint", Value::Integer(255)),
            ("smallint", Value::Integer(-2)),
            ("int", Value::Integer(i32::MIN.into())),
            ("bigint", Value::Integer(i64::MAX)),
            ("real", Value::Real(1.5)),
            ("float", Value::Real(-0.1)),
            ("decimal(10,2)", Value::Integer(-1234)),
            ("decimal(38,0)", Value::Integer(i64::MIN + 1)),
            ("money", Value::Integer(-12_345)),
            ("date", text("2024-02-29")),
            ("time", text("10:11:12.1234567")),
            ("time(0)", text("23:59:59")),
            ("datetime", text("2024-01-02 03:04:05.007")),
            ("smalldatetime", text("2024-01-02 03:04:00")),
            ("datetime2(3)", text("2024-01-02 03:04:05.678")),
            ("datetimeoffset", text("2024-01-01 00:30:00.5 +02:00")),
            ("varchar(20)", text("caf\u{e9} €")),
            ("nvarchar(20)", text("κόσμε 🦀")),
            ("nvarchar(max)", text(&"long ".repeat(300_000))),
            ("varbinary(max)", Value::Blob(vec![0, 1, 255])),
            ("varbinary(max)", Value::Blob(vec![])),
            ("uniqueidentifier", text("00112233-4455-6677-8899-AABBCCDDEEFF")),
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
    fn a_decimal_that_sqlite_cannot_hold_is_refused_where_it_is_used() {
        let sql_type = SqlType::parse("decimal(38,0)").unwrap();
        let bytes = [&[17, 1][..], &[0xff; 15], &[0]].concat();
        let value = read(&mut Reader::new(&bytes, "value"), sql_type).unwrap();
        assert_eq!(write(&value, sql_type, &mut Vec::new()).unwrap_err().number, 102);
    }

    #[test]
    fn a_value_cut_short_is_malformed() {
        for declared in [
            "int",
            "float",
            "decimal(10,2)",
            "datetime2",
            "nvarchar(10)",
            "nvarchar(max)",
            "uniqueidentifier",
        ] {
            let sql_type = SqlType::parse(declared).unwrap();
            for bytes in [&[][..], &[1], &[200, 1, 2], &[3, 0, 0, 0], &[10, 0, 0, 0, 0, 0, 0, 0, 9]]
            {
                assert!(
                    read(&mut Reader::new(bytes, "value"), sql_type).is_err(),
                    "{declared} {bytes:?}"
                );
            }
        }
    }
}
