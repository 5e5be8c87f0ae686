//! SQL Server's types: how they are declared, and how TYPE_INFO tells of them
//! (MS-TDS 2.2.5.4 to 2.2.5.6).

use std::fmt;

use super::bytes::{Malformed, Reader};

/// A type. Lengths are in characters or bytes; `None` is `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SqlType {
    Bit,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Real,
    Float,
    Decimal { precision: u8, scale: u8 },
    SmallMoney,
    Money,
    Date,
    Time(u8),
    SmallDateTime,
    DateTime,
    DateTime2(u8),
    DateTimeOffset(u8),
    Char(u16),
    VarChar(Option<u16>),
    NChar(u16),
    NVarChar(Option<u16>),
    UniqueIdentifier,
    Binary(u16),
    VarBinary(Option<u16>),
}

/// SQL_Latin1_General_CP1_CI_AS.
pub(crate) const COLLATION: [u8; 5] = [0x09, 0x04, 0xd0, 0x00, 0x34];

/// A length on the wire that stands for `max`.
const MAX: u16 = 0xffff;

impl SqlType {
    /// The type that a column, variable or parameter is declared with.
    pub(crate) fn parse(declaration: &str) -> Option<Self> {
        Self::parse_with(declaration, 1)
    }

    /// The type that a value is cast to: `varchar` is one of 30 there.
    pub(crate) fn parse_cast(declaration: &str) -> Option<Self> {
        Self::parse_with(declaration, 30)
    }

    fn parse_with(declaration: &str, default_length: u16) -> Option<Self> {
        let text = declaration.trim().to_ascii_lowercase();
        let (name, arguments) = match text.split_once('(') {
            Some((name, rest)) => {
                (name, rest.strip_suffix(')')?.split(',').map(str::trim).collect())
            }
            None => (text.as_str(), Vec::new()),
        };
        let name = name.trim().trim_start_matches('[').trim_end_matches(']');
        let number = |index: usize| arguments.get(index).map(|text| text.parse::<u16>().ok());
        let length = |most: u16| match number(0) {
            None => Some(default_length),
            Some(Some(length)) if (1..=most).contains(&length) => Some(length),
            Some(_) => None,
        };
        let or_max = |most: u16| match arguments.first() {
            Some(&"max") => Some(None),
            _ => length(most).map(Some),
        };
        let scale = || match number(0) {
            None => Some(7),
            Some(Some(scale @ 0..=7)) => Some(scale as u8),
            Some(_) => None,
        };
        Some(match name {
            "bit" | "boolean" | "bool" => Self::Bit,
            "tinyint" => Self::TinyInt,
            "smallint" | "int2" => Self::SmallInt,
            "int" | "integer" | "int4" => Self::Int,
            "bigint" | "int8" => Self::BigInt,
            "real" | "float4" => Self::Real,
            "float" if matches!(number(0), Some(Some(1..=24))) => Self::Real,
            "float" | "double precision" | "float8" => Self::Float,
            "decimal" | "numeric" | "dec" => {
                let precision = number(0).unwrap_or(Some(18))?;
                let scale = number(1).unwrap_or(Some(0))?;
                if !(1..=38).contains(&precision) || scale > precision {
                    return None;
                }
                Self::Decimal { precision: precision as u8, scale: scale as u8 }
            }
            "smallmoney" => Self::SmallMoney,
            "money" => Self::Money,
            "date" => Self::Date,
            "time" => Self::Time(scale()?),
            "smalldatetime" => Self::SmallDateTime,
            "datetime" => Self::DateTime,
            "datetime2" | "timestamp" => Self::DateTime2(scale()?),
            "datetimeoffset" | "timestamptz" | "timestamp with time zone" => {
                Self::DateTimeOffset(scale()?)
            }
            "char" | "character" => Self::Char(length(8000)?),
            "varchar" | "character varying" | "char varying" => Self::VarChar(or_max(8000)?),
            "nchar" => Self::NChar(length(4000)?),
            "nvarchar" => Self::NVarChar(or_max(4000)?),
            "sysname" => Self::NVarChar(Some(128)),
            "text" | "ntext" => Self::NVarChar(None),
            "uniqueidentifier" | "uuid" => Self::UniqueIdentifier,
            "binary" => Self::Binary(length(8000)?),
            "varbinary" => Self::VarBinary(or_max(8000)?),
            "image" | "bytea" => Self::VarBinary(None),
            _ => return None,
        })
    }

