//! SQL Server's types: how they are declared, and how TYPE_INFO describes them
//! (MS-TDS 2.2.5.4 to 2.2.5.6).

use std::fmt;

use super::bytes::{Malformed, Reader};

/// A type. Lengths are in characters; `None` is `max`.
/// The order is T-SQL's precedence: an operator converts both operands to the later type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SqlType {
    VarChar(Option<u16>),
    NVarChar(Option<u16>),
    Bit,
    TinyInt,
    SmallInt,
    Int,
    BigInt,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Date,
    /// An unsupported type: its parameter is refused, but read, so that the next one can be read.
    Refused(u8, Prefix),
}

/// What precedes a value on the wire (MS-TDS 2.2.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prefix {
    Byte,
    Short,
    /// The length of the whole and of each chunk, for types of `max` length.
    Chunks,
}

/// SQL_Latin1_General_CP1_CI_AS.
pub(crate) const COLLATION: [u8; 5] = [0x09, 0x04, 0xd0, 0x00, 0x34];

/// The length of a `max` type on the wire.
const MAX: u16 = 0xffff;

impl SqlType {
    /// The type that a column, variable or parameter is declared with.
    pub(crate) fn parse(declaration: &str) -> Option<Self> {
        Self::parse_with(declaration, 1)
    }

    /// The type that a value is cast to, where `varchar` means `varchar(30)`.
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
        Some(match (name, arguments.len()) {
            ("integer", 0) => Self::Int,
            ("date", 0) => Self::Date,
            ("decimal" | "numeric", 0..=2) => {
                let (precision, scale) = (number(0, 18, 1, 38)?, number(1, 0, 0, 38)?);
                let decimal = Self::Decimal { precision: precision as u8, scale: scale as u8 };
                return (scale <= precision).then_some(decimal);
            }
            ("varchar", 0..=1) => Self::VarChar(length(8000)?),
            ("nvarchar", 0..=1) => Self::NVarChar(length(4000)?),
            (_, 0) => INTEGERS.iter().find(|integer| integer.0 == name)?.1,
            _ => return None,
        })
    }

    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::VarChar(_) | Self::NVarChar(_))
    }

    /// Whether text is UTF-16. Other text is ASCII here.
    pub(crate) fn is_unicode(self) -> bool {
        matches!(self, Self::NVarChar(_))
    }

    pub(crate) fn is_integer(self) -> bool {
        Self::Bit <= self && self <= Self::BigInt
    }

    /// The most units of text (UTF-16 or bytes); `None` for `max`.
    pub(crate) fn length(self) -> Option<u16> {
        match self {
            Self::VarChar(length) | Self::NVarChar(length) => length,
            _ => None,
        }
    }

    /// Digits and decimals of a number.
    pub(crate) fn digits(self) -> Option<(u8, u8)> {
        Some(match self {
            Self::Bit => (1, 0),
            Self::TinyInt => (3, 0),
            Self::SmallInt => (5, 0),
            Self::Int => (10, 0),
            Self::BigInt => (19, 0),
            Self::Decimal { precision, scale } => (precision, scale),
            _ => return None,
        })
    }

    /// The type that UNION ALL and comparisons convert both types to; `None` if the emulator does
    /// not support the pair.
    pub(crate) fn common(self, other: Self) -> Option<Self> {
        let (low, high) = (self.min(other), self.max(other));
        if low == high {
            return Some(high);
        }
        if low.is_text() && high.is_text() {
            let length = low.length().zip(high.length()).map(|(low, high)| low.max(high));
            let most = |most: u16| length.filter(|length| *length <= most);
            return Some(match high.is_unicode() {
                true => Self::NVarChar(most(4000)),
                false => Self::VarChar(most(8000)),
            });
        }
        let ((low_digits, low_scale), (digits, scale)) = (low.digits()?, high.digits()?);
        if high.is_integer() {
            return Some(high);
        }
        let decimals = scale.max(low_scale);
        let precision = (digits - scale).max(low_digits - low_scale) + decimals;
        (precision <= 38).then_some(Self::Decimal { precision, scale: decimals })
    }

    pub(crate) fn prefix(self) -> Prefix {
        match self {
            Self::Refused(_, prefix) => prefix,
            Self::VarChar(None) | Self::NVarChar(None) => Prefix::Chunks,
            Self::VarChar(_) | Self::NVarChar(_) => Prefix::Short,
            _ => Prefix::Byte,
        }
    }

    /// Writes TYPE_INFO.
    pub(crate) fn write_info(self, out: &mut Vec<u8>) {
        match self {
            Self::VarChar(length) => {
                out.push(id::BIGVARCHAR);
                out.extend(length.unwrap_or(MAX).to_le_bytes());
            }
            Self::NVarChar(length) => {
                out.push(id::NVARCHAR);
                out.extend(length.map_or(MAX, |units| units * 2).to_le_bytes());
            }
            Self::Decimal { precision, scale } => {
                out.extend([id::DECIMALN, decimal_length(precision), precision, scale]);
            }
            Self::Date => out.push(id::DATEN),
            _ => {
                let integer = INTEGERS.iter().find(|integer| integer.1 == self);
                out.extend(integer.into_iter().flat_map(|integer| [integer.2, integer.3]));
            }
        }
        if self.is_text() {
            out.extend(COLLATION);
        }
    }

    /// Reads a parameter's TYPE_INFO: `None` for the type of a bare NULL.
    pub(crate) fn read_info(reader: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let id = reader.u8()?;
        let length = |reader: &mut Reader<'_>| match reader.u16()? {
            MAX => Ok(None),
            bytes @ 0..=8000 => Ok(Some(bytes)),
            _ => reader.malformed(),
        };
        Ok(Some(match id {
            id::NULL => return Ok(None),
            id::DECIMALN | id::NUMERICN => {
                let [_, precision, scale] = reader.array()?;
                if !(1..=38).contains(&precision) || scale > precision {
                    return reader.malformed();
                }
                Self::Decimal { precision, scale }
            }
            id::DATEN => Self::Date,
            id::BIGCHAR | id::BIGVARCHAR | id::NCHAR | id::NVARCHAR => {
                let bytes = length(reader)?;
                reader.take(COLLATION.len())?;
                match id {
                    id::BIGCHAR | id::BIGVARCHAR => Self::VarChar(bytes.map(|bytes| bytes.max(1))),
                    _ => Self::NVarChar(bytes.map(|bytes| (bytes / 2).max(1))),
                }
            }
            id::BIGBINARY | id::BIGVARBIN => {
                let prefix = length(reader)?.map_or(Prefix::Chunks, |_| Prefix::Short);
                Self::Refused(id, prefix)
            }
            _ => {
                let size = reader.u8()?;
                let integer = INTEGERS.iter().find(|integer| (integer.2, integer.3) == (id, size));
                match integer {
                    Some(integer) => integer.1,
                    None if id::REFUSED.contains(&id) => Self::Refused(id, Prefix::Byte),
                    None => return reader.malformed(),
                }
            }
        }))
    }
}

