//! SQL Server's types: how they are declared, and how TYPE_INFO tells of them
//! (MS-TDS 2.2.5.4 to 2.2.5.6).

use std::{fmt, mem::discriminant};

use super::bytes::{Malformed, Reader};

/// A type. Lengths are in characters or bytes; `None` is `max`.
/// In the order of T-SQL's precedence: of two types, an operator takes the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SqlType {
    VarBinary(Option<u16>),
    VarChar(Option<u16>),
    NVarChar(Option<u16>),
    UniqueIdentifier,
    Bit,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Money,
    Decimal { precision: u8, scale: u8 },
    Real,
    Float,
    Time(u8),
    Date,
    SmallDateTime,
    DateTime,
    DateTime2(u8),
    DateTimeOffset(u8),
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
        let number = |index: usize, default: u16, least: u16, most: u16| {
            let number = arguments.get(index).map_or(Some(default), |text| text.parse().ok());
            number.filter(|number| (least..=most).contains(number))
        };
        let length = |most: u16| match arguments.first() {
            Some(&"max") => Some(None),
            _ => number(0, default_length, 1, most).map(Some),
        };
        let scale = || number(0, 7, 0, 7).map(|scale| scale as u8);
        Some(match (name, arguments.len()) {
            ("integer", 0) => Self::Int,
            ("float", 1) if number(0, 53, 1, 53)? <= 24 => Self::Real,
            ("float", 1) => Self::Float,
            ("decimal" | "numeric", 0..=2) => {
                let (precision, scale) = (number(0, 18, 1, 38)?, number(1, 0, 0, 38)?);
                let decimal = Self::Decimal { precision: precision as u8, scale: scale as u8 };
                return (scale <= precision).then_some(decimal);
            }
            ("date", 0) => Self::Date,
            ("time", 0..=1) => Self::Time(scale()?),
            ("datetime2", 0..=1) => Self::DateTime2(scale()?),
            ("datetimeoffset", 0..=1) => Self::DateTimeOffset(scale()?),
            ("varchar", 0..=1) => Self::VarChar(length(8000)?),
            ("nvarchar", 0..=1) => Self::NVarChar(length(4000)?),
            ("varbinary", 0..=1) => Self::VarBinary(length(8000)?),
            (_, 0) => FIXED.iter().find(|fixed| fixed.0 == name)?.1,
            _ => return None,
        })
    }

    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::VarChar(_) | Self::NVarChar(_))
    }

    /// Whether text is of UTF-16; else it is of code page 1252.
    pub(crate) fn is_unicode(self) -> bool {
        matches!(self, Self::NVarChar(_))
    }

    pub(crate) fn is_binary(self) -> bool {
        matches!(self, Self::VarBinary(_))
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Self::Bit | Self::TinyInt | Self::SmallInt | Self::Int | Self::BigInt)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::Real | Self::Float)
    }

    pub(crate) fn is_number(self) -> bool {
        Self::Bit <= self && self <= Self::Float
    }

    /// The most units (UTF-16 or bytes) that a text or binary value has; `None` for `max`.
    pub(crate) fn length(self) -> Option<u16> {
        match self {
            Self::VarChar(length) | Self::NVarChar(length) | Self::VarBinary(length) => length,
            _ => None,
        }
    }

    /// Digits and decimals of an exact number.
    pub(crate) fn digits(self) -> Option<(u8, u8)> {
        Some(match self {
            Self::Bit => (1, 0),
            Self::TinyInt => (3, 0),
            Self::SmallInt => (5, 0),
            Self::Int => (10, 0),
            Self::BigInt => (19, 0),
            Self::Money => (19, 4),
            Self::Decimal { precision, scale } => (precision, scale),
            _ => return None,
        })
    }

    /// The type that UNION ALL, COALESCE and comparisons make of two; `None` where T-SQL or the
    /// stand-in has none.
    pub(crate) fn common(self, other: Self) -> Option<Self> {
        let (low, high) = (self.min(other), self.max(other));
        let length = |most: u16| {
            let longest = low.length().zip(high.length()).map(|(low, high)| low.max(high));
            longest.filter(|length| *length <= most)
        };
        match (low, high) {
            _ if low == high => Some(high),
            (low, Self::NVarChar(_)) if low.is_text() => Some(Self::NVarChar(length(4000))),
            (Self::VarChar(_), Self::VarChar(_)) => Some(Self::VarChar(length(8000))),
            (Self::VarBinary(_), Self::VarBinary(_)) => Some(Self::VarBinary(length(8000))),
            (low, Self::Decimal { .. }) if low.is_text() => None,
            (low, high) if low.is_text() => Some(high),
            (low, Self::Decimal { precision, scale }) if low.is_number() && low != Self::Money => {
                let (digits, decimals) = low.digits()?;
                let most = scale.max(decimals);
                let precision = (precision - scale).max(digits - decimals) + most;
                (precision <= 38).then_some(Self::Decimal { precision, scale: most })
            }
            (low, high) if low.is_number() && high.is_number() => {
                (low != Self::Money || high == Self::Money).then_some(high)
            }
            (low, high) if discriminant(&low) == discriminant(&high) => Some(high),
            _ => None,
        }
    }

    /// Writes TYPE_INFO.
    pub(crate) fn write_info(self, out: &mut Vec<u8>) {
        let mut sized = |id: u8, bytes: Option<u16>| {
            out.push(id);
            out.extend(bytes.unwrap_or(MAX).to_le_bytes());
        };
        match self {
            Self::VarBinary(length) => sized(id::BIGVARBIN, length),
            Self::VarChar(length) => sized(id::BIGVARCHAR, length),
            Self::NVarChar(length) => sized(id::NVARCHAR, length.map(|units| units * 2)),
            Self::Decimal { precision, scale } => {
                out.extend([id::DECIMALN, decimal_length(precision), precision, scale]);
            }
            Self::Date => out.push(id::DATEN),
            Self::Time(scale) => out.extend([id::TIMEN, scale]),
            Self::DateTime2(scale) => out.extend([id::DATETIME2N, scale]),
            Self::DateTimeOffset(scale) => out.extend([id::DATETIMEOFFSETN, scale]),
            _ => {
                let fixed = FIXED.iter().find(|fixed| fixed.1 == self);
                out.extend(fixed.into_iter().flat_map(|fixed| [fixed.2, fixed.3]));
            }
        }
        if self.is_text() {
            out.extend(COLLATION);
        }
    }

    /// Reads a parameter's TYPE_INFO: `None` for the type of a bare NULL.
    pub(crate) fn read_info(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let id = reader.u8()?;
        let scale = |reader: &mut Reader<'_>| match reader.u8()? {
            scale @ 0..=7 => Ok(scale),
            _ => reader.malformed(),
        };
        let length = |reader: &mut Reader<'_>, unit: u16, is_text: bool| {
            let length = match reader.u16()? {
                MAX => None,
                bytes @ 0..=8000 => Some((bytes / unit).max(1)),
                _ => return reader.malformed(),
            };
            reader.take(if is_text { COLLATION.len() } else { 0 })?;
            Ok(length)
        };
        Ok(Some(match id {
            id::NULL => return Ok(None),
            id::DECIMALN | id::NUMERICN => {
                let (_, precision, scale) = (reader.u8()?, reader.u8()?, reader.u8()?);
                if !(1..=38).contains(&precision) || scale > precision {
                    return reader.malformed();
                }
                Self::Decimal { precision, scale }
            }
            id::DATEN => Self::Date,
            id::TIMEN => Self::Time(scale(reader)?),
            id::DATETIME2N => Self::DateTime2(scale(reader)?),
            id::DATETIMEOFFSETN => Self::DateTimeOffset(scale(reader)?),
            id::BIGCHAR | id::BIGVARCHAR => Self::VarChar(length(reader, 1, true)?),
            id::NCHAR | id::NVARCHAR => Self::NVarChar(length(reader, 2, true)?),
            id::BIGBINARY | id::BIGVARBIN => Self::VarBinary(length(reader, 1, false)?),
            _ => {
                let size = reader.u8()?;
                let fixed = FIXED.iter().find(|fixed| (fixed.2, fixed.3) == (id, size));
                return fixed.map_or_else(|| reader.malformed(), |fixed| Ok(Some(fixed.1)));
            }
        }))
    }
}