    /// Whether values are text that compares without case.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Char(_) | Self::VarChar(_) | Self::NChar(_) | Self::NVarChar(_))
    }

    /// The most characters that a text column takes.
    pub(crate) fn text_length(self) -> Option<u16> {
        match self {
            Self::Char(length) | Self::NChar(length) => Some(length),
            Self::VarChar(length) | Self::NVarChar(length) => length,
            _ => None,
        }
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Self::Bit | Self::TinyInt | Self::SmallInt | Self::Int | Self::BigInt)
    }

    /// Writes TYPE_INFO.
    pub(crate) fn write_info(self, out: &mut Vec<u8>) {
        let text = |out: &mut Vec<u8>, id: u8, bytes: Option<u16>| {
            out.push(id);
            out.extend(bytes.unwrap_or(MAX).to_le_bytes());
            out.extend(COLLATION);
        };
        match self {
            Self::Bit => out.extend([id::BITN, 1]),
            Self::TinyInt => out.extend([id::INTN, 1]),
            Self::SmallInt => out.extend([id::INTN, 2]),
            Self::Int => out.extend([id::INTN, 4]),
            Self::BigInt => out.extend([id::INTN, 8]),
            Self::Real => out.extend([id::FLTN, 4]),
            Self::Float => out.extend([id::FLTN, 8]),
            Self::Decimal { precision, scale } => {
                out.extend([id::DECIMALN, decimal_length(precision), precision, scale]);
            }
            Self::SmallMoney => out.extend([id::MONEYN, 4]),
            Self::Money => out.extend([id::MONEYN, 8]),
            Self::Date => out.push(id::DATEN),
            Self::Time(scale) => out.extend([id::TIMEN, scale]),
            Self::SmallDateTime => out.extend([id::DATETIMN, 4]),
            Self::DateTime => out.extend([id::DATETIMN, 8]),
            Self::DateTime2(scale) => out.extend([id::DATETIME2N, scale]),
            Self::DateTimeOffset(scale) => out.extend([id::DATETIMEOFFSETN, scale]),
            Self::Char(length) => text(out, id::BIGCHAR, Some(length)),
            Self::VarChar(length) => text(out, id::BIGVARCHAR, length),
            Self::NChar(length) => text(out, id::NCHAR, Some(length * 2)),
            Self::NVarChar(length) => text(out, id::NVARCHAR, length.map(|units| units * 2)),
            Self::UniqueIdentifier => out.extend([id::GUID, 16]),
            Self::Binary(length) => {
                out.push(id::BIGBINARY);
                out.extend(length.to_le_bytes());
            }
            Self::VarBinary(length) => {
                out.push(id::BIGVARBIN);
                out.extend(length.unwrap_or(MAX).to_le_bytes());
            }
        }
    }

    /// Reads a parameter's TYPE_INFO: `None` for the type of a bare NULL.
    pub(crate) fn read_info(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let id = reader.u8()?;
        let scale = |reader: &mut Reader<'_>| match reader.u8()? {
            scale @ 0..=7 => Ok(scale),
            _ => reader.malformed(),
        };
        let length = |reader: &mut Reader<'_>, unit: u16| match reader.u16()? {
            MAX => Ok(None),
            bytes @ 0..=8000 => Ok(Some((bytes / unit).max(1))),
            _ => reader.malformed(),
        };
        let text = |reader: &mut Reader<'_>, unit: u16| {
            let length = length(reader, unit)?;
            reader.take(COLLATION.len())?;
            Ok::<_, Malformed>(length)
        };
        Ok(Some(match id {
            id::NULL => return Ok(None),
            id::BITN => {
                reader.u8()?;
                Self::Bit
            }
            id::INTN => match reader.u8()? {
                1 => Self::TinyInt,
                2 => Self::SmallInt,
                4 => Self::Int,
                8 => Self::BigInt,
                _ => return reader.malformed(),
            },
            id::FLTN => match reader.u8()? {
                4 => Self::Real,
                8 => Self::Float,
                _ => return reader.malformed(),
            },
            id::DECIMALN | id::NUMERICN => {
                let (_, precision, scale) = (reader.u8()?, reader.u8()?, reader.u8()?);
                if !(1..=38).contains(&precision) || scale > precision {
                    return reader.malformed();
                }
                Self::Decimal { precision, scale }
            }
            id::MONEYN => match reader.u8()? {
                4 => Self::SmallMoney,
                8 => Self::Money,
                _ => return reader.malformed(),
            },
            id::DATEN => Self::Date,
            id::TIMEN => Self::Time(scale(reader)?),
            id::DATETIMN => match reader.u8()? {
                4 => Self::SmallDateTime,
                8 => Self::DateTime,
                _ => return reader.malformed(),
            },
            id::DATETIME2N => Self::DateTime2(scale(reader)?),
            id::DATETIMEOFFSETN => Self::DateTimeOffset(scale(reader)?),
            id::GUID => {
                reader.u8()?;
                Self::UniqueIdentifier
            }
            id::BIGCHAR | id::BIGVARCHAR => Self::VarChar(text(reader, 1)?),
            id::NCHAR | id::NVARCHAR => Self::NVarChar(text(reader, 2)?),
            id::BIGBINARY | id::BIGVARBIN => Self::VarBinary(length(reader, 1)?),
            _ => return reader.malformed(),
        }))
    }
}

/// How many bytes a decimal of this precision takes, its sign included
/// (MS-TDS 2.2.5.5.1.6).
pub(crate) fn decimal_length(precision: u8) -> u8 {
    match precision {
        0..=9 => 5,
        10..=19 => 9,
        20..=28 => 13,
        _ => 17,
    }
}

