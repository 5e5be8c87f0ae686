//! Values: SQLite's on one side, TYPE_VARBYTE on the other (MS-TDS 2.2.5.5).

use rusqlite::types::Value;
use uuid::Uuid;

use super::{
    bytes::{Malformed, Reader, utf16},
    code_page::{from_windows_1252, windows_1252},
    convert::{decimal, integer, moment, real, text},
    decimal::Decimal,
    error::ServerError,
    moments::{DAYS_TO_1900, Moment},
    types::{SqlType, decimal_length},
};

const NULL_LENGTH: u16 = 0xffff;
/// Values of `max` types come in chunks, PLP (MS-TDS 2.2.5.2.3).
const PLP_NULL: u64 = u64::MAX;
const PLP_UNKNOWN_LENGTH: u64 = u64::MAX - 1;

/// Writes `value` as one of this type.
pub(crate) fn write(
    value: &Value,
    sql_type: SqlType,
    out: &mut Vec<u8>,
) -> Result<(), ServerError> {
    match sql_type {
        SqlType::Char(length) | SqlType::VarChar(Some(length)) => {
            write_short(value, length, out, |value| Ok(windows_1252(&text(value))))
        }
        SqlType::NChar(length) | SqlType::NVarChar(Some(length)) => {
            write_short(value, length * 2, out, |value| Ok(utf16(&text(value))))
        }
        SqlType::Binary(length) | SqlType::VarBinary(Some(length)) => {
            write_short(value, length, out, |value| Ok(blob(value)))
        }
        SqlType::VarChar(None) => write_long(value, out, |value| windows_1252(&text(value))),
        SqlType::NVarChar(None) => write_long(value, out, |value| utf16(&text(value))),
        SqlType::VarBinary(None) => write_long(value, out, blob),
        _ => write_fixed(value, sql_type, out),
    }
}

/// A value longer than its column says would break clients.
fn write_short(
    value: &Value,
    longest: u16,
    out: &mut Vec<u8>,
    bytes: impl Fn(&Value) -> Result<Vec<u8>, ServerError>,
) -> Result<(), ServerError> {
    if *value == Value::Null {
        out.extend(NULL_LENGTH.to_le_bytes());
        return Ok(());
    }
    let bytes = bytes(value)?;
    let length = u16::try_from(bytes.len()).ok().filter(|length| *length <= longest);
    let Some(length) = length else {
        return Err(ServerError::new(2628, 16, "String or binary data would be truncated."));
    };
    out.extend(length.to_le_bytes());
    out.extend(bytes);
    Ok(())
}

fn write_long(
    value: &Value,
    out: &mut Vec<u8>,
    bytes: impl Fn(&Value) -> Vec<u8>,
) -> Result<(), ServerError> {
    if *value == Value::Null {
        out.extend(PLP_NULL.to_le_bytes());
        return Ok(());
    }
    let bytes = bytes(value);
    out.extend((bytes.len() as u64).to_le_bytes());
    // A chunk's length is a DWORD, and one of 0 ends the value.
    for chunk in bytes.chunks(1 << 20) {
        out.extend((chunk.len() as u32).to_le_bytes());
        out.extend(chunk);
    }
    out.extend(0_u32.to_le_bytes());
    Ok(())
}

