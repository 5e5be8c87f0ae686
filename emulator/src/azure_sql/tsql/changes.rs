//! INSERT, UPDATE and DELETE.

use sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, Insert, ObjectName, OutputClause,
    SelectItem, SetExpr, TableFactor, TableObject, TableWithJoins, Update,
};

use super::{
    Result, TableColumn, Translated, Translator, Typed, Writes, common_type, list, names,
    names::Table, only, refuse, sources::Source,
};
use crate::azure_sql::{
    convert::is_convertible,
    error::ServerError,
    tokens::{Column, Command},
};

impl Translator<'_> {
    pub(super) fn insert(mut self, insert: &Insert) -> Result<Translated> {
        let TableObject::TableName(name) = &insert.table else {
            return Err(ServerError::unsupported(insert));
        };
        let Some(SetExpr::Values(values)) = insert.source.as_deref().map(|query| &*query.body)
        else {
            return Err(ServerError::unsupported("INSERT of anything but VALUES"));
        };
        let into = if insert.into { "INTO " } else { "" };
        let mut known = format!("INSERT {into}{name} ");
        if !insert.columns.is_empty() {
            known = format!("{known}({}) ", list(&insert.columns));
        }
        if let Some(output) = &insert.output {
            known = format!("{known}{output} ");
        }
        only(insert, &format!("{known}{values}"))?;
        refuse!("VALUE": values.value_keyword, "ROW": values.explicit_row);
        let table = names::table(name)?;
        let all = self.columns_of(&table)?;
        let columns = inserted_columns(&table, &all, &insert.columns)?;
        refuse!("more than 1000 rows of VALUES": values.rows.len() > 1000);
        let mut rows: Vec<Vec<Typed>> = Vec::new();
        for row in &values.rows {
            refuse!("INSERT of another number of values than columns": row.content.len() != columns.len());
            rows.push(row.content.iter().map(|it| self.expression(it)).collect::<Result<_>>()?);
        }
        for index in 0..columns.len() {
            // SQL Server converts the rows to one type before it converts them to the column's.
            common_type(rows.iter().map(|row| &row[index]))?;
        }
        let mut stored = Vec::new();
        for row in rows {
            let row = row.into_iter().zip(&columns);
            let row: Result<Vec<_>> = row.map(|(typed, column)| stored_as(typed, column)).collect();
            stored.push(format!("({})", row?.join(", ")));
        }
        let names: Vec<String> = columns.iter().map(|c| names::quoted(&c.name)).collect();
        let sql = format!(
            "INSERT INTO {} ({}) VALUES {}",
            table.quoted(),
            names.join(", "),
            stored.join(", ")
        );
        let (returning, columns) = match &insert.output {
            Some(output) => inserted(output, &all)?,
            None => (String::new(), Vec::new()),
        };
        let sql = format!("{sql}{returning}");
        Ok(Translated { columns, ..self.finish(sql, Writes::to(&table), Command::Insert) })
    }

    pub(super) fn update(mut self, update: &Update) -> Result<Translated> {
        let condition = shown_condition(update.selection.as_ref());
        let assignments = list(&update.assignments);
        only(update, &format!("UPDATE {} SET {assignments}{condition}", update.table))?;
        let (table, columns) = self.changed(&update.table)?;
        let mut changed = Vec::new();
        let mut changes = Vec::new();
        for Assignment { target, value } in &update.assignments {
            let AssignmentTarget::ColumnName(name) = target else {
                return Err(ServerError::unsupported(target));
            };
            let column = named(&columns, name, &mut changed)?;
            if column.identity {
                let text = format!("Cannot update identity column '{}'.", column.name);
                return Err(ServerError::new(8102, 16, text));
            }
            let value = stored_as(self.expression(value)?, column)?;
            changes.push(format!("{} = {value}", names::quoted(&column.name)));
        }
        let condition = self.condition_of(update.selection.as_ref())?;
        let sql = format!("UPDATE {} SET {}{condition}", table.quoted(), changes.join(", "));
        Ok(self.finish(sql, Writes::to(&table), Command::Update))
    }

    pub(super) fn delete(mut self, delete: &Delete) -> Result<Translated> {
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let condition = shown_condition(delete.selection.as_ref());
        only(delete, &format!("DELETE FROM {}{condition}", list(from)))?;
        let [table] = &from[..] else { return Err(ServerError::unsupported(delete)) };
        let (table, _) = self.changed(table)?;
        let condition = self.condition_of(delete.selection.as_ref())?;
        let sql = format!("DELETE FROM {}{condition}", table.quoted());
        Ok(self.finish(sql, Writes::to(&table), Command::Delete))
    }

    /// The table of a change, and its columns.
    fn changed(&mut self, changed: &TableWithJoins) -> Result<(Table, Vec<TableColumn>)> {
        let TableFactor::Table { name, .. } = &changed.relation else {
            return Err(ServerError::unsupported(changed));
        };
        only(changed, &name.to_string())?;
        let table = names::table(name)?;
        let columns = self.columns_of(&table)?;
        self.sources.push(Source { name: table.name.clone(), columns: columns.clone() });
        Ok((table, columns))
    }

    fn condition_of(&mut self, selection: Option<&Expr>) -> Result<String> {
        selection.map_or(Ok(String::new()), |selection| {
            Ok(format!(" WHERE {}", self.predicate(selection)?))
        })
    }
}

