//! INSERT, UPDATE and DELETE.

use sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, Insert, ObjectName, OutputClause,
    SelectItem, SetExpr, Statement, TableObject, TableWithJoins, Update,
};

use super::{
    Result, TableColumn, Translated, Translator, Typed, Writes, names,
    names::Table,
    plain,
    queries::unified,
    refuse, refuse_rest,
    sources::{From, Source},
};
use crate::azure_sql::{
    convert::is_convertible,
    error::ServerError,
    tokens::{Column, Command},
    types::SqlType,
};

impl Translator<'_> {
    pub(super) fn insert(mut self, insert: &Insert) -> Result<Translated> {
        let Statement::Insert(known) = plain("INSERT INTO t VALUES (1)")? else {
            return Err(ServerError::unsupported("INSERT"));
        };
        let rest = Insert {
            into: known.into,
            table: known.table.clone(),
            columns: Vec::new(),
            source: known.source.clone(),
            output: None,
            ..insert.clone()
        };
        refuse_rest(&rest, &known)?;
        let TableObject::TableName(name) = &insert.table else {
            return Err(ServerError::unsupported(insert));
        };
        let table = names::table(name)?;
        let all = self.columns_of(&table)?;
        let columns = inserted_columns(&table, &all, &insert.columns)?;
        let query = insert.source.as_deref();
        let values = match query.map(|query| (&*query.body, query.to_string())) {
            Some((SetExpr::Values(values), text))
                if text == values.to_string() && !values.explicit_row && !values.value_keyword =>
            {
                values
            }
            _ => return Err(ServerError::unsupported("INSERT of anything but VALUES")),
        };
        let mut rows = Vec::new();
        for row in &values.rows {
            let typed: Result<Vec<Typed>> =
                row.content.iter().map(|value| self.expression(value)).collect();
            rows.push(typed?);
        }
        let count = rows.len() as u64;
        refuse!("more than 1000 rows of VALUES": count > 1000);
        // The columns of all rows have one type before they get the table's.
        let rows = unified(rows)?;
        let mut stored = Vec::new();
        for row in rows {
            refuse!("INSERT of another number of values than columns": row.len() != columns.len());
            let row: Result<Vec<String>> = row
                .into_iter()
                .zip(&columns)
                .map(|(typed, column)| stored_as(typed, column))
                .collect();
            stored.push(format!("({})", row?.join(", ")));
        }
        let names: Vec<String> = columns.iter().map(|c| names::quoted(&c.name)).collect();
        let sql = format!(
            "INSERT INTO {} ({}) VALUES {}",
            table.quoted(),
            names.join(", "),
            stored.join(", ")
        );
        let (sql, output) = match &insert.output {
            Some(output) => {
                let (items, output) = inserted(output, &all)?;
                (format!("{sql} RETURNING {items}"), output)
            }
            None => (sql, Vec::new()),
        };
        let inserts = (count, all.iter().any(|column| column.identity));
        let finished = self.finish(sql, Writes::to(&table), Command::Insert);
        Ok(Translated { columns: output, inserts, ..finished })
    }

    pub(super) fn update(mut self, update: &Update) -> Result<Translated> {
        let Statement::Update(known) = plain("UPDATE t SET a = 1")? else {
            return Err(ServerError::unsupported("UPDATE"));
        };
        let rest = Update {
            table: known.table.clone(),
            assignments: known.assignments.clone(),
            selection: None,
            ..update.clone()
        };
        refuse_rest(&rest, &known)?;
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
        let Statement::Delete(known) = plain("DELETE FROM t")? else {
            return Err(ServerError::unsupported("DELETE"));
        };
        let rest = Delete { from: known.from.clone(), selection: None, ..delete.clone() };
        refuse_rest(&rest, &known)?;
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let [table] = &from[..] else { return Err(ServerError::unsupported(delete)) };
        let (table, _) = self.changed(table)?;
        let condition = self.condition_of(delete.selection.as_ref())?;
        let sql = format!("DELETE FROM {}{condition}", table.quoted());
        Ok(self.finish(sql, Writes::to(&table), Command::Delete))
    }

    /// The table of a change, the columns of which the rest of it sees.
    fn changed(&mut self, changed: &TableWithJoins) -> Result<(Table, Vec<TableColumn>)> {
        let TableWithJoins { relation, joins } = changed;
        let sqlparser::ast::TableFactor::Table { name, .. } = relation else {
            return Err(ServerError::unsupported(changed));
        };
        if !joins.is_empty() || relation.to_string() != name.to_string() {
            return Err(ServerError::unsupported(changed));
        }
        let table = names::table(name)?;
        let columns = self.columns_of(&table)?;
        let tables = vec![Source::of_table(&table.name, &columns)];
        self.froms.push(From { tables, ..From::default() });
        Ok((table, columns))
    }

    fn condition_of(&mut self, selection: Option<&Expr>) -> Result<String> {
        selection.map_or(Ok(String::new()), |selection| {
            Ok(format!(" WHERE {}", self.predicate(selection)?))
        })
    }
}

/// The columns that get values: all but the one that numbers the rows, if none is named.
fn inserted_columns<'c>(
    table: &Table,
    all: &'c [TableColumn],
    names: &[ObjectName],
) -> Result<Vec<&'c TableColumn>> {
    let mut known = Vec::new();
    for name in names {
        let column = named(all, name, &mut known)?;
        if column.identity {
            let text = format!(
                "Cannot insert explicit value for identity column in table '{}' when IDENTITY_INSERT is set to OFF.",
                table.name
            );
            return Err(ServerError::new(544, 16, text));
        }
    }
    Ok(if names.is_empty() {
        all.iter().filter(|column| !column.identity).collect()
    } else {
        known
    })
}

/// The column of this name, which must not be among those before it.
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

/// A value as a column takes it.
fn stored_as(typed: Typed, column: &TableColumn) -> Result<String> {
    let to = column.sql_type;
    match typed.sql_type {
        None => Ok(typed.sql),
        Some(from) if from == to && to.digits().is_none() => Ok(typed.sql),
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
    let refused = || ServerError::unsupported(output);
    let OutputClause::Output { output_token: _, select_items, into_table: None } = output else {
        return Err(refused());
    };
    let (mut sql, mut names) = (Vec::new(), Vec::<(String, SqlType)>::new());
    for item in select_items {
        let (expression, alias) = match item {
            SelectItem::UnnamedExpr(expression) => (expression, None),
            SelectItem::ExprWithAlias { expr, alias } => (expr, Some(&alias.value)),
            _ => return Err(refused()),
        };
        let Expr::CompoundIdentifier(parts) = expression else { return Err(refused()) };
        let [prefix, name] = &parts[..] else { return Err(refused()) };
        if !prefix.value.eq_ignore_ascii_case("INSERTED") {
            return Err(refused());
        }
        let column = named(columns, &name.clone().into(), &mut Vec::new())?;
        sql.push(names::quoted(&column.name));
        names.push((alias.unwrap_or(&name.value).clone(), column.sql_type));
    }
    let names = names.into_iter().map(|(name, sql_type)| Column { name, sql_type }).collect();
    Ok((sql.join(", "), names))
}
