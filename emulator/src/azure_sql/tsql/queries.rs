//! SELECT.

use sqlparser::ast::{
    Expr, OrderByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier,
    Statement, Top, TopQuantity,
};

use super::{
    Result, Translator, Typed, common_type, names, plain, refuse, refuse_rest,
    sources::{Clause, From},
};
use crate::azure_sql::{error::ServerError, tokens::Column};

/// A query in SQLite's SQL.
pub(super) struct QuerySql {
    pub(super) sql: String,
    /// Names and types of its columns.
    pub(super) items: Vec<(String, Typed)>,
    /// Whether it has one row at most, whatever the tables hold.
    pub(super) single: bool,
}

impl QuerySql {
    pub(super) fn columns(&self) -> Vec<Column> {
        let column = |(name, typed): &(String, Typed)| Column {
            name: name.clone(),
            sql_type: typed.known_type(),
        };
        self.items.iter().map(column).collect()
    }
}

/// One SELECT; `rest` is what follows its items.
struct Branch {
    items: Vec<(String, Typed)>,
    rest: String,
    single: bool,
}

impl Translator<'_> {
    /// `nested`: within a statement, where an order says nothing.
    pub(super) fn query(&mut self, query: &Query, nested: bool) -> Result<QuerySql> {
        let Statement::Query(known) = plain("SELECT 1")? else {
            return Err(ServerError::unsupported(query));
        };
        let rest = Query { body: known.body.clone(), order_by: None, ..query.clone() };
        refuse_rest(&rest, &known)?;
        refuse!("a query in a table's definition": self.in_definition);
        let order = match &query.order_by {
            None => &[][..],
            Some(order) => match (&order.kind, &order.interpolate) {
                (OrderByKind::Expressions(keys), None) => keys,
                _ => return Err(ServerError::unsupported(order)),
            },
        };
        let mut selects = Vec::new();
        flatten(&query.body, &mut selects)?;
        refuse!(
            "ORDER BY of a UNION": selects.len() > 1 && !order.is_empty(),
            "TOP in a UNION": selects.len() > 1 && selects.iter().any(|s| s.top.is_some()),
        );
        let top = selects.iter().any(|select| select.top.is_some());
        refuse!("ORDER BY in a query within another, without TOP": nested && !order.is_empty() && !top);
        let mut branches = Vec::new();
        for select in selects {
            let SetExpr::Select(known) = &*known.body else { continue };
            branches.push(self.branch(select, known, order)?);
        }
        let rows: Vec<Vec<Typed>> = branches
            .iter()
            .map(|branch| branch.items.iter().map(|(_, typed)| typed.clone()).collect())
            .collect();
        let rows = unified(rows)?;
        let names: Vec<String> = branches[0].items.iter().map(|(name, _)| name.clone()).collect();
        let single = branches.len() == 1 && branches[0].single;
        let sql: Vec<String> = branches
            .iter()
            .zip(&rows)
            .map(|(branch, row)| {
                let items = row.iter().zip(&names);
                let items: Vec<String> = items
                    .map(|(typed, name)| format!("{} AS {}", typed.sql, names::quoted(name)))
                    .collect();
                format!("SELECT {}{}", items.join(", "), branch.rest)
            })
            .collect();
        let items = names.into_iter().zip(rows.into_iter().next().unwrap_or_default()).collect();
        Ok(QuerySql { sql: sql.join(" UNION ALL "), items, single })
    }

    fn branch(&mut self, select: &Select, known: &Select, order: &[OrderByExpr]) -> Result<Branch> {
        let rest = Select {
            projection: known.projection.clone(),
            from: Vec::new(),
            selection: None,
            top: None,
            ..select.clone()
        };
        refuse_rest(&rest, known)?;
        if let Some(from) = self.froms.last() {
            refuse!("a query in an aggregate": from.clause == Clause::Aggregate);
        }
        self.froms.push(From::default());
        let mut rest = self.tables(&select.from)?;
        if let Some(selection) = &select.selection {
            rest = format!("{rest} WHERE {}", self.predicate(selection)?);
        }
        self.clause(Clause::Items);
        let items = self.items(&select.projection)?;
        self.clause(Clause::Other);
        let mut keys = Vec::new();
        for key in order {
            keys.push(self.order_key(key, &items)?);
        }
        if !keys.is_empty() {
            rest = format!("{rest} ORDER BY {}", keys.join(", "));
        }
        let mut single = select.from.is_empty();
        if let Some(top) = &select.top {
            single |= matches!(top.to_string().as_str(), "TOP 1" | "TOP (1)");
            rest = format!("{rest} LIMIT {}", self.top(top)?);
        }
        let from = self.froms.pop().unwrap_or_default();
        if let (true, Some(column)) = (from.aggregate, from.bare_column) {
            let text = format!(
                "Column '{column}' is invalid in the select list because it is not contained in either an aggregate function or the GROUP BY clause."
            );
            return Err(ServerError::new(8120, 16, text));
        }
        refuse!("ORDER BY of an aggregate": from.aggregate && !keys.is_empty());
        Ok(Branch { items, rest, single: single || from.aggregate })
    }

    /// Which clause of the innermost query comes next.
    pub(super) fn clause(&mut self, clause: Clause) {
        if let Some(from) = self.froms.last_mut() {
            from.clause = clause;
        }
    }

    fn items(&mut self, projection: &[SelectItem]) -> Result<Vec<(String, Typed)>> {
        let mut items = Vec::new();
        for item in projection {
            let (expression, name) = match item {
                SelectItem::UnnamedExpr(expression) => (expression, column_name(expression)),
                SelectItem::ExprWithAlias { expr, alias } if !alias.value.starts_with('@') => {
                    (expr, alias.value.clone())
                }
                SelectItem::Wildcard(_) if item.to_string() == "*" => {
                    self.all_columns(&mut items);
                    refuse!("* without FROM": items.is_empty());
                    continue;
                }
                other => return Err(ServerError::unsupported(other)),
            };
            items.push((name, self.expression(expression)?));
        }
        Ok(items)
    }

    fn all_columns(&mut self, items: &mut Vec<(String, Typed)>) {
        let Some(from) = self.froms.last_mut() else { return };
        for source in &from.tables {
            items.extend(source.columns.iter().map(|(column, sql_type)| {
                let (table, quoted) = (names::quoted(&source.name), names::quoted(column));
                (column.clone(), Typed::new(format!("{table}.{quoted}"), *sql_type))
            }));
        }
        from.bare_column = Some("*".to_owned());
    }

    /// A column, or an item by its name. NULL comes first, here and there.
    fn order_key(&mut self, key: &OrderByExpr, items: &[(String, Typed)]) -> Result<String> {
        let direction = match key.to_string().strip_prefix(&key.expr.to_string()) {
            Some("" | " ASC") => "",
            Some(" DESC") => " DESC",
            _ => return Err(ServerError::unsupported(key)),
        };
        let typed = match &key.expr {
            Expr::Identifier(name) => {
                let is_named = |item: &&(String, Typed)| item.0.eq_ignore_ascii_case(&name.value);
                let named: Vec<_> = items.iter().filter(is_named).collect();
                refuse!("ORDER BY one of several columns of a name": named.len() > 1);
                match named.first() {
                    Some((_, typed)) => typed.clone(),
                    None => self.column(std::slice::from_ref(name))?,
                }
            }
            Expr::CompoundIdentifier(parts) => self.column(parts)?,
            other => return Err(ServerError::unsupported(format_args!("ORDER BY {other}"))),
        };
        let sql_type = typed.known_type();
        // An item that is a constant would be the number of an item to SQLite.
        let sql = if typed.sql.starts_with('"') {
            typed.sql
        } else {
            format!("coalesce({}, NULL)", typed.sql)
        };
        Ok(format!("{}{direction}", super::predicates::key(sql, sql_type, true)?))
    }

    fn top(&mut self, top: &Top) -> Result<String> {
        refuse!("TOP … WITH TIES": top.with_ties, "TOP … PERCENT": top.percent);
        let count = match &top.quantity {
            Some(TopQuantity::Constant(count)) => return Ok(count.to_string()),
            Some(TopQuantity::Expr(count)) => self.expression(count)?,
            None => return Err(ServerError::unsupported(top)),
        };
        refuse!("TOP of anything but an integer": !count.known_type().is_integer());
        Ok(format!("tsql_top({})", count.sql))
    }
}