/// Integers: their names, and their TYPE_INFO.
const INTEGERS: [(&str, SqlType, u8, u8); 5] = [
    ("bit", SqlType::Bit, id::BITN, 1),
    ("tinyint", SqlType::TinyInt, id::INTN, 1),
    ("smallint", SqlType::SmallInt, id::INTN, 2),
    ("int", SqlType::Int, id::INTN, 4),
    ("bigint", SqlType::BigInt, id::INTN, 8),
];

/// The bytes of a decimal of this precision, including its sign (MS-TDS 2.2.5.5.1.6).
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
        let name = if self.is_unicode() { "nvarchar" } else { "varchar" };
        match *self {
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Date => f.write_str("date"),
            Self::VarChar(Some(length)) | Self::NVarChar(Some(length)) => {
                write!(f, "{name}({length})")
            }
            Self::VarChar(None) | Self::NVarChar(None) => write!(f, "{name}(max)"),
            Self::Refused(id, _) => write!(f, "type {id:#x}"),
            _ => {
                let integer = INTEGERS.iter().find(|integer| integer.1 == *self);
                f.write_str(integer.map_or("", |integer| integer.0))
            }
        }
    }
}

/// Type numbers (MS-TDS 2.2.5.4).
mod id {
    pub(super) const NULL: u8 = 0x1f;
    pub(super) const INTN: u8 = 0x26;
    pub(super) const DATEN: u8 = 0x28;
    pub(super) const BITN: u8 = 0x68;
    pub(super) const DECIMALN: u8 = 0x6a;
    pub(super) const NUMERICN: u8 = 0x6c;
    pub(super) const BIGVARBIN: u8 = 0xa5;
    pub(super) const BIGVARCHAR: u8 = 0xa7;
    pub(super) const BIGBINARY: u8 = 0xad;
    pub(super) const BIGCHAR: u8 = 0xaf;
    pub(super) const NVARCHAR: u8 = 0xe7;
    pub(super) const NCHAR: u8 = 0xef;

    /// `uniqueidentifier`, `time`, `datetime2`, `datetimeoffset`, `float`, `money` and
    /// `datetime`: one byte of TYPE_INFO follows the number.
    pub(super) const REFUSED: [u8; 7] = [0x24, 0x29, 0x2a, 0x2b, 0x6d, 0x6e, 0x6f];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_is_written_as_it_was_read() {
        for text in [
            "bit",
            "tinyint",
            "smallint",
            "int",
            "bigint",
            "decimal(10,2)",
            "date",
            "varchar(8000)",
            "varchar(max)",
            "nvarchar(50)",
            "nvarchar(max)",
        ] {
            assert_eq!(SqlType::parse(text).expect(text).to_string(), text);
        }
        for (text, meant) in [
            ("NUMERIC", "decimal(18,0)"),
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
            "int)",
            "varchar(0)",
            "char(3)",
            "int(3)",
            "float",
            "money",
            "datetime2(3)",
            "uniqueidentifier",
            "varbinary(16)",
        ] {
            assert_eq!(SqlType::parse(text), None, "{text}");
        }
    }

    #[test]
    fn type_info_is_read_as_written() {
        for text in [
            "bit",
            "bigint",
            "decimal(38,7)",
            "date",
            "varchar(12)",
            "nvarchar(50)",
            "nvarchar(max)",
        ] {
            let mut info = Vec::new();
            SqlType::parse(text).unwrap().write_info(&mut info);
            let mut reader = Reader::new(&info, "type");
            assert_eq!(SqlType::read_info(&mut reader), Ok(SqlType::parse(text)), "{text}");
            assert!(reader.is_empty(), "{text}");
        }
    }
}
