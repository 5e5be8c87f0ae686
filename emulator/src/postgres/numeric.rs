//! `numeric`: stored as the text that PostgreSQL prints, and sent in groups of four digits.

use rust_decimal::{Decimal, RoundingStrategy};

use super::{error::SqlError, values::invalid};

const NEGATIVE: u16 = 0x4000;

/// The highest precision of a column. Numbers that a [`Decimal`] cannot hold are refused.
pub(super) const DIGITS: i32 = 28;

pub(super) fn parse(text: &str) -> Result<Decimal, SqlError> {
    let number = text.trim();
    // `Decimal` also accepts underscores.
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
    match Decimal::from_str_exact(number) {
        Ok(decimal) if is_plain => Ok(without_negative_zero(decimal)),
        Err(_) if is_plain && number.len() > 28 => {
            Err(SqlError::unsupported(format!("the numeric {number}")))
        }
        _ => Err(invalid("numeric", text)),
    }
}

/// Rounds, half away from zero, to the scale of `numeric(precision, scale)`.
pub(super) fn fit(number: Decimal, precision: u32, scale: u32) -> Result<Decimal, SqlError> {
    let half_up = RoundingStrategy::MidpointAwayFromZero;
    let mut number = number.round_dp_with_strategy(scale, half_up);
    number.rescale(scale);
    // The scale is lower if the digits do not fit.
    if number.scale() < scale || number.mantissa().unsigned_abs() >= 10_u128.pow(precision) {
        return Err(SqlError::new("22003", "numeric field overflow"));
    }
    Ok(without_negative_zero(number))
}

/// PostgreSQL has no negative zero.
fn without_negative_zero(mut number: Decimal) -> Decimal {
    if number.is_zero() {
        number.set_sign_positive(true);
    }
    number
}

/// Divides as `avg` does, to at least 16 significant digits (`select_div_scale` in
/// PostgreSQL's numeric.c).
pub(super) fn average(sum: i64, count: i64) -> Result<Decimal, SqlError> {
    // The weight and the value of the first group of four digits.
    let first = |number: i64| {
        let weight = number.unsigned_abs().checked_ilog(10_000).unwrap_or(0);
        (weight.cast_signed(), number.unsigned_abs() / 10_000_u64.pow(weight))
    };
    let ((sum_weight, sum_group), (count_weight, count_group)) = (first(sum), first(count));
    let weight: i32 = sum_weight - count_weight - i32::from(sum_group <= count_group);
    let scale = (16 - 4 * weight).max(0).unsigned_abs();
    let (divisor, scaled) = (i128::from(count), 10_i128.checked_pow(scale));
    let scaled = scaled.and_then(|ten| ten.checked_mul(sum.into()));
    let quotient = scaled.map(|scaled| (scaled + scaled.signum() * (divisor / 2)) / divisor);
    let average = quotient.and_then(|it| Decimal::try_from_i128_with_scale(it, scale).ok());
    average.ok_or_else(|| SqlError::unsupported(format!("avg with sum {sum}")))
}

/// Encodes a number as PostgreSQL's `numeric_send` does.
pub(super) fn to_binary(number: Decimal) -> Vec<u8> {
    let places = number.scale().div_ceil(4);
    let mut rest = number.mantissa().unsigned_abs() * 10_u128.pow(4 * places - number.scale());
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
    let sign = if number.is_sign_negative() { NEGATIVE } else { 0 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 32 digits at most.
    let header = [groups.len() as u16, weight as u16, sign, number.scale() as u16];
    #[allow(clippy::cast_possible_truncation)] // Below 10,000.
    let groups = groups.iter().map(|group| *group as u16);
    header.into_iter().chain(groups).flat_map(u16::to_be_bytes).collect()
}
