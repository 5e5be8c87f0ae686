//! FROM: tables, and the names of their columns.

use sqlparser::ast::{Ident, TableFactor, TableWithJoins};

use super::{Result, TableColumn, Translator, Typed, list, names, only, refuse};
use crate::azure_sql::{error::ServerError, types::SqlType};

/// A table, with its name in the statement.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) columns: Vec<TableColumn>,
}

impl Translator<'_> {
    /// Adds the tables to those of the statement.
    pub(super) fn tables(&mut self, from: &[TableWithJoins]) -> Result<String> {
        let mut tables = Vec::new();
        for table in from {
            tables.push(self.table(table)?);
        }
        Ok(if from.is_empty() { String::new() } else { format!(" FROM {}", list(&tables)) })
    }

    fn table(&mut self, table: &TableWithJoins) -> Result<String> {
        let TableFactor::Table { name, alias, .. } = &table.relation else {
            return Err(ServerError::unsupported(table));
        };
        let alias_text = alias.as_ref().map_or(String::new(), |alias| {
            format!("{}{}", if alias.explicit { " AS " } else { " " }, alias.name)
        });
        only(table, &format!("{name}{alias_text}"))?;
        let (sql, name, columns) = match name.to_string().to_ascii_lowercase().as_str() {
            "sys.dm_exec_sessions" => self.sessions()?,
            _ => {
                let table = names::table(name)?;
                let columns = self.columns_of(&table)?;
                (table.quoted(), table.name, columns)
            }
        };
        let name = match alias {
            Some(alias) => names::alias(&alias.name)?,
            None => name,
        };
        let again = |other: &Source| other.name.eq_ignore_ascii_case(&name);
        refuse!("two tables with the same name": self.sources.iter().any(again));
        let sql = format!("{sql} AS {}", names::quoted(&name));
        self.sources.push(Source { name, columns });
        Ok(sql)
    }

    /// `sys.dm_exec_sessions`, in which a session sees its own row.
    fn sessions(&mut self) -> Result<(String, String, Vec<TableColumn>)> {
        let name = "transaction_isolation_level".to_owned();
        let level = i64::from(self.session.options.isolation).into();
        let sql = format!("(SELECT {} AS {name})", self.parameter(&level, SqlType::SmallInt)?.sql);
        let columns = vec![TableColumn { name, sql_type: SqlType::SmallInt, identity: false }];
        Ok((sql, "dm_exec_sessions".to_owned(), columns))
    }

    /// A column, by one or two names.
    pub(super) fn column(&mut self, parts: &[Ident]) -> Result<Typed> {
        let (table, name) = match parts {
            [name] => (None, &name.value),
            [table, name] => (Some(&table.value), &name.value),
            _ => return Err(ServerError::unsupported("a column's name of more than two parts")),
        };
        let of_table =
            |source: &&Source| table.is_none_or(|table| source.name.eq_ignore_ascii_case(table));
        let columns =
            self.sources.iter().filter(of_table).flat_map(|source| {
                source.columns.iter().map(|column| (source.name.as_str(), column))
            });
        let found: Vec<_> =
            columns.filter(|(_, column)| column.name.eq_ignore_ascii_case(name)).collect();
        match (&found[..], table) {
            ([(_, column)], _) if self.in_definition => {
                Ok(Typed::new(names::quoted(&column.name), column.sql_type))
            }
            ([(source, column)], _) => Ok(qualified(source, column)),
            ([], None) => Err(ServerError::new(207, 16, format!("Invalid column name '{name}'."))),
            ([], Some(table)) => {
                let text =
                    format!("The multi-part identifier \"{table}.{name}\" could not be bound.");
                Err(ServerError::new(4104, 16, text))
            }
            _ => Err(ServerError::new(209, 16, format!("Ambiguous column name '{name}'."))),
        }
    }
}

pub(super) fn qualified(table: &str, column: &TableColumn) -> Typed {
    let sql = format!("{}.{}", names::quoted(table), names::quoted(&column.name));
    Typed::new(sql, column.sql_type)
}
