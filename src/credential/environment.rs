use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt,
    sync::Arc,
};

use zeroize::Zeroize;

use super::ConfigError;

/// A snapshot of the environment variables that configure credentials.
///
/// Empty variables count as not set. Values may be secrets, so [`Debug`](fmt::Debug) shows names
/// only, and values are overwritten in memory when the last clone is dropped.
///
/// ```
/// use entra_pool::credential::{Environment, ManagedIdentity};
///
/// let environment = Environment::from_pairs([
///     ("IDENTITY_ENDPOINT", "http://127.0.0.1:42356/msi/token"),
///     ("IDENTITY_HEADER", "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a"),
/// ]);
/// let identity = ManagedIdentity::system_assigned().environment(environment).build()?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct Environment(Arc<BTreeMap<OsString, Value>>);

/// A value that is overwritten in memory when it is dropped.
#[derive(Clone)]
struct Value(OsString);

impl Drop for Value {
    fn drop(&mut self) {
        std::mem::take(&mut self.0).into_encoded_bytes().zeroize();
    }
}

impl Environment {
    /// Returns the current variables of this process. Later changes have no effect.
    ///
    /// ```
    /// use entra_pool::credential::{DefaultCredential, Environment};
    ///
    /// let credential = DefaultCredential::new().environment(Environment::from_process()).build();
    /// ```
    #[must_use]
    pub fn from_process() -> Self {
        // No other code of this crate reads the process's environment.
        Self::from_pairs(std::env::vars_os())
    }

    /// Returns an environment with only these variables. If a name occurs twice, the last value is
    /// used.
    ///
    /// ```
    /// use entra_pool::credential::Environment;
    ///
    /// let environment = Environment::from_pairs([("AZURE_TOKEN_CREDENTIALS", "prod")]);
    /// ```
    pub fn from_pairs<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), Value(value.into())));
        Self(Arc::new(pairs.collect()))
    }

    /// Sets the variable `name` to this value.
    #[cfg(feature = "azure-identity")]
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        Arc::make_mut(&mut self.0).insert(name.into(), Value(value.into()));
        self
    }

    /// Returns the variable's value, if it is set, not empty, and Unicode.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = if cfg!(windows) {
            // On Windows, names are not case-sensitive.
            let same = |known: &OsString| known.eq_ignore_ascii_case(name);
            self.0.iter().find(|(known, _)| same(known)).map(|(_, value)| value)
        } else {
            self.0.get(OsStr::new(name))
        };
        value?.0.to_str().filter(|value| !value.is_empty())
    }

    /// Returns the names of the variables that begin with `prefix` and are set.
    #[cfg(any(feature = "azure-sql", feature = "postgres"))]
    pub(crate) fn names(&self, prefix: &str) -> impl Iterator<Item = &str> {
        let names = self.0.keys().filter_map(|name| name.to_str());
        names.filter(move |name| name.starts_with(prefix) && self.get(name).is_some())
    }

    /// Like [`get`](Self::get), but refuses quotes and line breaks. A shell removes these, but
    /// `docker --env-file` and Kubernetes secrets keep them.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if the value is in quotes or contains a line break.
    pub(super) fn checked(&self, name: &'static str) -> Result<Option<&str>, ConfigError> {
        let value = self.get(name);
        let text = value.unwrap_or_default();
        let in_quotes = |mark| text.len() > 1 && text.starts_with(mark) && text.ends_with(mark);
        let expected = "without quotes: remove those around its value";
        ConfigError::unless(!in_quotes('"') && !in_quotes('\''), name, expected)?;
        let expected = "on one line: remove the line break from its value";
        ConfigError::unless(!text.contains(['\r', '\n']), name, expected)?;
        Ok(value)
    }

    /// Returns all variables, for a child process.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.0.as_os_str()))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_line_breaks_around_a_value_are_named_without_the_value() {
        for (value, problem) in [
            ("\"s3cret\"", "NAME must be without quotes"),
            ("'s3cret'", "NAME must be without quotes"),
            ("''", "NAME must be without quotes"),
            ("s3cret\n", "NAME must be on one line"),
            ("\r\ns3cret", "NAME must be on one line"),
        ] {
            let error = Environment::from_pairs([("NAME", value)]).checked("NAME").unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with(problem) && !error.contains("s3cret"), "{error}");
        }
        for value in ["s3cret", "s3'cret\"", "\"", " "] {
            let environment = Environment::from_pairs([("NAME", value)]);
            assert_eq!(environment.checked("NAME").unwrap(), Some(value));
        }
        assert_eq!(Environment::default().checked("NAME").unwrap(), None);
    }

    #[test]
    fn an_empty_variable_is_not_set_and_values_are_not_shown() {
        let environment = Environment::from_pairs([("EMPTY", ""), ("SECRET", "hush")]);
        assert_eq!(environment.get("EMPTY"), None);
        assert_eq!(environment.get("ABSENT"), None);
        assert_eq!(environment.get("SECRET"), Some("hush"));
        assert_eq!(format!("{environment:?}"), r#"{"EMPTY", "SECRET"}"#);
    }
}
