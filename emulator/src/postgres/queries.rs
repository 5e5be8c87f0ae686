//! `SELECT` and `INSERT` for SQLite.

use pgwire::api::Type;
use rusqlite::Connection;
use sqlparser::ast::{
    ConflictTarget, Expr, GroupByExpr, Insert, JoinConstraint, JoinOperator, OnConflict,
    OnConflictAction, OnInsert, OrderBy, OrderByKind, OrderByOptions, OrderBySort, Query, Select,
    SelectItem, Statement, TableFactor, TableObject,
};

use super::{
    Embedded,
    allowed::{folded, local, quoted, rows, select, table},
    command::Command,
    error::SqlError,
    expressions::{Column, Compiler, Source, name_of},
    values::Ty,
};

/// A statement for SQLite, with the description that the client gets before it runs.
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

/// Reads a statement; the client may specify the types of its parameters.
pub(super) fn compile(
    sqlite: &Connection,
    names: &[String; 2],
    statement: &Statement,
    given: &[Option<Type>],
    engine: &Embedded,
) -> Result<Compiled, SqlError> {
    let given = given.iter().map(|ty| ty.clone().filter(|ty| *ty != Type::UNKNOWN)).collect();
    let mut compiler = Compiler::new(sqlite, engine, names, given);
    let mut items = Items::default();
    let (tag, sql) = match statement {
        // The pool's reset asks which statements SQL has prepared. SQL cannot prepare any here.
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
    /// The columns of a table, from its declaration in SQLite.
    pub(super) fn table(&self, name: &str) -> Result<Vec<Column>, SqlError> {
        // SQLite's own names for tables ignore case.
        let sql = "SELECT i.name, i.type, i.pk FROM sqlite_schema AS t, \
                   pragma_table_info(t.name) AS i WHERE t.type = 'table' AND t.name = ?1";
        let mut query = self.sqlite.prepare_cached(sql)?;
        let mut rows = query.query([name])?;
        let mut columns = Vec::new();
        while let Some(row) = rows.next()? {
            let (declared, name, key): (String, String, bool) =
                (row.get(1)?, row.get(0)?, row.get(2)?);
            let (ty, rest) = declared.split_once(':').unwrap_or((&declared, ""));
            let ty = Ty::by_name(ty).ok_or_else(|| SqlError::unsupported(&declared))?;
            columns.push(Column { name, ty, always: rest.ends_with(":always"), key });
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
        self.bare.clear();
        match &given.group_by {
            GroupByExpr::Expressions(groups, _) if groups.is_empty() => {}
            GroupByExpr::Expressions(groups, modifiers)
                if modifiers.is_empty() && groups.len() == 1 && is_column(&groups[0]) =>
            {
                sql += &format!(" GROUP BY {}", self.comparable(&groups[0])?.sql);
            }
            other => return Err(SqlError::unsupported(other.to_string())),
        }
        let group = self.bare.pop();
        self.items(&given.projection, items)?;
        if let Some(order) = &query.order_by {
            sql += &self.order(order, items)?;
        }
        if self.aggregated || group.is_some() {
            self.check_grouped(group)?;
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
            let (name, expr) = match item {
                SelectItem::UnnamedExpr(expr) => (name_of(expr), expr),
                SelectItem::ExprWithAlias { expr, alias } => (Some(folded(alias)), expr),
                SelectItem::Wildcard(_) if item.to_string() == "*" => {
                    for Source { name: table, columns } in self.sources.clone() {
                        for Column { name, .. } in columns {
                            let typed = self.column(Some(&table), &name)?;
                            items.sql.push(typed.sql);
                            items.columns.push((name, typed.ty));
                        }
                    }
                    continue;
                }
                other => return Err(SqlError::unsupported(other.to_string())),
            };
            let typed = self.expr(expr, None)?;
            items.sql.push(typed.sql);
            items.columns.push((name.unwrap_or_else(|| "?column?".to_owned()), typed.ty));
        }
        Ok(())
    }

    /// Checks that each selected column is the grouped one, or depends on it as a key.
    fn check_grouped(&self, group: Option<(usize, usize)>) -> Result<(), SqlError> {
        for bare in &self.bare {
            let Source { name: table, columns } = &self.sources[bare.0];
            let by_key = group.is_some_and(|(source, key)| source == bare.0 && columns[key].key);
            if !by_key && group != Some(*bare) {
                let name = &columns[bare.1].name;
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
        let mut sql = Vec::new();
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
            if !is_column(&term.expr) || term.with_fill.is_some() {
                return Err(unsupported());
            }
            let typed = self.comparable(&term.expr)?;
            // PostgreSQL prefers the name of a selected column to a table's column.
            let is_named =
                |name: &str| matches!(&term.expr, Expr::Identifier(it) if folded(it) == name);
            let mut selected = items.columns.iter().zip(&items.sql);
            if selected.any(|((name, _), sql)| is_named(name) && *sql != typed.sql) {
                return Err(unsupported());
            }
            sql.push(format!("{} {direction}", typed.sql));
        }
        Ok(format!(" ORDER BY {}", sql.join(", ")))
    }

    fn insert(&mut self, given: &Insert, items: &mut Items) -> Result<String, SqlError> {
        let values = rows(given)?;
        let TableObject::TableName(name) = &given.table else {
            return Err(SqlError::unsupported(given.to_string()));
        };
        let table = local(name)?;
        let columns = self.table(&table)?;
        let mut targets: Vec<&Column> = Vec::new();
        for name in &given.columns {
            let name = local(name)?;
            let target = columns.iter().find(|column| column.name == name);
            let message = format!("column \"{name}\" of relation \"{table}\" does not exist");
            let target = target.ok_or_else(|| SqlError::new("42703", message))?;
            if targets.iter().any(|known| known.name == name) {
                return Err(SqlError::unsupported(format!("the column {name} twice")));
            }
            targets.push(target);
        }
        if targets.is_empty() {
            // With fewer values than columns, the other columns get their defaults.
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
            self.sources = vec![Source { name: table, columns }];
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
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}
