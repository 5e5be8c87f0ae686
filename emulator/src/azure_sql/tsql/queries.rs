//! SELECT.

use sqlparser::ast::{
    Expr, OrderBy, OrderByExpr, OrderByKind, Query, Select, SelectItem, SetExpr, SetOperator,
    SetQuantifier, Top, TopQuantity,
};

use super::{
    Result, Translated, Translator, Typed, Writes, common_type, list, names, only, refuse,
    sources::qualified,
};
use crate::azure_sql::{
    error::ServerError,
    tokens::{Column, Command},
    types::SqlType,
};

/// Columns with their names.
type Items = Vec<(String, Typed)>;

impl Translator<'_> {
    pub(super) fn query(mut self, query: &Query) -> Result<Translated> {
        let (order, shown) = match &query.order_by {
            None => (&[][..], String::new()),
            Some(order @ OrderBy { kind: OrderByKind::Expressions(keys), interpolate: None }) => {
                (&keys[..], format!(" {order}"))
            }
            Some(order) => return Err(ServerError::unsupported(order)),
        };
        only(query, &format!("{}{shown}", query.body))?;
        let mut selects = Vec::new();
        flatten(&query.body, &mut selects)?;
        refuse!(
            "ORDER BY of a UNION": selects.len() > 1 && !order.is_empty(),
            "TOP in a UNION": selects.len() > 1 && selects.iter().any(|s| s.top.is_some()),
        );
        let mut branches = Vec::new();
        for select in selects {
            self.sources.clear();
            branches.push(self.select(select, order)?);
        }
        let width = branches[0].0.len();
        refuse!("rows of different lengths": branches.iter().any(|(items, _)| items.len() != width));
        let mut columns = Vec::new();
        for (index, (name, _)) in branches[0].0.iter().enumerate() {
            let sql_type = common_type(branches.iter().map(|(items, _)| &items[index].1))?;
            columns.push(Column { name: name.clone(), sql_type });
        }
        let mut selects = Vec::new();
        for (items, rest) in branches {
            let mut shown = Vec::new();
            for ((_, typed), column) in items.into_iter().zip(&columns) {
                let name = names::quoted(&column.name);
                shown.push(format!("{} AS {name}", typed.cast(column.sql_type)?.sql));
            }
            selects.push(format!("SELECT {}{rest}", shown.join(", ")));
        }
        let sql = selects.join(" UNION ALL ");
        Ok(Translated { columns, ..self.finish(sql, Writes::Nothing, Command::Select) })
    }

    /// The items of one SELECT, and the clauses after them.
    fn select(&mut self, select: &Select, order: &[OrderByExpr]) -> Result<(Items, String)> {
        let top = select.top.as_ref().map_or(String::new(), |top| format!("{top} "));
        let mut known = format!("SELECT {top}{}", list(&select.projection));
        if !select.from.is_empty() {
            known = format!("{known} FROM {}", list(&select.from));
        }
        if let Some(selection) = &select.selection {
            known = format!("{known} WHERE {selection}");
        }
        only(select, &known)?;
        let mut rest = self.tables(&select.from)?;
        let items = self.items(&select.projection, order)?;
        if let Some(selection) = &select.selection {
            rest = format!("{rest} WHERE {}", self.predicate(selection)?);
        }
        let mut keys = Vec::new();
        for key in order {
            keys.push(self.order_key(key, &items)?);
        }
        if !keys.is_empty() {
            rest = format!("{rest} ORDER BY {}", keys.join(", "));
        }
        if let Some(top) = &select.top {
            rest = format!("{rest} LIMIT {}", self.top(top)?);
        }
        Ok((items, rest))
    }

    fn items(&mut self, projection: &[SelectItem], order: &[OrderByExpr]) -> Result<Items> {
        let mut items = Vec::new();
        let mut aggregates = 0;
        for item in projection {
            let (expression, name) = match item {
                SelectItem::UnnamedExpr(expression) => (expression, column_name(expression)),
                SelectItem::ExprWithAlias { expr, alias } if !alias.value.starts_with('@') => {
                    (expr, names::alias(alias)?)
                }
                SelectItem::Wildcard(_) if item.to_string() == "*" => {
                    refuse!("* without FROM": self.sources.is_empty());
                    items.extend(self.sources.iter().flat_map(|source| {
                        let named = |column| qualified(&source.name, column);
                        source.columns.iter().map(move |c| (c.name.clone(), named(c)))
                    }));
                    continue;
                }
                other => return Err(ServerError::unsupported(other)),
            };
            let typed = match self.aggregate(expression)? {
                Some(aggregate) => {
                    aggregates += 1;
                    aggregate
                }
                None => self.expression(expression)?,
            };
            items.push((name, typed));
        }
        refuse!(
            "an aggregate next to another column": aggregates > 0 && aggregates < items.len(),
            "ORDER BY of an aggregate": aggregates > 0 && !order.is_empty(),
        );
        Ok(items)
    }

    /// `COUNT(*)`, `COUNT_BIG(*)` or `SUM` of integers.
    fn aggregate(&mut self, expression: &Expr) -> Result<Option<Typed>> {
        let Expr::Function(function) = expression else { return Ok(None) };
        let shown = function.to_string();
        Ok(Some(match shown.to_ascii_uppercase().as_str() {
            "COUNT(*)" => Typed::new("count(*)", SqlType::Int),
            "COUNT_BIG(*)" => Typed::new("count(*)", SqlType::BigInt),
            upper if upper.starts_with("SUM(") => {
                let name = shown[4..]
                    .strip_suffix(')')
                    .filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
                let name = name.ok_or_else(|| ServerError::unsupported(function))?;
                let column = self.column(&[name.into()])?;
                let sum = Typed::new(format!("sum({})", column.sql), SqlType::BigInt);
                match column.sql_type {
                    Some(SqlType::BigInt) => sum,
                    Some(SqlType::TinyInt | SqlType::SmallInt | SqlType::Int) => {
                        sum.cast(SqlType::Int)?
                    }
                    _ => return Err(ServerError::unsupported(function)),
                }
            }
            _ => return Ok(None),
        }))
    }

    /// A column, or an item by its name. NULL comes first in both engines.
    fn order_key(&mut self, key: &OrderByExpr, items: &Items) -> Result<String> {
        let direction = match key.to_string().strip_prefix(&key.expr.to_string()) {
            Some("" | " ASC") => "",
            Some(" DESC") => " DESC",
            _ => return Err(ServerError::unsupported(key)),
        };
        let typed = match &key.expr {
            Expr::Identifier(name) => {
                let is_named = |item: &&(String, Typed)| item.0.eq_ignore_ascii_case(&name.value);
                let named: Vec<_> = items.iter().filter(is_named).collect();
                refuse!("ORDER BY one of several columns with the same name": named.len() > 1);
                match named.first() {
                    Some((_, typed)) => typed.clone(),
                    None => self.column(std::slice::from_ref(name))?,
                }
            }
            Expr::CompoundIdentifier(parts) => self.column(parts)?,
            other => return Err(ServerError::unsupported(format_args!("ORDER BY {other}"))),
        };
        // SQLite would read a constant as the number of an item.
        let is_column = typed.sql.starts_with('"');
        refuse!("ORDER BY an expression": !is_column);
        refuse!("ORDER BY of text": typed.known_type().is_text());
        Ok(format!("{}{direction}", typed.sql))
    }

    fn top(&mut self, top: &Top) -> Result<String> {
        refuse!("TOP … WITH TIES": top.with_ties, "TOP … PERCENT": top.percent);
        let count = match &top.quantity {
            Some(TopQuantity::Constant(count)) => return Ok(count.to_string()),
            Some(TopQuantity::Expr(count)) => self.expression(count)?,
            None => return Err(ServerError::unsupported(top)),
        };
        let value = match self.parameters.last() {
            Some(value) if count.sql.starts_with('?') => value.clone(),
            _ => count.sql.parse::<i64>().map_or(rusqlite::types::Value::Null, Into::into),
        };
        match value {
            rusqlite::types::Value::Integer(0..) if count.known_type().is_integer() => {
                Ok(count.sql)
            }
            rusqlite::types::Value::Integer(_) => {
                let text = "A TOP N or FETCH rowcount value may not be negative.";
                Err(ServerError::new(127, 15, text))
            }
            _ => Err(ServerError::unsupported(top)),
        }
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

/// The name of a column; other expressions have none.
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
