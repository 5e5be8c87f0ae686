//! Decimals: `units` times 10 to the power of minus `scale`.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decimal {
    pub(crate) units: i128,
    pub(crate) scale: u8,
}

impl Decimal {
    /// Reads `-12.34`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (sign, digits) = match text.split_at_checked(1)? {
            ("-", rest) => (-1, rest),
            ("+", rest) => (1, rest),
            _ => (1, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let scale = u8::try_from(fraction.len()).ok().filter(|scale| *scale <= 38)?;
        Some(Self { units: sign * all.parse::<i128>().ok()?, scale })
    }

    /// The same number with so many decimals, rounded half away from zero.
    pub(crate) fn rescaled(self, scale: u8) -> Option<Self> {
        let units = if scale >= self.scale {
            self.units.checked_mul(10_i128.checked_pow((scale - self.scale).into())?)?
        } else {
            let divisor = 10_i128.checked_pow((self.scale - scale).into())?;
            let (quotient, rest) = (self.units / divisor, self.units % divisor);
            quotient + if rest.abs() * 2 >= divisor { self.units.signum() } else { 0 }
        };
        Some(Self { units, scale })
    }

    /// Whether so many digits hold it.
    pub(crate) fn fits(self, precision: u8) -> bool {
        10_i128.checked_pow(precision.into()).is_some_and(|limit| self.units.abs() < limit)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, scale) = (if self.units < 0 { "-" } else { "" }, usize::from(self.scale));
        let digits = format!("{:0>width$}", self.units.unsigned_abs(), width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        match scale {
            0 => write!(f, "{sign}{whole}"),
            _ => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_and_written_alike() {
        for text in ["0", "-12.34", "0.001", "-0.5", "99999999999999999999999999999999999999"] {
            assert_eq!(Decimal::parse(text).expect(text).to_string(), text);
        }
        for text in ["", "-", ".", "1.2.3", "x", "1e3", "é"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn rounding_is_half_away_from_zero() {
        for (text, meant) in
            [("1.25", "1.3"), ("-1.25", "-1.3"), ("1.24", "1.2"), ("1", "1.0"), ("-0.04", "0.0")]
        {
            assert_eq!(Decimal::parse(text).unwrap().rescaled(1).unwrap().to_string(), meant);
        }
    }
}
