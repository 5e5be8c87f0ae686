use std::fmt;

use entra_pool::azure_sql::tiberius::numeric::Numeric;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount of money like a `decimal(12,2)`: exact, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salary(i64);

/// 9,999,999,999.99.
const HIGHEST: i64 = 999_999_999_999;

impl Salary {
    pub(crate) fn numeric(self) -> Numeric {
        Numeric::new_with_scale(self.0.into(), 2)
    }

    /// `None` if the value does not fit the column.
    pub(crate) fn from_numeric(numeric: Numeric) -> Option<Self> {
        let hundredths = i64::try_from(numeric.value()).ok()?;
        (numeric.scale() == 2 && (0..=HIGHEST).contains(&hundredths)).then_some(Self(hundredths))
    }

    /// Reads a JSON number, which is a double here. A double distinguishes all hundredths up to
    /// the highest amount.
    #[allow(clippy::cast_possible_truncation)]
    fn from_number(number: f64) -> Option<Self> {
        let hundredths = (number * 100.0).round();
        // `hundredths / 100` is the double closest to the decimal number.
        let exact = (0.0..=HIGHEST as f64).contains(&hundredths) && hundredths / 100.0 == number;
        exact.then_some(Self(hundredths as i64))
    }
}

impl fmt::Display for Salary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A number.
impl Serialize for Salary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0 as f64 / 100.0)
    }
}

impl<'de> Deserialize<'de> for Salary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Self::from_number(number).ok_or_else(|| {
            de::Error::custom(format!(
                "a salary is from 0 to {}, with at most two decimals",
                Self(HIGHEST)
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_round_trip_through_json_and_decimals() {
        for (json, text) in [
            ("0", "0.00"),
            ("0.07", "0.07"),
            ("0.29", "0.29"),
            ("4.35", "4.35"),
            ("52000", "52000.00"),
            ("52000.5", "52000.50"),
            ("52000.50", "52000.50"),
            ("1e3", "1000.00"),
            ("9999999999.99", "9999999999.99"),
        ] {
            let salary: Salary = serde_json::from_str(json).expect(json);
            assert_eq!(salary.to_string(), text);
            let again: Salary =
                serde_json::from_str(&serde_json::to_string(&salary).unwrap()).unwrap();
            assert_eq!(again, salary);
            assert_eq!(Salary::from_numeric(salary.numeric()), Some(salary));
        }
    }

    #[test]
    fn every_cent_is_distinct() {
        for start in [0, 1_000_000_000, HIGHEST - 10_000] {
            for hundredths in start..=start + 10_000 {
                let json = serde_json::to_string(&Salary(hundredths)).unwrap();
                assert_eq!(serde_json::from_str::<Salary>(&json).unwrap(), Salary(hundredths));
            }
        }
    }

    #[test]
    fn other_values_are_refused() {
        for json in ["-0.01", "-1", "0.001", "52000.555", "10000000000", "1e300", "\"1\"", "null"] {
            assert!(serde_json::from_str::<Salary>(json).is_err(), "{json}");
        }
        for (value, scale) in [(5, 1), (-1, 2), (i128::from(HIGHEST) + 1, 2), (i128::MAX, 2)] {
            assert_eq!(Salary::from_numeric(Numeric::new_with_scale(value, scale)), None);
        }
    }
}
