//! The settings of a session: `SET`, `RESET`, `SHOW`, `current_setting`.

use std::collections::BTreeMap;

use super::error::SqlError;

/// The settings that exist, with their defaults; further ones have a dot in
/// their name.
const DEFAULTS: [(&str, &str); 23] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("intervalstyle", "postgres"),
    ("lock_timeout", "0"),
    ("row_security", "on"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", super::SERVER_VERSION),
    ("ssl", "on"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("tcp_keepalives_count", "0"),
    ("tcp_keepalives_idle", "0"),
    ("tcp_keepalives_interval", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("work_mem", "4MB"),
];

/// Those that cannot be set.
const FIXED: [&str; 3] = ["server_encoding", "server_version", "ssl"];

/// Names without regard to case, and their values.
pub(super) struct Settings {
    defaults: BTreeMap<String, String>,
    values: BTreeMap<String, String>,
    /// `SET LOCAL`: until the transaction ends.
    local: BTreeMap<String, String>,
    /// As it was before the transaction, for its rollback.
    before: Option<BTreeMap<String, String>>,
}

impl Settings {
    /// With what the client asked for at startup, which `RESET` goes back to.
    pub(super) fn new(startup: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut defaults: BTreeMap<String, String> = DEFAULTS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        for (name, value) in startup {
            let name = name.to_ascii_lowercase();
            if defaults.contains_key(&name) && !FIXED.contains(&name.as_str()) {
                defaults.insert(name, value);
            }
        }
        Self { defaults, values: BTreeMap::new(), local: BTreeMap::new(), before: None }
    }

    pub(super) fn get(&self, name: &str) -> Result<String, SqlError> {
        let name = name.to_ascii_lowercase();
        [&self.local, &self.values, &self.defaults]
            .iter()
            .find_map(|settings| settings.get(&name).cloned())
            .ok_or_else(|| unknown(&name))
    }

    pub(super) fn set(&mut self, name: &str, value: &str, local: bool) -> Result<(), SqlError> {
        let name = self.settable(name)?;
        if local {
            // Outside a transaction it has no effect (PostgreSQL warns).
            if self.before.is_some() {
                self.local.insert(name, value.to_owned());
            }
        } else {
            self.local.remove(&name);
            self.values.insert(name, value.to_owned());
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, name: &str) -> Result<(), SqlError> {
        let name = self.settable(name)?;
        self.local.remove(&name);
        if self.defaults.contains_key(&name) {
            self.values.remove(&name);
        } else {
            // Once set, a setting of one's own stays known, and empty.
            self.values.insert(name, String::new());
        }
        Ok(())
    }

    pub(super) fn reset_all(&mut self) {
        self.local.clear();
        let defaults = &self.defaults;
        self.values.retain(|name, _| !defaults.contains_key(name));
        self.values.values_mut().for_each(String::clear);
    }

    pub(super) fn begin(&mut self) {
        self.before = Some(self.values.clone());
    }

    pub(super) fn end(&mut self, committed: bool) {
        self.local.clear();
        if let Some(before) = self.before.take().filter(|_| !committed) {
            self.values = before;
        }
    }

    fn settable(&self, name: &str) -> Result<String, SqlError> {
        let name = name.to_ascii_lowercase();
        if FIXED.contains(&name.as_str()) {
            let message = format!("parameter \"{name}\" cannot be changed");
            return Err(SqlError::new("55P02", message));
        }
        if !self.defaults.contains_key(&name) && !name.contains('.') {
            return Err(unknown(&name));
        }
        Ok(name)
    }
}

fn unknown(name: &str) -> SqlError {
    SqlError::new("42704", format!("unrecognized configuration parameter \"{name}\""))
}
