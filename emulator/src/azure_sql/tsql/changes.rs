//! INSERT, UPDATE, DELETE and TRUNCATE TABLE.

use sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, FromTable, Ident, Insert, ObjectName, OutputClause,
    SetExpr, TableFactor, TableObject, TableWithJoins, Truncate, Update,
};

use super::{Translated, Translator, Writes, names, names::Table, refuse};
use crate::azure_sql::{error::ServerError, tokens::Command};

type Result<T> = std::result::Result<T, ServerError>;

impl Translator<'_> {
    pub(super) fn insert(mut self, insert: &Insert) -> Result<Translated> {
        let Insert {
            insert_token: _,
            optimizer_hints,
            or,
            ignore,
            into: _,
            table,
            table_alias,
            columns,
            overwrite,
            source,
            assignments,
            partitioned,
            after_columns,
            has_table_keyword,
            on,
            returning,
            output,
            replace_into,
            priority,
            insert_alias,
            settings,
            format_clause,
            multi_table_insert_type,
            multi_table_into_clauses,
            multi_table_when_clauses,
            multi_table_else_clause,
        } = insert;
        refuse!(
            "an optimizer hint": !optimizer_hints.is_empty(),
            "INSERT OR": or.is_some(),
            "IGNORE": *ignore,
            "a table's alias": table_alias.is_some(),
            "OVERWRITE": *overwrite,
            "INSERT … SET": !assignments.is_empty(),
            "PARTITION": partitioned.is_some() || !after_columns.is_empty(),
            "INSERT INTO TABLE": *has_table_keyword,
            "ON CONFLICT": on.is_some(),
            "RETURNING": returning.is_some(),
            "REPLACE": *replace_into,
            "a priority": priority.is_some(),
            "an alias of the new row": insert_alias.is_some(),
            "SETTINGS": settings.is_some(),
            "FORMAT": format_clause.is_some(),
            "INSERT ALL": multi_table_insert_type.is_some() || !multi_table_into_clauses.is_empty()
                || !multi_table_when_clauses.is_empty() || multi_table_else_clause.is_some(),
        );
        let TableObject::TableName(name) = table else {
            return Err(ServerError::unsupported(table));
        };
        let table = changed_table(name)?;
        let columns = self.inserted_columns(&table, columns, source.is_none())?;
        let source = match source {
            None => "DEFAULT VALUES".to_owned(),
            Some(query) => match &*query.body {
                SetExpr::Values(values) => self.values(values)?,
                _ => self.query(query)?.sql,
            },
        };
        let sql = format!("INSERT INTO {}{columns} {source}", table.quoted());
        self.with_output(sql, &table, output.as_ref(), "INSERTED", Command::Insert)
    }

    /// A row-numbering column takes no values unless IDENTITY_INSERT is on,
    /// and is not among the columns that need not be named.
    fn inserted_columns(
        &self,
        table: &Table,
        columns: &[ObjectName],
        defaults: bool,
    ) -> Result<String> {
        let known = self.catalogue.columns(table).unwrap_or_default();
        let allowed = self.catalogue.identity_insert(table);
        let mut named: Vec<String> = Vec::new();
        for column in columns {
            let name = &names::simple(column)?.value;
            if known.iter().any(|known| known.identity && known.name.eq_ignore_ascii_case(name))
                && !allowed
            {
                let text = format!(
                    "Cannot insert explicit value for identity column in table '{}' when IDENTITY_INSERT is set to OFF.",
                    table.name
                );
                return Err(ServerError::new(544, 16, text));
            }
            named.push(names::quoted(name));
        }
        if named.is_empty() && !defaults && known.iter().any(|column| column.identity) {
            named = known
                .iter()
                .filter(|column| !column.identity)
                .map(|column| names::quoted(&column.name))
                .collect();
        }
        Ok(if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) })
    }

    pub(super) fn update(mut self, update: &Update) -> Result<Translated> {
        let Update {
            update_token: _,
            optimizer_hints,
            table,
            assignments,
            from,
            selection,
            returning,
            output,
            or,
            order_by,
            limit,
        } = update;
        refuse!(
            "an optimizer hint": !optimizer_hints.is_empty(),
            "UPDATE … FROM": from.is_some(),
            "RETURNING": returning.is_some(),
            "UPDATE OR": or.is_some(),
            "ORDER BY in UPDATE": !order_by.is_empty(),
            "LIMIT": limit.is_some(),
        );
        let table = single_table(table)?;
        let mut changes = Vec::new();
        for Assignment { target, value } in assignments {
            let AssignmentTarget::ColumnName(column) = target else {
                return Err(ServerError::unsupported(target));
            };
            let column =
                column.0.last().and_then(|part| part.as_ident()).map(|column| column.value.clone());
            let column = column.filter(|name| !name.starts_with('@'));
            let column = column.ok_or_else(|| ServerError::unsupported(target))?;
            changes.push(format!("{} = {}", names::quoted(&column), self.sql(value)?));
        }
        let mut sql = format!("UPDATE {} SET {}", table.quoted(), changes.join(", "));
        if let Some(selection) = selection {
            sql = format!("{sql} WHERE {}", self.sql(selection)?);
        }
        self.with_output(sql, &table, output.as_ref(), "INSERTED", Command::Update)
    }

    pub(super) fn delete(mut self, delete: &Delete) -> Result<Translated> {
        let Delete {
            delete_token: _,
            optimizer_hints,
            tables,
            from,
            using,
            selection,
            returning,
            output,
            order_by,
            limit,
        } = delete;
        refuse!(
            "an optimizer hint": !optimizer_hints.is_empty(),
            "DELETE … FROM": !tables.is_empty(),
            "USING": using.is_some(),
            "RETURNING": returning.is_some(),
            "ORDER BY in DELETE": !order_by.is_empty(),
            "LIMIT": limit.is_some(),
        );
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = from;
        let [table] = &from[..] else {
            return Err(ServerError::unsupported("DELETE of several tables"));
        };
        let table = single_table(table)?;
        let mut sql = format!("DELETE FROM {}", table.quoted());
        if let Some(selection) = selection {
            sql = format!("{sql} WHERE {}", self.sql(selection)?);
        }
        self.with_output(sql, &table, output.as_ref(), "DELETED", Command::Delete)
    }

    pub(super) fn truncate(self, truncate: &Truncate) -> Result<Translated> {
        let Truncate {
            table_names,
            partitions,
            table: _,
            if_exists,
            identity,
            cascade,
            on_cluster,
        } = truncate;
        refuse!(
            "PARTITIONS": partitions.is_some(),
            "IF EXISTS": *if_exists,
            "IDENTITY": identity.is_some(),
            "CASCADE": cascade.is_some(),
            "ON CLUSTER": on_cluster.is_some(),
        );
        let [target] = &table_names[..] else {
            return Err(ServerError::unsupported("TRUNCATE of several tables"));
        };
        refuse!("ONLY": target.only, "*": target.has_asterisk);
        let table = changed_table(&target.name)?;
        let numbered =
            self.catalogue.columns(&table).unwrap_or_default().iter().any(|column| column.identity);
        let mut sql = format!("DELETE FROM {}", table.quoted());
        if numbered {
            let schema = if table.is_temporary() { "temp" } else { "main" };
            let name = table.name.replace('\'', "''");
            sql = format!(
                "{sql}; DELETE FROM {schema}.sqlite_sequence WHERE name = '{name}' COLLATE NOCASE"
            );
        }
        let writes = Writes::to(&table);
        Ok(self.finish(sql, None, writes, Command::Other))
    }

    /// `OUTPUT INSERTED.a` is SQLite's `RETURNING "a"`.
    fn with_output(
        mut self,
        sql: String,
        table: &Table,
        output: Option<&OutputClause>,
        rows: &'static str,
        command: Command,
    ) -> Result<Translated> {
        let Some(output) = output else {
            return Ok(self.finish(sql, None, Writes::to(table), command));
        };
        let OutputClause::Output { output_token: _, select_items, into_table: None } = output
        else {
            return Err(ServerError::unsupported("OUTPUT … INTO"));
        };
        let items = self.items(select_items, &mut |_, parts: &[Ident]| match parts {
            [prefix, column] if prefix.value.eq_ignore_ascii_case(rows) => {
                Ok(names::quoted(&column.value))
            }
            [prefix, ..] => Err(ServerError::unsupported(format_args!("OUTPUT {}", prefix.value))),
            [] => Err(ServerError::unsupported("OUTPUT")),
        })?;
        let list = |index: usize| {
            items
                .iter()
                .map(|item| if index == 0 { item.0.as_str() } else { item.1.as_str() })
                .collect::<Vec<_>>()
                .join(", ")
        };
        let probe = format!("SELECT {} FROM {}", list(1), table.quoted());
        let sql = format!("{sql} RETURNING {}", list(0));
        Ok(self.finish(sql, Some(probe), Writes::to(table), command))
    }
}

/// Views of the system cannot be changed.
pub(super) fn changed_table(name: &ObjectName) -> Result<Table> {
    let table = names::table(name)?;
    if table.schema.is_some() {
        return Err(ServerError::new(
            259,
            16,
            "Ad hoc updates to system catalogs are not allowed.",
        ));
    }
    Ok(table)
}

fn single_table(table: &TableWithJoins) -> Result<Table> {
    refuse!("JOIN in a change": !table.joins.is_empty());
    match &table.relation {
        TableFactor::Table { name, alias: None, args: None, .. } => changed_table(name),
        other => Err(ServerError::unsupported(other)),
    }
}
