//! `numeric`: stored as the text that PostgreSQL prints, and sent in groups of four digits.

use std::fmt;

use super::{error::SqlError, values::invalid};

const NEGATIVE: u16 = 0x4000;

/// The digits as one integer, and how many of them are decimal places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numeric {
    units: i128,
    scale: u32,
}

impl Numeric {
    /// The largest number of digits; numbers with more are refused.
    pub(super) const DIGITS: i32 = 30;

    pub(super) fn parse(text: &str) -> Result<Self, SqlError> {
        let number = text.trim();
        let digits = number.strip_prefix(['-', '+']).unwrap_or(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = [whole, fraction].concat();
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid("numeric", text));
        }
        let unsupported = || SqlError::unsupported(format!("the numeric {number}"));
        if all.len() > Self::DIGITS as usize {
            return Err(unsupported());
        }
        let units: i128 = all.parse().map_err(|_| unsupported())?;
        let units = if number.starts_with('-') { -units } else { units };
        let scale = u32::try_from(fraction.len()).map_err(|_| unsupported())?;
        Ok(Self { units, scale })
    }

    /// Rounds, half away from zero, to the scale of `numeric(precision, scale)`.
    pub(super) fn fit(self, precision: u32, scale: u32) -> Result<Self, SqlError> {
        let ten = |power: u32| 10_i128.pow(power);
        let units = if scale >= self.scale {
            self.units.checked_mul(ten(scale - self.scale))
        } else {
            let unit = ten(self.scale - scale);
            Some((self.units + self.units.signum() * (unit / 2)) / unit)
        };
        let fits = |units: &i128| units.unsigned_abs() < ten(precision).unsigned_abs();
        match units.filter(fits) {
            Some(units) => Ok(Self { units, scale }),
            None => Err(SqlError::new("22003", "numeric field overflow")),
        }
    }

    /// Divides as `avg` does, to at least 16 significant digits (`select_div_scale` in
    /// PostgreSQL's numeric.c).
    pub(super) fn average(sum: i64, count: i64) -> Result<Self, SqlError> {
        // The weight and the value of the first group of four digits.
        let first = |number: i64| {
            let (mut weight, mut group) = (0, number.unsigned_abs());
            while group >= 10_000 {
                (weight, group) = (weight + 1, group / 10_000);
            }
            (weight, group)
        };
        let ((sum_weight, sum_group), (count_weight, count_group)) = (first(sum), first(count));
        let weight: i32 = sum_weight - count_weight - i32::from(sum_group <= count_group);
        let scale = (16 - 4 * weight).max(0).unsigned_abs();
        let scaled = 10_i128.checked_pow(scale).and_then(|ten| ten.checked_mul(sum.into()));
        let scaled = scaled.ok_or_else(|| SqlError::unsupported(format!("avg with sum {sum}")))?;
        let count = i128::from(count);
        Ok(Self { units: (scaled + scaled.signum() * (count / 2)) / count, scale })
    }

    /// Encodes a number as PostgreSQL's `numeric_send` does.
    pub(super) fn to_binary(self) -> Vec<u8> {
        let places = self.scale.div_ceil(4);
        let mut rest = self.units.unsigned_abs() * 10_u128.pow(4 * places - self.scale);
        let mut groups: Vec<u128> = Vec::new();
        while rest > 0 {
            groups.insert(0, rest % 10_000);
            rest /= 10_000;
        }
        let weight = groups.len() as i64 - 1 - i64::from(places);
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let weight = if groups.is_empty() { 0 } else { weight };
        let sign = if self.units < 0 { NEGATIVE } else { 0 };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 38 digits at most.
        let header = [groups.len() as u16, weight as u16, sign, self.scale as u16];
        #[allow(clippy::cast_possible_truncation)] // Below 10,000.
        let groups = groups.iter().map(|group| *group as u16);
        header.into_iter().chain(groups).flat_map(u16::to_be_bytes).collect()
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = self.scale as usize;
        let digits = format!("{:0>1$}", self.units.unsigned_abs(), scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let sign = if self.units < 0 { "-" } else { "" };
        let point = if scale == 0 { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}
