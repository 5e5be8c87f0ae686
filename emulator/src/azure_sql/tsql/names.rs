//! Names of tables and columns.

use sqlparser::ast::{Ident, ObjectName};

use crate::azure_sql::error::ServerError;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
}

impl Table {
    /// Whether it is the session's own: `#name`.
    pub(crate) fn is_temporary(&self) -> bool {
        self.name.starts_with('#')
    }

    /// As SQLite is to read it.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", if self.is_temporary() { "temp" } else { "main" }, quoted(&self.name))
    }
}

/// An identifier in SQLite's quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string in quotes.
pub(super) fn string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A table's name: `name` or `dbo.name`.
pub(crate) fn table(name: &ObjectName) -> Result<Table, ServerError> {
    let parts: Option<Vec<&Ident>> = name.0.iter().map(|part| part.as_ident()).collect();
    let name_alone = match parts.as_deref() {
        Some([name]) => name,
        Some([schema, name]) if schema.value.eq_ignore_ascii_case("dbo") => name,
        _ => return Err(ServerError::unsupported(name)),
    };
    // SQLite's own tables have no names here, nor have tables of all sessions, or variables.
    let refused = ["sqlite_", "##", "@"];
    let lower = name_alone.value.to_ascii_lowercase();
    if refused.iter().any(|prefix| lower.starts_with(prefix)) {
        return Err(ServerError::unsupported(name));
    }
    Ok(Table { name: name_alone.value.clone() })
}

/// A name of one part.
pub(crate) fn simple(name: &ObjectName) -> Result<&Ident, ServerError> {
    match &name.0[..] {
        [part] => part.as_ident().ok_or_else(|| ServerError::unsupported(name)),
        _ => Err(ServerError::unsupported(name)),
    }
}
