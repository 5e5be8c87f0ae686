//! `SELECT` and `INSERT` for SQLite.

use std::sync::Arc;

use pgwire::api::Type;
use rusqlite::Connection;
use sqlparser::ast::{
    ConflictTarget, Expr, GroupByExpr, Insert, JoinConstraint, JoinOperator, OnConflict,
    OnConflictAction, OnInsert, OrderBy, OrderByKind, OrderByOptions, OrderBySort, Query, Select,
    SelectItem, SetExpr, Statement, TableFactor, TableObject, Values,
};

use super::{
    Shared,
    allowed::{folded, local, only, plain, quoted, select, table},
    command::Command,
    error::SqlError,
    expressions::{Column, Compiler, Source, name_of},
    values::{Class, Ty},
};

/// A statement for SQLite, and what the client is told of it before it runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Compiled {
    /// Instead of SQL.
    pub(super) command: Option<Command>,
    pub(super) tag: &'static str,
    pub(super) sql: String,
    pub(super) parameters: Vec<Type>,
    pub(super) columns: Vec<(String, Ty)>,
}

/// The columns of a select list, for SQLite and for the client.
#[derive(Default)]
struct Items {
    sql: Vec<String>,
    columns: Vec<(String, Ty)>,
}

/// Reads a statement; the client may give the types of its parameters.
pub(super) fn compile(
    sqlite: &Connection,
    names: &[String; 2],
    statement: &Statement,
    given: &[Option<Type>],
    shared: &Arc<Shared>,
) -> Result<Compiled, SqlError> {
    let mut compiler = Compiler {
        sqlite,
        shared,
        names,
        parameters: given.iter().map(|ty| ty.clone().filter(|ty| *ty != Type::UNKNOWN)).collect(),
        sources: Vec::new(),
        aggregated: false,
        aggregating: false,
        bare: Vec::new(),
    };
    let mut items = Items::default();
    let (tag, sql) = match statement {
        // What the pool's cleaning asks: a statement that SQL has prepared, which none can be.
        Statement::Query(query)
            if query.to_string().ends_with("pg_prepared_statement() WHERE from_sql") =>
        {
            items.columns.push(("int4".to_owned(), Type::INT4.into()));
            ("SELECT", "SELECT 0 WHERE 0".to_owned())
        }
        Statement::Query(query) => ("SELECT", compiler.query(query, &mut items)?),
        Statement::Insert(insert) => ("INSERT 0", compiler.insert(insert, &mut items)?),
        Statement::CreateTable(table) => ("CREATE TABLE", compiler.create_table(table)?),
        Statement::CreateIndex(index) => ("CREATE INDEX", compiler.create_index(index)?),
        other => return Err(SqlError::unsupported(other.to_string())),
    };
    let parameters = compiler.parameters.into_iter().enumerate().map(|(at, ty)| {
        let message = || format!("could not determine data type of parameter ${}", at + 1);
        ty.ok_or_else(|| SqlError::new("42P18", message()))
    });
    let parameters = parameters.collect::<Result<_, _>>()?;
    Ok(Compiled { command: None, tag, sql, parameters, columns: items.columns })
}

