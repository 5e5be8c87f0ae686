use std::fmt;

use zeroize::Zeroizing;

/// A service principal's secret. Zeroised when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::azure_sql) struct Secret(Zeroizing<String>);

impl Secret {
    pub(super) fn new(secret: String) -> Self {
        Self(Zeroizing::new(secret))
    }

    pub(in crate::azure_sql) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
