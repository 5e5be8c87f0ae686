//! Names of tables and columns.

use sqlparser::ast::{Ident, ObjectName, ObjectNamePart};

use crate::azure_sql::error::ServerError;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// `None`, or `sys` or `information_schema` in lower case; `dbo` is `None`.
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

impl Table {
    /// Whether it is the session's own: `#name`.
    pub(crate) fn is_temporary(&self) -> bool {
        self.name.starts_with('#')
    }

    /// As SQLite is to read it.
    pub(crate) fn quoted(&self) -> String {
        quoted(&self.name)
    }

    /// As SQLite is to read it where it is created.
    pub(crate) fn qualified(&self) -> String {
        format!("{}.{}", if self.is_temporary() { "temp" } else { "main" }, self.quoted())
    }
}

/// An identifier in SQLite's quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn parts(name: &ObjectName) -> Result<Vec<&Ident>, ServerError> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(identifier) => Ok(identifier),
            ObjectNamePart::Function(_) => Err(ServerError::unsupported(name)),
        })
        .collect()
}

/// A table's name: `name`, `dbo.name`, `sys.name`, `tempdb..#name`.
pub(crate) fn table(name: &ObjectName) -> Result<Table, ServerError> {
    let parts: Vec<&str> = parts(name)?.iter().map(|part| part.value.as_str()).collect();
    let lower = |text: &str| text.to_ascii_lowercase();
    let (schema, name_alone) = match parts[..] {
        [name] => (None, name),
        [schema, name] => match lower(schema).as_str() {
            "dbo" => (None, name),
            "sys" | "information_schema" => (Some(lower(schema)), name),
            _ => return Err(ServerError::new(208, 16, format!("Invalid object name '{name}'."))),
        },
        [database, schema, name]
            if lower(database) == "tempdb" && matches!(lower(schema).as_str(), "" | "dbo") =>
        {
            (None, name)
        }
        _ => return Err(ServerError::unsupported(name)),
    };
    if name_alone.starts_with("##") || name_alone.starts_with('@') {
        return Err(ServerError::unsupported(name_alone));
    }
    let own = ["sqlite_", "pragma_"].iter().any(|prefix| lower(name_alone).starts_with(prefix));
    // SQLite's own tables have no names here.
    if own || lower(name_alone) == "dbstat" {
        return Err(ServerError::new(208, 16, format!("Invalid object name '{name_alone}'.")));
    }
    Ok(Table { schema, name: name_alone.to_owned() })
}

/// A name of one part.
pub(crate) fn simple(name: &ObjectName) -> Result<&Ident, ServerError> {
    match parts(name)?[..] {
        [one] => Ok(one),
        _ => Err(ServerError::unsupported(name)),
    }
}

/// A column: the last one or two parts of `dbo.t.column`.
pub(crate) fn column(parts: &[Ident]) -> Result<String, ServerError> {
    match parts {
        [column] => Ok(quoted(&column.value)),
        [.., table, column] if parts.len() <= 3 => {
            Ok(format!("{}.{}", quoted(&table.value), quoted(&column.value)))
        }
        _ => Err(ServerError::unsupported("a column of another database")),
    }
}