/// Types whose values have one byte of length in front.
fn write_fixed(value: &Value, sql_type: SqlType, out: &mut Vec<u8>) -> Result<(), ServerError> {
    if *value == Value::Null {
        out.push(0);
        return Ok(());
    }
    let mut put = |bytes: &[u8]| {
        out.push(bytes.len() as u8);
        out.extend(bytes);
    };
    let overflow = || {
        ServerError::new(
            8115,
            16,
            format!("Arithmetic overflow error converting expression to data type {sql_type}."),
        )
    };
    match sql_type {
        SqlType::Bit => put(&[u8::from(integer(value, sql_type)? != 0)]),
        SqlType::TinyInt => {
            put(&u8::try_from(integer(value, sql_type)?).map_err(|_| overflow())?.to_le_bytes())
        }
        SqlType::SmallInt => {
            put(&i16::try_from(integer(value, sql_type)?).map_err(|_| overflow())?.to_le_bytes())
        }
        SqlType::Int => {
            put(&i32::try_from(integer(value, sql_type)?).map_err(|_| overflow())?.to_le_bytes())
        }
        SqlType::BigInt => put(&integer(value, sql_type)?.to_le_bytes()),
        SqlType::Real => put(&(real(value, sql_type)? as f32).to_le_bytes()),
        SqlType::Float => put(&real(value, sql_type)?.to_le_bytes()),
        SqlType::Decimal { precision, scale } => {
            let decimal = decimal(value, sql_type)?
                .rescaled(scale)
                .filter(|d| d.fits(precision))
                .ok_or_else(overflow)?;
            let mut bytes = vec![u8::from(decimal.units >= 0)];
            bytes.extend(decimal.units.unsigned_abs().to_le_bytes());
            put(&bytes[..usize::from(decimal_length(precision))]);
        }
        SqlType::SmallMoney => {
            let units = decimal(value, sql_type)?.rescaled(4).ok_or_else(overflow)?.units;
            put(&i32::try_from(units).map_err(|_| overflow())?.to_le_bytes());
        }
        SqlType::Money => {
            let units = decimal(value, sql_type)?.rescaled(4).ok_or_else(overflow)?.units;
            let units = i64::try_from(units).map_err(|_| overflow())?;
            // The more significant half comes first (MS-TDS 2.2.5.5.1.4).
            let mut bytes = ((units >> 32) as i32).to_le_bytes().to_vec();
            bytes.extend((units as u32).to_le_bytes());
            put(&bytes);
        }
        SqlType::UniqueIdentifier => {
            let uuid = Uuid::parse_str(&text(value)).map_err(|_| {
                ServerError::new(8169, 16, "Conversion failed when converting from a character string to uniqueidentifier.")
            })?;
            put(&uuid.to_bytes_le());
        }
        _ => put(&moment_bytes(moment(value)?, sql_type)),
    }
    Ok(())
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
        SqlType::VarChar(length) => match read_bytes(reader, length.is_none())? {
            Some(bytes) => Value::Text(from_windows_1252(&bytes)),
            None => Value::Null,
        },
        SqlType::NVarChar(length) => match read_bytes(reader, length.is_none())? {
            Some(bytes) => Value::Text(Reader::new(&bytes, "text").utf16(bytes.len())?),
            None => Value::Null,
        },
        SqlType::VarBinary(length) => match read_bytes(reader, length.is_none())? {
            Some(bytes) => Value::Blob(bytes),
            None => Value::Null,
        },
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
        (SqlType::Decimal { scale, .. }, 5 | 9 | 13 | 17) => {
            let positive = reader.u8()? != 0;
            let mut magnitude = [0; 16];
            magnitude[..bytes.len() - 1].copy_from_slice(reader.rest());
            let Ok(units) = i128::try_from(u128::from_le_bytes(magnitude)) else { return Ok(None) };
            Decimal { units: if positive { units } else { -units }, scale }.to_value()
        }
        (SqlType::SmallMoney, 4) => {
            Decimal { units: reader.u32()?.cast_signed().into(), scale: 4 }.to_value()
        }
        (SqlType::Money, 8) => {
            let (high, low) = (reader.u32()?.cast_signed(), reader.u32()?);
            Decimal { units: (i128::from(high) << 32) | i128::from(low), scale: 4 }.to_value()
        }
        (SqlType::UniqueIdentifier, 16) => Uuid::from_slice_le(bytes)
            .map(|uuid| Value::Text(uuid.to_string()))
            .unwrap_or(Value::Null),
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

fn blob(value: &Value) -> Vec<u8> {
    match value {
        Value::Blob(bytes) => bytes.clone(),
        other => text(other).into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_longer_than_its_type() {
        for (sql_type, longest) in [
            (SqlType::Char(3), "af\u{e9}"),
            (SqlType::VarChar(Some(3)), "af\u{e9}"),
            (SqlType::NChar(3), "a\u{1f980}"),
            (SqlType::NVarChar(Some(3)), "abc"),
            (SqlType::Binary(3), "abc"),
            (SqlType::VarBinary(Some(3)), "abc"),
        ] {
            let mut out = Vec::new();
            let value = |text: String| match sql_type {
                SqlType::Binary(_) | SqlType::VarBinary(_) => Value::Blob(text.into_bytes()),
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
            ("decimal(10,2)", Value::Real(-12.34)),
            ("decimal(38,0)", text("99999999999999999999999999999999999999")),
            ("money", Value::Real(-1.2345)),
            ("smallmoney", Value::Real(-1.5)),
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
            ("uniqueidentifier", text("00112233-4455-6677-8899-aabbccddeeff")),
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
    fn what_does_not_fit_is_an_error_with_its_number() {
        for (declared, value, number) in [
            ("int", Value::Integer(1 << 40), 8115),
            ("tinyint", Value::Integer(-1), 8115),
            ("int", Value::Text("x".into()), 245),
            ("decimal(3,1)", Value::Real(100.0), 8115),
            ("date", Value::Text("soon".into()), 241),
            ("uniqueidentifier", Value::Text("soon".into()), 8169),
        ] {
            let error =
                write(&value, SqlType::parse(declared).unwrap(), &mut Vec::new()).unwrap_err();
            assert_eq!(error.number, number, "{declared}");
        }
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
