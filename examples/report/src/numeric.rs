/// A finite `numeric` of PostgreSQL in its binary format (`numeric_send` in PostgreSQL's
/// `numeric.c`): digits of base 10,000, of which the first counts 10,000^`weight`.
#[derive(Debug)]
pub(crate) struct Numeric {
    negative: bool,
    weight: i16,
    digits: Vec<u16>,
    /// Decimal digits after the point.
    pub(crate) scale: u8,
}

const NEGATIVE: u16 = 0x4000;

impl Numeric {
    /// `None` for NaN and infinity, and for more than 255 digits after the point.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let words: Vec<u16> =
            bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]])).collect();
        let [count, weight, sign, scale, digits @ ..] = words.as_slice() else { return None };
        if usize::from(*count) != digits.len() || !matches!(*sign, 0 | NEGATIVE) {
            return None;
        }
        Some(Self {
            negative: *sign == NEGATIVE,
            weight: weight.cast_signed(),
            digits: digits.to_vec(),
            scale: u8::try_from(*scale).ok()?,
        })
    }

    /// The value in units of the last of `scale` digits after the point. `None` if that is too
    /// large, or not exact.
    pub(crate) fn at(&self, scale: u8) -> Option<i128> {
        let value = self.digits.iter().try_fold(0_i128, |value, digit| {
            value.checked_mul(10_000)?.checked_add(i128::from(*digit))
        })?;
        // Of the last digit of base 10,000.
        let exponent = 4 * (i32::from(self.weight) + 1 - i32::try_from(self.digits.len()).ok()?);
        let shift = exponent + i32::from(scale);
        let power = 10_i128.checked_pow(shift.unsigned_abs());
        let value = match (value, power) {
            (0, _) => 0,
            (value, Some(power)) if shift >= 0 => value.checked_mul(power)?,
            (value, Some(power)) if value % power == 0 => value / power,
            _ => return None,
        };
        Some(if self.negative { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Option<Numeric> {
        let count = u16::try_from(digits.len()).unwrap();
        let words = [&[count, weight.cast_unsigned(), sign, scale], digits].concat();
        let bytes: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
        Numeric::read(&bytes)
    }

    #[test]
    fn values_are_exact_or_none() {
        let at = |number: Option<Numeric>, scale| number.unwrap().at(scale);
        assert_eq!(at(numeric(0, 0, 2, &[12, 5000]), 2), Some(1_250), "12.50");
        assert_eq!(at(numeric(0, 0, 2, &[12, 5000]), 4), Some(125_000));
        assert_eq!(at(numeric(0, 0, 2, &[12, 5000]), 0), None, "12.50 is not an integer");
        assert_eq!(at(numeric(-1, NEGATIVE, 1, &[5000]), 1), Some(-5), "-0.5");
        assert_eq!(at(numeric(2, 0, 0, &[1]), 0), Some(100_000_000), "zeros are not sent");
        assert_eq!(at(numeric(0, 0, 3, &[]), 3), Some(0));
        assert_eq!(at(numeric(20, 0, 0, &[1]), 0), None, "too large");
        assert_eq!(at(numeric(-9, 0, 36, &[1]), 38), Some(100), "10^-36");
        assert!(numeric(0, 0xc000, 0, &[]).is_none(), "NaN");
        assert!(Numeric::read(&[0, 1, 0, 0, 0, 0, 0, 0]).is_none(), "a digit is missing");
    }
}
