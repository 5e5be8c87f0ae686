//! FROM: tables, joins, and the few views of the system.

use sqlparser::ast::{Join, JoinConstraint, JoinOperator, TableAlias, TableFactor, TableWithJoins};

use super::{System, Translator, names, refuse};
use crate::azure_sql::error::ServerError;

type Result<T> = std::result::Result<T, ServerError>;

impl Translator<'_> {
    pub(super) fn tables(&mut self, from: &[TableWithJoins]) -> Result<String> {
        let tables: Result<Vec<String>> = from.iter().map(|table| self.joined(table)).collect();
        Ok(tables?.join(", "))
    }

    fn joined(&mut self, table: &TableWithJoins) -> Result<String> {
        let mut sql = self.table(&table.relation)?;
        for Join { relation, global, join_operator } in &table.joins {
            refuse!("GLOBAL": *global);
            let (operator, constraint) = match join_operator {
                JoinOperator::Join(on) | JoinOperator::Inner(on) => ("JOIN", on),
                JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => ("LEFT JOIN", on),
                JoinOperator::Right(on) | JoinOperator::RightOuter(on) => ("RIGHT JOIN", on),
                JoinOperator::FullOuter(on) => ("FULL JOIN", on),
                JoinOperator::CrossJoin(on) => ("CROSS JOIN", on),
                JoinOperator::CrossApply | JoinOperator::OuterApply => {
                    return Err(ServerError::unsupported("APPLY"));
                }
                _ => return Err(ServerError::unsupported("this kind of JOIN")),
            };
            let relation = self.table(relation)?;
            let on = match (constraint, operator) {
                (JoinConstraint::On(condition), _) => format!(" ON {}", self.sql(condition)?),
                (JoinConstraint::None, "CROSS JOIN") => String::new(),
                _ => return Err(ServerError::unsupported("JOIN without ON")),
            };
            sql = format!("{sql} {operator} {relation}{on}");
        }
        Ok(sql)
    }

    fn table(&mut self, factor: &TableFactor) -> Result<String> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints: _, // Locks are SQLite's; hints say nothing to it.
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                refuse!(
                    "a table-valued function": args.is_some(),
                    "FOR SYSTEM_TIME": version.is_some(),
                    "WITH ORDINALITY": *with_ordinality,
                    "PARTITION": !partitions.is_empty(),
                    "a path into JSON": json_path.is_some(),
                    "TABLESAMPLE": sample.is_some(),
                    "an index hint": !index_hints.is_empty(),
                );
                let table = names::table(name)?;
                let (sql, own_name) = match &table.schema {
                    None => (table.quoted(), None),
                    Some(schema) => {
                        (self.system_view(schema, &table.name)?, Some(table.name.as_str()))
                    }
                };
                alias_of(sql, alias.as_ref(), own_name)
            }
            TableFactor::Derived { lateral, subquery, alias, sample } => {
                refuse!("LATERAL": *lateral, "TABLESAMPLE": sample.is_some(), "a derived table without a name": alias.is_none());
                let query = self.query(subquery)?;
                alias_of(format!("({})", query.sql), alias.as_ref(), None)
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                Ok(format!("({})", self.joined(table_with_joins)?))
            }
            other => Err(ServerError::unsupported(other)),
        }
    }

    /// The few views of the system that set-up scripts and tests ask.
    fn system_view(&mut self, schema: &str, name: &str) -> Result<String> {
        const TABLES: &str = "type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
        match (schema, name.to_ascii_lowercase().as_str()) {
            ("sys", "tables") => Ok(format!(
                "(SELECT rowid AS object_id, name COLLATE NOCASE AS name, 1 AS schema_id, 'U' AS type FROM sqlite_master WHERE {TABLES})"
            )),
            ("information_schema", "tables") => Ok(format!(
                "(SELECT 'dbo' AS TABLE_SCHEMA, name COLLATE NOCASE AS TABLE_NAME, 'BASE TABLE' AS TABLE_TYPE FROM sqlite_master WHERE {TABLES})"
            )),
            ("sys", "dm_exec_sessions") => {
                let mut columns = Vec::new();
                for (name, system) in [
                    ("session_id", System::Spid),
                    ("login_name", System::User),
                    ("program_name", System::Application),
                    ("host_name", System::Host),
                    ("transaction_isolation_level", System::Isolation),
                    ("open_transaction_count", System::TransactionCount),
                    ("language", System::Language),
                    ("date_format", System::DateFormat),
                    ("lock_timeout", System::LockTimeout),
                ] {
                    columns.push(format!("{} AS {name}", self.system(system)?));
                }
                Ok(format!("(SELECT {})", columns.join(", ")))
            }
            _ => Err(ServerError::new(208, 16, format!("Invalid object name '{schema}.{name}'."))),
        }
    }
}

fn alias_of(sql: String, alias: Option<&TableAlias>, own_name: Option<&str>) -> Result<String> {
    let name = match alias {
        None => own_name,
        Some(alias) => {
            refuse!("columns in a table's alias": !alias.columns.is_empty(), "AT": alias.at.is_some());
            Some(alias.name.value.as_str())
        }
    };
    Ok(match name {
        None => sql,
        Some(name) => format!("{sql} AS {}", names::quoted(name)),
    })
}
