//! `numeric` on the wire: groups of four decimal digits (PostgreSQL's
//! `numeric_send`).

use std::fmt;

const NEGATIVE: u16 = 0x4000;

/// A decimal number as its digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    whole: String,
    fraction: String,
}

impl Decimal {
    /// Digits with an optional sign, point and exponent.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (negative, digits) = match mantissa.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let nothing = whole.is_empty() && fraction.is_empty();
        if nothing || !all_digits(whole) || !all_digits(fraction) || exponent.abs() > 1_000 {
            return None;
        }
        let mut number = Self { negative, whole: whole.to_owned(), fraction: fraction.to_owned() };
        number.shift(exponent);
        Some(number)
    }

    fn shift(&mut self, exponent: i32) {
        for _ in 0..exponent {
            let digit = if self.fraction.is_empty() { '0' } else { self.fraction.remove(0) };
            self.whole.push(digit);
        }
        for _ in exponent..0 {
            let digit = self.whole.pop().unwrap_or('0');
            self.fraction.insert(0, digit);
        }
    }

    pub(super) fn to_binary(&self) -> Vec<u8> {
        let scale = self.fraction.len();
        let left = self.whole.len().next_multiple_of(4);
        let right = scale.next_multiple_of(4);
        let digits = format!("{:0>left$}{:0<right$}", self.whole, self.fraction);
        let mut groups: Vec<u16> = digits
            .as_bytes()
            .chunks(4)
            .map(|group| group.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
            .collect();
        let mut weight = i16::try_from(left / 4).unwrap_or(i16::MAX) - 1;
        while groups.first() == Some(&0) {
            groups.remove(0);
            weight -= 1;
        }
        while groups.last() == Some(&0) {
            groups.pop();
        }
        if groups.is_empty() {
            weight = 0;
        }
        let count = u16::try_from(groups.len()).unwrap_or(u16::MAX);
        let sign = if self.negative && count > 0 { NEGATIVE } else { 0 };
        let scale = u16::try_from(scale).unwrap_or(u16::MAX);
        let mut bytes = Vec::new();
        bytes.extend(count.to_be_bytes());
        bytes.extend(weight.to_be_bytes());
        bytes.extend(sign.to_be_bytes());
        bytes.extend(scale.to_be_bytes());
        bytes.extend(groups.iter().flat_map(|group| group.to_be_bytes()));
        bytes
    }

    pub(super) fn from_binary(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
        let count = usize::from(words.next()?);
        let weight = i32::from(words.next()?.cast_signed());
        let sign = words.next()?;
        let scale = usize::from(words.next()?);
        let groups: Vec<u16> = words.collect();
        // NaN and the infinities have signs of their own.
        if groups.len() != count || sign & !NEGATIVE != 0 || groups.iter().any(|g| *g > 9_999) {
            return None;
        }
        let group = |place: i32| {
            let index = usize::try_from(weight - place).ok()?;
            groups.get(index).copied()
        };
        let whole: String =
            (0..=weight.max(0)).rev().map(|p| format!("{:04}", group(p).unwrap_or(0))).collect();
        let places = i32::try_from(scale.div_ceil(4)).ok()?;
        let mut fraction: String =
            (1..=places).map(|p| format!("{:04}", group(-p).unwrap_or(0))).collect();
        fraction.truncate(scale);
        Some(Self { negative: sign == NEGATIVE, whole, fraction })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.whole.trim_start_matches('0');
        let sign = if self.negative { "-" } else { "" };
        write!(f, "{sign}{}", if whole.is_empty() { "0" } else { whole })?;
        if self.fraction.is_empty() { Ok(()) } else { write!(f, ".{}", self.fraction) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_survive_the_wire() {
        for (text, expected) in [
            ("0", "0"),
            ("12.50", "12.50"),
            ("-0.0001", "-0.0001"),
            ("123456789.000010", "123456789.000010"),
            ("10000", "10000"),
            ("1.5e3", "1500"),
            ("25e-3", "0.025"),
            ("-00012.5", "-12.5"),
        ] {
            let bytes = Decimal::parse(text).unwrap().to_binary();
            assert_eq!(Decimal::from_binary(&bytes).unwrap().to_string(), expected);
        }
        for text in ["", ".", "1.2.3", "abc", "1e", "--1"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    /// What PostgreSQL 16 sends for `SELECT 12.50::numeric`.
    #[test]
    fn the_layout_is_postgresql_s() {
        let bytes = Decimal::parse("12.50").unwrap().to_binary();
        assert_eq!(bytes, [0, 2, 0, 0, 0, 0, 0, 2, 0, 12, 0x13, 0x88]);
    }
}