/// The SELECTs of a UNION ALL.
fn flatten<'q>(body: &'q SetExpr, selects: &mut Vec<&'q Select>) -> Result<()> {
    match body {
        SetExpr::Select(select) => selects.push(select),
        SetExpr::SetOperation {
            left,
            op: SetOperator::Union,
            set_quantifier: SetQuantifier::All,
            right,
        } => {
            flatten(left, selects)?;
            flatten(right, selects)?;
        }
        other => return Err(ServerError::unsupported(other)),
    }
    Ok(())
}

/// The rows with one type to each column.
pub(super) fn unified(rows: Vec<Vec<Typed>>) -> Result<Vec<Vec<Typed>>> {
    let width = rows.first().map_or(0, Vec::len);
    refuse!("rows of different lengths": rows.iter().any(|row| row.len() != width));
    if rows.len() == 1 {
        return Ok(rows);
    }
    let types: Result<Vec<_>> = (0..width)
        .map(|index| common_type(&rows.iter().map(|row| &row[index]).collect::<Vec<_>>()))
        .collect();
    let types = types?;
    let cast =
        |row: Vec<Typed>| row.into_iter().zip(&types).map(|(typed, to)| typed.cast(*to)).collect();
    rows.into_iter().map(cast).collect()
}

/// A column goes by its name, another expression has none.
fn column_name(expression: &Expr) -> String {
    match expression {
        Expr::Identifier(name) if name.quote_style.is_some() || !name.value.starts_with('@') => {
            name.value.clone()
        }
        Expr::CompoundIdentifier(parts) => {
            parts.last().map(|part| part.value.clone()).unwrap_or_default()
        }
        _ => String::new(),
    }
}