/// Types that have no arguments: what they are called, and their TYPE_INFO.
const FIXED: [(&str, SqlType, u8, u8); 11] = [
    ("bit", SqlType::Bit, id::BITN, 1),
    ("tinyint", SqlType::TinyInt, id::INTN, 1),
    ("smallint", SqlType::SmallInt, id::INTN, 2),
    ("int", SqlType::Int, id::INTN, 4),
    ("bigint", SqlType::BigInt, id::INTN, 8),
    ("real", SqlType::Real, id::FLTN, 4),
    ("float", SqlType::Float, id::FLTN, 8),
    ("money", SqlType::Money, id::MONEYN, 8),
    ("smalldatetime", SqlType::SmallDateTime, id::DATETIMN, 4),
    ("datetime", SqlType::DateTime, id::DATETIMN, 8),
    ("uniqueidentifier", SqlType::UniqueIdentifier, id::GUID, 16),
];

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
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Date => f.write_str("date"),
            Self::Time(scale) => scaled(f, "time", scale),
            Self::DateTime2(scale) => scaled(f, "datetime2", scale),
            Self::DateTimeOffset(scale) => scaled(f, "datetimeoffset", scale),
            Self::VarChar(length) => sized(f, "varchar", length),
            Self::NVarChar(length) => sized(f, "nvarchar", length),
            Self::VarBinary(length) => sized(f, "varbinary", length),
            _ => {
                f.write_str(FIXED.iter().find(|fixed| fixed.1 == *self).map_or("", |fixed| fixed.0))
            }
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
            "money",
            "date",
            "time",
            "time(3)",
            "smalldatetime",
            "datetime",
            "datetime2",
            "datetime2(0)",
            "datetimeoffset(5)",
            "varchar(8000)",
            "varchar(max)",
            "nvarchar(50)",
            "nvarchar(max)",
            "uniqueidentifier",
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
            "varchar(0)",
            "char(3)",
            "int(3)",
            "float(54)",
            "timestamp",
            "text",
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
