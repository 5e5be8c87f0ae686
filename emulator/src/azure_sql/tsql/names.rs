//! Names of tables and columns.

use sqlparser::ast::{Ident, ObjectName};

use crate::azure_sql::error::ServerError;
pub(crate) use crate::database::quoted;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
}

impl Table {
    /// Whether it belongs to the session: `#name`.
    pub(crate) fn is_temporary(&self) -> bool {
        self.name.starts_with('#')
    }

    /// In SQLite's SQL.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", if self.is_temporary() { "temp" } else { "main" }, quoted(&self.name))
    }
}

/// A string in quotes.
pub(super) fn string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// An alias. After a statement without a semicolon, the parser reads these words as an alias.
pub(super) fn alias(name: &Ident) -> Result<String, ServerError> {
    let is_statement =
        ["COMMIT", "ROLLBACK"].iter().any(|word| name.value.eq_ignore_ascii_case(word));
    if is_statement && name.quote_style.is_none() {
        return Err(ServerError::unsupported(format_args!("{name} without a semicolon before it")));
    }
    Ok(name.value.clone())
}

/// A table's name: `name` or `dbo.name`.
pub(crate) fn table(name: &ObjectName) -> Result<Table, ServerError> {
    let parts: Option<Vec<&Ident>> = name.0.iter().map(|part| part.as_ident()).collect();
    let name_alone = match parts.as_deref() {
        Some([name]) => name,
        Some([schema, name]) if schema.value.eq_ignore_ascii_case("dbo") => name,
        _ => return Err(ServerError::unsupported(name)),
    };
    // SQLite's own tables, global temporary tables and table variables.
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