fn shown_condition(selection: Option<&Expr>) -> String {
    selection.map_or(String::new(), |selection| format!(" WHERE {selection}"))
}

/// The columns that get values: without a list, all except the IDENTITY.
fn inserted_columns<'c>(
    table: &Table,
    all: &'c [TableColumn],
    names: &[ObjectName],
) -> Result<Vec<&'c TableColumn>> {
    if names.is_empty() {
        return Ok(all.iter().filter(|column| !column.identity).collect());
    }
    let mut known = Vec::new();
    for name in names {
        if named(all, name, &mut known)?.identity {
            let text = format!(
                "Cannot insert explicit value for identity column in table '{}' when IDENTITY_INSERT is set to OFF.",
                table.name
            );
            return Err(ServerError::new(544, 16, text));
        }
    }
    Ok(known)
}

/// The column of this name, which must not be among the columns `before` it.
fn named<'c>(
    columns: &'c [TableColumn],
    name: &ObjectName,
    before: &mut Vec<&'c TableColumn>,
) -> Result<&'c TableColumn> {
    let name = &names::simple(name)?.value;
    let Some(column) = columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) else {
        return Err(ServerError::new(207, 16, format!("Invalid column name '{name}'.")));
    };
    refuse!("a column that is named twice": before.contains(&column));
    before.push(column);
    Ok(column)
}

/// The value that a column stores.
fn stored_as(typed: Typed, column: &TableColumn) -> Result<String> {
    let to = column.sql_type;
    match typed.sql_type {
        None => Ok(typed.sql),
        Some(from) if from == to => Ok(typed.sql),
        Some(from) if !is_convertible(from, to) => {
            Err(ServerError::unsupported(format_args!("{from} in a column of {to}")))
        }
        Some(from) => {
            let name = names::string(&column.name);
            Ok(format!("tsql_store({}, '{from}', '{to}', {name})", typed.sql))
        }
    }
}

/// `OUTPUT INSERTED.a` is SQLite's `RETURNING "a"`.
fn inserted(output: &OutputClause, columns: &[TableColumn]) -> Result<(String, Vec<Column>)> {
    let OutputClause::Output { select_items, into_table: None, .. } = output else {
        return Err(ServerError::unsupported(output));
    };
    let (mut sql, mut returned) = (Vec::new(), Vec::new());
    for item in select_items {
        let name = match item {
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => match &parts[..] {
                [prefix, name] if prefix.value.eq_ignore_ascii_case("INSERTED") => name,
                _ => return Err(ServerError::unsupported(output)),
            },
            _ => return Err(ServerError::unsupported(output)),
        };
        let column = named(columns, &name.clone().into(), &mut Vec::new())?;
        sql.push(names::quoted(&column.name));
        returned.push(Column { name: name.value.clone(), sql_type: column.sql_type });
    }
    Ok((format!(" RETURNING {}", sql.join(", ")), returned))
}