impl Compiler<'_> {
    /// The columns of a table, from how it was declared in SQLite.
    pub(super) fn table(&self, name: &str) -> Result<Vec<Column>, SqlError> {
        // SQLite's own names for tables tell no cases apart.
        let sql = "SELECT i.name, i.type, i.pk FROM sqlite_schema AS t, \
                   pragma_table_info(t.name) AS i WHERE t.type = 'table' AND t.name = ?1";
        let mut query = self.sqlite.prepare_cached(sql)?;
        let rows = query.query_map([name], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, bool>(2)?))
        })?;
        let mut columns = Vec::new();
        for row in rows {
            let (column, declared, key) = row?;
            let (ty, rest) = declared.split_once(':').unwrap_or((&declared, ""));
            let ty = Ty::by_name(ty).ok_or_else(|| SqlError::unsupported(&declared))?;
            columns.push(Column { name: column, ty, always: rest.ends_with(":always"), key });
        }
        if columns.is_empty() {
            return Err(SqlError::new("42P01", format!("relation \"{name}\" does not exist")));
        }
        Ok(columns)
    }

    fn query(&mut self, query: &Query, items: &mut Items) -> Result<String, SqlError> {
        let given = select(query)?;
        let mut sql = self.from(given)?;
        if let Some(condition) = &given.selection {
            sql += &format!(" WHERE {}", self.boolean(condition)?);
        }
        let groups = match &given.group_by {
            GroupByExpr::Expressions(groups, modifiers) if modifiers.is_empty() => groups,
            other => return Err(SqlError::unsupported(other.to_string())),
        };
        self.bare.clear();
        for (at, expr) in groups.iter().enumerate() {
            let typed = self.expr(expr, None)?;
            // A column alone, of which equal values look the same.
            if self.bare.len() != at + 1
                || name_of(expr).is_none()
                || typed.ty.class() == Class::Other
            {
                return Err(SqlError::unsupported(given.group_by.to_string()));
            }
            sql += if at == 0 { " GROUP BY " } else { ", " };
            sql += &typed.sql;
        }
        let groups = std::mem::take(&mut self.bare);
        self.items(&given.projection, items)?;
        if let Some(order) = &query.order_by {
            sql += &self.order(order, items)?;
        }
        if self.aggregated || !groups.is_empty() {
            self.check_groups(&groups)?;
        }
        Ok(format!("SELECT {}{sql}", items.sql.join(", ")))
    }

    fn from(&mut self, select: &Select) -> Result<String, SqlError> {
        let from = match select.from.as_slice() {
            [] => return Ok(String::new()),
            [from] => from,
            _ => return Err(SqlError::unsupported("FROM with a comma")),
        };
        let mut sql = format!(" FROM {}", self.source(&from.relation)?);
        for join in &from.joins {
            let (kind, condition) = match &join.join_operator {
                JoinOperator::Join(JoinConstraint::On(it)) => ("JOIN", it),
                JoinOperator::Left(JoinConstraint::On(it)) => ("LEFT JOIN", it),
                _ => return Err(SqlError::unsupported(join.to_string())),
            };
            let source = self.source(&join.relation)?;
            sql += &format!(" {kind} {source} ON {}", self.boolean(condition)?);
        }
        Ok(sql)
    }

    fn source(&mut self, factor: &TableFactor) -> Result<String, SqlError> {
        let name = table(factor)?;
        let columns = self.table(&name)?;
        if self.sources.iter().any(|source| source.name == name) {
            let message = format!("table name \"{name}\" specified more than once");
            return Err(SqlError::new("42712", message));
        }
        let sql = quoted(&name);
        self.sources.push(Source { name, columns });
        Ok(sql)
    }

    fn items(&mut self, list: &[SelectItem], items: &mut Items) -> Result<(), SqlError> {
        for item in list {
            let (name, typed) = match item {
                SelectItem::UnnamedExpr(expr) => (name_of(expr), self.expr(expr, None)?),
                SelectItem::ExprWithAlias { expr, alias } => {
                    (Some(folded(alias)), self.expr(expr, None)?)
                }
                other => return Err(SqlError::unsupported(other.to_string())),
            };
            items.sql.push(typed.sql);
            items.columns.push((name.unwrap_or_else(|| "?column?".to_owned()), typed.ty));
        }
        Ok(())
    }

    /// Each column that is selected must be grouped, or depend on a key that is.
    fn check_groups(&self, groups: &[(usize, usize)]) -> Result<(), SqlError> {
        for (source, column) in &self.bare {
            let Source { name: table, columns, .. } = &self.sources[*source];
            let by_key = groups.iter().any(|(it, key)| it == source && columns[*key].key);
            if !by_key && !groups.contains(&(*source, *column)) {
                let name = &columns[*column].name;
                let message =
                    format!("column \"{table}.{name}\" must appear in the GROUP BY clause");
                return Err(SqlError::new("42803", message));
            }
        }
        Ok(())
    }

    /// NULL is the highest value in PostgreSQL, and the lowest in SQLite.
    fn order(&mut self, order: &OrderBy, items: &Items) -> Result<String, SqlError> {
        let OrderByKind::Expressions(terms) = &order.kind else {
            return Err(SqlError::unsupported(order.to_string()));
        };
        let mut sql = String::new();
        for term in terms {
            let unsupported = || SqlError::unsupported(format!("ORDER BY {term}"));
            let direction = match &term.options {
                OrderByOptions { sort: None | Some(OrderBySort::Asc), nulls_first: None } => {
                    "ASC NULLS LAST"
                }
                OrderByOptions { sort: Some(OrderBySort::Desc), nulls_first: None } => {
                    "DESC NULLS FIRST"
                }
                _ => return Err(unsupported()),
            };
            if !matches!(term.expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
                return Err(unsupported());
            }
            // The name of what is selected goes before a column's in PostgreSQL.
            let is_named = |(name, _): &(String, Ty)| matches!(&term.expr, Expr::Identifier(it) if folded(it) == *name);
            let selected: Vec<&String> = items
                .columns
                .iter()
                .zip(&items.sql)
                .filter(|(it, _)| is_named(it))
                .map(|(_, sql)| sql)
                .collect();
            let typed = match self.expr(&term.expr, None) {
                Err(_) if !selected.is_empty() => return Err(unsupported()),
                typed => typed?,
            };
            if selected.iter().any(|sql| **sql != typed.sql)
                || typed.ty.class() == Class::Other
                || term.with_fill.is_some()
            {
                return Err(unsupported());
            }
            sql += if sql.is_empty() { " ORDER BY " } else { ", " };
            sql += &format!("{} {direction}", typed.sql);
        }
        Ok(sql)
    }

    fn insert(&mut self, given: &Insert, items: &mut Items) -> Result<String, SqlError> {
        let unsupported = || SqlError::unsupported(given.to_string());
        let (TableObject::TableName(name), Some(source)) = (&given.table, &given.source) else {
            return Err(unsupported());
        };
        let (SetExpr::Values(values), Statement::Insert(mut rebuilt)) =
            (source.body.as_ref(), plain("INSERT INTO t VALUES (1)")?)
        else {
            return Err(unsupported());
        };
        rebuilt.table.clone_from(&given.table);
        rebuilt.columns.clone_from(&given.columns);
        rebuilt.on.clone_from(&given.on);
        rebuilt.returning.clone_from(&given.returning);
        if let Some(source) = &mut rebuilt.source {
            let (explicit_row, value_keyword, rows) = (false, false, values.rows.clone());
            *source.body = SetExpr::Values(Values { explicit_row, value_keyword, rows });
        }
        only(&rebuilt, given)?;

        let table = local(name)?;
        let columns = self.table(&table)?;
        let mut targets: Vec<&Column> = Vec::new();
        for name in &given.columns {
            let name = local(name)?;
            let target = columns.iter().find(|column| column.name == name);
            let missing = || {
                let message = format!("column \"{name}\" of relation \"{table}\" does not exist");
                SqlError::new("42703", message)
            };
            let target = target.ok_or_else(missing)?;
            if targets.iter().any(|known| known.name == name) {
                let message = format!("column \"{name}\" specified more than once");
                return Err(SqlError::new("42701", message));
            }
            targets.push(target);
        }
        if targets.is_empty() {
            // Fewer values than columns leave the others to their defaults.
            let width = values.rows.first().map_or(0, |row| row.content.len());
            targets = columns.iter().take(width).collect();
        }
        let mut rows = Vec::new();
        for row in &values.rows {
            rows.push(self.row(&row.content, &targets)?);
        }
        let names: Vec<String> = targets.iter().map(|it| quoted(&it.name)).collect();
        let (names, rows) = (names.join(", "), rows.join(", "));
        let mut sql = format!("INSERT INTO {} ({names}) VALUES {rows}", quoted(&table));
        match &given.on {
            None => {}
            Some(OnInsert::OnConflict(OnConflict {
                conflict_target: None | Some(ConflictTarget::Columns(_)),
                action: OnConflictAction::DoNothing,
            })) => sql += &given.on.iter().map(ToString::to_string).collect::<String>(),
            Some(other) => return Err(SqlError::unsupported(other.to_string().trim())),
        }
        if let Some(returning) = &given.returning {
            self.only_source(&table, &columns);
            self.items(returning, items)?;
            sql += &format!(" RETURNING {}", items.sql.join(", "));
        }
        Ok(sql)
    }

    fn row(&mut self, values: &[Expr], targets: &[&Column]) -> Result<String, SqlError> {
        if values.len() != targets.len() {
            let message = "INSERT must have as many expressions as target columns";
            return Err(SqlError::new("42601", message));
        }
        let mut row = Vec::new();
        for (value, target) in values.iter().zip(targets) {
            if target.always {
                let name = &target.name;
                let message = format!("cannot insert a non-DEFAULT value into column \"{name}\"");
                return Err(SqlError::new("428C9", message));
            }
            row.push(self.assigned(value, &target.ty)?.sql);
        }
        Ok(format!("({})", row.join(", ")))
    }

    /// The columns of one table, by their names alone.
    pub(super) fn only_source(&mut self, table: &str, columns: &[Column]) {
        self.sources = vec![Source { name: table.to_owned(), columns: columns.to_vec() }];
    }
}