/// As a declaration.
impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sized = |f: &mut fmt::Formatter<'_>, name: &str, length: Option<u16>| match length {
            Some(length) => write!(f, "{name}({length})"),
            None => write!(f, "{name}(max)"),
        };
        let scaled = |f: &mut fmt::Formatter<'_>, name: &str, scale: u8| match scale {
            7 => f.write_str(name),
            _ => write!(f, "{name}({scale})"),
        };
        match *self {
            Self::Bit => f.write_str("bit"),
            Self::TinyInt => f.write_str("tinyint"),
            Self::SmallInt => f.write_str("smallint"),
            Self::Int => f.write_str("int"),
            Self::BigInt => f.write_str("bigint"),
            Self::Real => f.write_str("real"),
            Self::Float => f.write_str("float"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::SmallMoney => f.write_str("smallmoney"),
            Self::Money => f.write_str("money"),
            Self::Date => f.write_str("date"),
            Self::Time(scale) => scaled(f, "time", scale),
            Self::SmallDateTime => f.write_str("smalldatetime"),
            Self::DateTime => f.write_str("datetime"),
            Self::DateTime2(scale) => scaled(f, "datetime2", scale),
            Self::DateTimeOffset(scale) => scaled(f, "datetimeoffset", scale),
            Self::Char(length) => sized(f, "char", Some(length)),
            Self::VarChar(length) => sized(f, "varchar", length),
            Self::NChar(length) => sized(f, "nchar", Some(length)),
            Self::NVarChar(length) => sized(f, "nvarchar", length),
            Self::UniqueIdentifier => f.write_str("uniqueidentifier"),
            Self::Binary(length) => sized(f, "binary", Some(length)),
            Self::VarBinary(length) => sized(f, "varbinary", length),
        }
    }
}

/// Type numbers (MS-TDS 2.2.5.4).
mod id {
    pub(super) const NULL: u8 = 0x1f;
    pub(super) const GUID: u8 = 0x24;
    pub(super) const INTN: u8 = 0x26;
    pub(super) const DATEN: u8 = 0x28;
    pub(super) const TIMEN: u8 = 0x29;
    pub(super) const DATETIME2N: u8 = 0x2a;
    pub(super) const DATETIMEOFFSETN: u8 = 0x2b;
    pub(super) const BITN: u8 = 0x68;
    pub(super) const DECIMALN: u8 = 0x6a;
    pub(super) const NUMERICN: u8 = 0x6c;
    pub(super) const FLTN: u8 = 0x6d;
    pub(super) const MONEYN: u8 = 0x6e;
    pub(super) const DATETIMN: u8 = 0x6f;
    pub(super) const BIGVARBIN: u8 = 0xa5;
    pub(super) const BIGVARCHAR: u8 = 0xa7;
    pub(super) const BIGBINARY: u8 = 0xad;
    pub(super) const BIGCHAR: u8 = 0xaf;
    pub(super) const NVARCHAR: u8 = 0xe7;
    pub(super) const NCHAR: u8 = 0xef;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_is_read_and_written_alike() {
        for text in [
            "bit",
            "tinyint",
            "smallint",
            "int",
            "bigint",
            "real",
            "float",
            "decimal(10,2)",
            "smallmoney",
            "money",
            "date",
            "time",
            "time(3)",
            "smalldatetime",
            "datetime",
            "datetime2",
            "datetime2(0)",
            "datetimeoffset(5)",
            "char(3)",
            "varchar(8000)",
            "varchar(max)",
            "nchar(4)",
            "nvarchar(50)",
            "nvarchar(max)",
            "uniqueidentifier",
            "binary(4)",
            "varbinary(16)",
            "varbinary(max)",
        ] {
            assert_eq!(SqlType::parse(text).expect(text).to_string(), text);
        }
        for (text, meant) in [
            ("NUMERIC", "decimal(18,0)"),
            ("float(24)", "real"),
            ("float(53)", "float"),
            ("[nvarchar](50)", "nvarchar(50)"),
            ("nvarchar", "nvarchar(1)"),
            ("INTEGER", "int"),
        ] {
            assert_eq!(SqlType::parse(text).expect(text).to_string(), meant);
        }
        assert_eq!(SqlType::parse_cast("nvarchar"), Some(SqlType::NVarChar(Some(30))));
        for text in [
            "geometry",
            "nvarchar(4001)",
            "decimal(39,0)",
            "decimal(2,3)",
            "time(8)",
            "int)",
            "char(0)",
        ] {
            assert_eq!(SqlType::parse(text), None, "{text}");
        }
    }

    #[test]
    fn type_info_is_read_as_written() {
        for text in [
            "bit",
            "bigint",
            "real",
            "decimal(38,7)",
            "money",
            "date",
            "time(3)",
            "datetime",
            "datetime2",
            "datetimeoffset(5)",
            "varchar(12)",
            "nvarchar(50)",
            "nvarchar(max)",
            "uniqueidentifier",
            "varbinary(max)",
        ] {
            let mut info = Vec::new();
            SqlType::parse(text).unwrap().write_info(&mut info);
            let mut reader = Reader::new(&info, "type");
            assert_eq!(SqlType::read_info(&mut reader), Ok(SqlType::parse(text)), "{text}");
            assert!(reader.is_empty(), "{text}");
        }
    }
}
