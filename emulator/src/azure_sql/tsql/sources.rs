//! FROM: tables, joins, and what their columns are called.

use sqlparser::ast::{Ident, JoinConstraint, JoinOperator, TableFactor, TableWithJoins};

use super::{Result, System, TableColumn, Translator, Typed, names, refuse};
use crate::azure_sql::{error::ServerError, types::SqlType};

/// What a query selects from.
#[derive(Debug, Default)]
pub(super) struct From {
    pub(super) tables: Vec<Source>,
    /// Which clause is being read.
    pub(super) clause: Clause,
    /// Whether the items have an aggregate, and a column outside of any.
    pub(super) aggregate: bool,
    pub(super) bare_column: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clause {
    #[default]
    Other,
    Items,
    Aggregate,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) columns: Vec<(String, SqlType)>,
}

impl Source {
    pub(super) fn of_table(name: &str, columns: &[TableColumn]) -> Self {
        let columns = columns.iter().map(|column| (column.name.clone(), column.sql_type));
        Self { name: name.to_owned(), columns: columns.collect() }
    }
}

impl Translator<'_> {
    /// Adds the tables to those of the innermost query.
    pub(super) fn tables(&mut self, from: &[TableWithJoins]) -> Result<String> {
        let mut sql = String::new();
        for table in from {
            let first = self.table(&table.relation)?;
            sql = format!("{sql}{}{first}", if sql.is_empty() { " FROM " } else { " CROSS JOIN " });
            for join in &table.joins {
                let cross = join.join_operator == JoinOperator::CrossJoin(JoinConstraint::None);
                if join.global || !cross {
                    return Err(ServerError::unsupported(join));
                }
                sql = format!("{sql} CROSS JOIN {}", self.table(&join.relation)?);
            }
        }
        Ok(sql)
    }

    fn table(&mut self, factor: &TableFactor) -> Result<String> {
        let alias = match factor {
            TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. } => alias.as_ref(),
            other => return Err(ServerError::unsupported(other)),
        };
        let alias_name = alias.map(|alias| alias.name.clone());
        // Hints, functions, samples, columns of an alias: whatever else there is.
        let plain = alias_name.clone().map_or(String::new(), |name| {
            format!(" {}{name}", if alias.is_some_and(|alias| alias.explicit) { "AS " } else { "" })
        });
        let plain = match factor {
            TableFactor::Derived { subquery, .. } => format!("({subquery}){plain}"),
            TableFactor::Table { name, .. } => format!("{name}{plain}"),
            other => return Err(ServerError::unsupported(other)),
        };
        if factor.to_string() != plain {
            return Err(ServerError::unsupported(factor));
        }
        let (sql, source) = match factor {
            TableFactor::Derived { subquery, .. } => {
                let Some(name) = alias_name else {
                    return Err(ServerError::unsupported("a derived table without a name"));
                };
                let query = self.query(subquery, true)?;
                let columns: Vec<(String, SqlType)> =
                    query.columns().into_iter().map(|c| (c.name, c.sql_type)).collect();
                for (index, (column, _)) in columns.iter().enumerate() {
                    let again = columns[..index].iter().any(|c| c.0.eq_ignore_ascii_case(column));
                    refuse!("columns of a derived table without names of their own": again || column.is_empty());
                }
                (format!("({})", query.sql), Source { name: name.value, columns })
            }
            TableFactor::Table { name, .. } => {
                if name.to_string().eq_ignore_ascii_case("sys.dm_exec_sessions") {
                    let (sql, mut source) = self.sessions()?;
                    source.name = alias_name.map_or(source.name, |alias| alias.value);
                    (sql, source)
                } else {
                    let table = names::table(name)?;
                    let name = alias_name.map_or(table.name.clone(), |alias| alias.value);
                    (table.quoted(), Source::of_table(&name, &self.columns_of(&table)?))
                }
            }
            other => return Err(ServerError::unsupported(other)),
        };
        let sql = format!("{sql} AS {}", names::quoted(&source.name));
        if let Some(from) = self.froms.last_mut() {
            let again = |other: &Source| other.name.eq_ignore_ascii_case(&source.name);
            refuse!("two tables of a name": from.tables.iter().any(again));
            from.tables.push(source);
        }
        Ok(sql)
    }

    /// `sys.dm_exec_sessions`, of which a session sees its own row.
    fn sessions(&mut self) -> Result<(String, Source)> {
        let mut sql = Vec::new();
        let mut columns = Vec::new();
        for (name, system, sql_type) in [
            ("session_id", System::Spid, SqlType::SmallInt),
            ("login_name", System::User, SqlType::NVarChar(Some(128))),
            ("program_name", System::Application, SqlType::NVarChar(Some(128))),
            ("transaction_isolation_level", System::Isolation, SqlType::SmallInt),
        ] {
            sql.push(format!("{} AS {name}", self.system(system, sql_type)?.sql));
            columns.push((name.to_owned(), sql_type));
        }
        let name = "dm_exec_sessions".to_owned();
        Ok((format!("(SELECT {})", sql.join(", ")), Source { name, columns }))
    }

    /// A column, by one or two names.
    pub(super) fn column(&mut self, parts: &[Ident]) -> Result<Typed> {
        let (table, name) = match parts {
            [name] => (None, &name.value),
            [table, name] => (Some(&table.value), &name.value),
            _ => return Err(ServerError::unsupported("a column's name of more than two parts")),
        };
        let innermost = self.froms.len().saturating_sub(1);
        let in_aggregate = self.froms.last().is_some_and(|from| from.clause == Clause::Aggregate);
        for (depth, from) in self.froms.iter_mut().enumerate().rev() {
            let of_table = |source: &&Source| {
                table.is_none_or(|table| source.name.eq_ignore_ascii_case(table))
            };
            let columns = from.tables.iter().filter(of_table).flat_map(|source| {
                source.columns.iter().map(|(column, sql_type)| (&source.name, column, *sql_type))
            });
            let found: Vec<_> = columns.filter(|(_, c, _)| c.eq_ignore_ascii_case(name)).collect();
            let (source, column, sql_type) = match found[..] {
                [] => continue,
                [(source, column, sql_type)] => (source, column.clone(), sql_type),
                _ => {
                    let text = format!("Ambiguous column name '{name}'.");
                    return Err(ServerError::new(209, 16, text));
                }
            };
            refuse!("an outer query's column in an aggregate": in_aggregate && depth < innermost);
            let sql = match self.in_definition {
                true => names::quoted(&column),
                false => format!("{}.{}", names::quoted(source), names::quoted(&column)),
            };
            let typed = Typed::new(sql, sql_type);
            if from.clause == Clause::Items {
                from.bare_column = Some(column);
            }
            return Ok(typed);
        }
        Err(match table {
            None => ServerError::new(207, 16, format!("Invalid column name '{name}'.")),
            Some(table) => {
                let text =
                    format!("The multi-part identifier \"{table}.{name}\" could not be bound.");
                ServerError::new(4104, 16, text)
            }
        })
    }
}
