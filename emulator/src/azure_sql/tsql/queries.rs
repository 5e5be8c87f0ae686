//! SELECT.

use sqlparser::ast::{
    Cte, Distinct, Expr, GroupByExpr, Ident, LimitClause, OrderByExpr, OrderByKind, OrderBySort,
    Query, Select, SelectInto, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, SetOperator,
    SetQuantifier, TableAlias, Top, TopQuantity, Values, With,
};

use super::{Shape, Target, Translated, Translator, Typed, Writes, names, refuse};
use crate::azure_sql::{error::ServerError, tokens::Command};

type Result<T> = std::result::Result<T, ServerError>;

/// A query in SQLite's SQL.
pub(super) struct QuerySql {
    pub(super) sql: String,
    pub(super) probe: String,
    target: Target,
}

impl Translator<'_> {
    pub(super) fn select(mut self, query: &Query) -> Result<Translated> {
        let QuerySql { sql, probe, target } = self.any_query(query)?;
        let writes = match &target {
            Target::Table(table) => Writes::to(table),
            _ => Writes::Nothing,
        };
        Ok(Translated { target, ..self.finish(sql, Some(probe), writes, Command::Select) })
    }

    /// A query within a statement: its rows go nowhere else.
    pub(super) fn query(&mut self, query: &Query) -> Result<QuerySql> {
        let query = self.any_query(query)?;
        refuse!("INTO or a variable in a subquery": query.target != Target::Client);
        refuse!("a query in a table's definition": self.in_definition);
        Ok(query)
    }

    fn any_query(&mut self, query: &Query) -> Result<QuerySql> {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        refuse!(
            "FOR UPDATE": !locks.is_empty(),
            "FOR": for_clause.is_some(),
            "SETTINGS": settings.is_some(),
            "FORMAT": format_clause.is_some(),
            "|>": !pipe_operators.is_empty(),
        );
        let with = match with {
            Some(with) => self.with(with)?,
            None => String::new(),
        };
        let mut result = match &**body {
            SetExpr::Select(select) => self.select_body(select)?,
            other => (self.set_expression(other)?, None),
        };
        let mut tail = String::new();
        if let Some(order_by) = order_by {
            refuse!("INTERPOLATE": order_by.interpolate.is_some());
            let OrderByKind::Expressions(keys) = &order_by.kind else {
                return Err(ServerError::unsupported("ORDER BY ALL"));
            };
            tail = format!(" ORDER BY {}", self.order(keys)?);
        }
        let offset = match limit_clause {
            None => None,
            Some(LimitClause::LimitOffset { limit: None, offset, limit_by })
                if limit_by.is_empty() =>
            {
                offset.as_ref()
            }
            Some(_) => return Err(ServerError::unsupported("LIMIT")),
        };
        let count = match fetch {
            None => None,
            Some(fetch) => {
                refuse!("FETCH … WITH TIES": fetch.with_ties, "FETCH … PERCENT": fetch.percent);
                fetch.quantity.as_ref()
            }
        };
        match (result.1.take(), offset, count) {
            (Some(top), None, None) => tail = format!("{tail} LIMIT {top}"),
            (None, None, None) => {}
            (None, Some(offset), count) => {
                refuse!("OFFSET without ORDER BY": order_by.is_none());
                let count = count.map_or(Ok("-1".to_owned()), |count| self.sql(count))?;
                tail = format!("{tail} LIMIT {count} OFFSET {}", self.sql(&offset.value)?);
            }
            _ => return Err(ServerError::unsupported("FETCH")),
        }
        let QuerySql { sql, probe, target } = result.0;
        Ok(QuerySql { sql: format!("{with}{sql}{tail}"), probe: format!("{with}{probe}"), target })
    }

    fn with(&mut self, with: &With) -> Result<String> {
        let mut tables = Vec::new();
        for Cte { alias, query, from, materialized, closing_paren_token: _ } in &with.cte_tables {
            refuse!("FROM after WITH": from.is_some(), "MATERIALIZED": materialized.is_some());
            let columns = column_list(alias)?;
            let query = self.query(query)?;
            tables.push(format!(
                "{}{columns} AS ({})",
                names::quoted(&alias.name.value),
                query.sql
            ));
        }
        // T-SQL does not say whether one is recursive; SQLite does not mind.
        Ok(format!("WITH RECURSIVE {} ", tables.join(", ")))
    }

    fn set_expression(&mut self, expression: &SetExpr) -> Result<QuerySql> {
        match expression {
            SetExpr::Select(select) => match self.select_body(select)? {
                (query, None) => Ok(query),
                // SQLite has LIMIT at the very end only.
                (query, Some(top)) => Ok(QuerySql {
                    sql: format!("SELECT * FROM ({} LIMIT {top})", query.sql),
                    ..query
                }),
            },
            SetExpr::Query(query) => {
                let query = self.query(query)?;
                Ok(QuerySql { sql: format!("SELECT * FROM ({})", query.sql), ..query })
            }
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                let (left, right) = (self.set_expression(left)?, self.set_expression(right)?);
                let all = match set_quantifier {
                    SetQuantifier::None => "",
                    SetQuantifier::All => " ALL",
                    _ => return Err(ServerError::unsupported(op)),
                };
                let operator = match op {
                    SetOperator::Union => "UNION",
                    SetOperator::Except => "EXCEPT",
                    SetOperator::Intersect => "INTERSECT",
                    SetOperator::Minus => return Err(ServerError::unsupported(op)),
                };
                refuse!("EXCEPT ALL or INTERSECT ALL": !all.is_empty() && operator != "UNION");
                refuse!("INTO in a set operation": left.target != Target::Client || right.target != Target::Client);
                Ok(QuerySql { sql: format!("{} {operator}{all} {}", left.sql, right.sql), ..left })
            }
            SetExpr::Values(values) => {
                let sql = self.values(values)?;
                Ok(QuerySql { probe: sql.clone(), sql, target: Target::Client })
            }
            other => {
                let text = other.to_string();
                Err(ServerError::unsupported(format_args!(
                    "{} in a query",
                    text.split(' ').next().unwrap_or_default()
                )))
            }
        }
    }

    pub(super) fn values(&mut self, values: &Values) -> Result<String> {
        refuse!("ROW": values.explicit_row, "VALUE": values.value_keyword);
        let rows: Result<Vec<String>> =
            values.rows.iter().map(|row| Ok(format!("({})", self.list(&row.content)?))).collect();
        Ok(format!("VALUES {}", rows?.join(", ")))
    }

    /// With TOP's number, which goes to the query's end.
    fn select_body(&mut self, select: &Select) -> Result<(QuerySql, Option<String>)> {
        let Select {
            select_token: _,
            optimizer_hints,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor: _,
        } = select;
        refuse!(
            "an optimizer hint": !optimizer_hints.is_empty(),
            "a modifier of SELECT": select_modifiers.is_some(),
            "EXCLUDE": exclude.is_some(),
            "LATERAL VIEW": !lateral_views.is_empty(),
            "PREWHERE": prewhere.is_some(),
            "CONNECT BY": !connect_by.is_empty(),
            "CLUSTER BY": !cluster_by.is_empty(),
            "DISTRIBUTE BY": !distribute_by.is_empty(),
            "SORT BY": !sort_by.is_empty(),
            "WINDOW": !named_window.is_empty(),
            "QUALIFY": qualify.is_some(),
            "AS STRUCT": value_table_mode.is_some(),
        );
        let distinct = match distinct {
            None | Some(Distinct::All) => "",
            Some(Distinct::Distinct) => "DISTINCT ",
            Some(Distinct::On(_)) => return Err(ServerError::unsupported("DISTINCT ON")),
        };
        let top = top.as_ref().map(|top| self.top(top)).transpose()?;
        let mut target = into.as_ref().map_or(Ok(Target::Client), into_target)?;
        let variables = assigned_variables(projection)?;
        if !variables.is_empty() {
            refuse!("INTO with variables": target != Target::Client);
            target = Target::Variables(variables);
        }
        let items = self.items(projection, &mut |_, parts| names::column(parts))?;
        let from = match self.tables(from)? {
            tables if tables.is_empty() => tables,
            tables => format!(" FROM {tables}"),
        };
        let mut sql = format!("SELECT {distinct}{}{from}", join(&items, |item| &item.0));
        let probe = format!("SELECT {}{from}", join(&items, |item| &item.1));
        if let Some(selection) = selection {
            sql = format!("{sql} WHERE {}", self.sql(selection)?);
        }
        let GroupByExpr::Expressions(keys, modifiers) = group_by else {
            return Err(ServerError::unsupported("GROUP BY ALL"));
        };
        refuse!("GROUP BY … WITH": !modifiers.is_empty());
        if !keys.is_empty() {
            sql = format!("{sql} GROUP BY {}", self.list(keys)?);
        }
        if let Some(having) = having {
            sql = format!("{sql} HAVING {}", self.sql(having)?);
        }
        Ok((QuerySql { sql, probe, target }, top))
    }

    fn top(&mut self, top: &Top) -> Result<String> {
        refuse!("TOP … WITH TIES": top.with_ties, "TOP … PERCENT": top.percent);
        match &top.quantity {
            Some(TopQuantity::Constant(count)) => Ok(count.to_string()),
            Some(TopQuantity::Expr(count)) => self.sql(count),
            None => Err(ServerError::unsupported("TOP")),
        }
    }

    /// The items of SELECT or OUTPUT, each with what stands for it in a probe.
    /// `table_column` writes a column with a table in front.
    pub(super) fn items(
        &mut self,
        items: &[SelectItem],
        table_column: &mut dyn FnMut(&Self, &[Ident]) -> Result<String>,
    ) -> Result<Vec<(String, String)>> {
        let mut translated = Vec::new();
        for item in items {
            let (expression, name) = match item {
                SelectItem::UnnamedExpr(expression) => (expression, column_name(expression)),
                SelectItem::ExprWithAlias { expr, alias } => (expr, alias.value.clone()),
                SelectItem::Wildcard(options) => {
                    refuse!("an option of *": options.to_string() != "");
                    translated.push(("*".to_owned(), "*".to_owned()));
                    continue;
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) => {
                    refuse!("an option of *": options.to_string() != "");
                    let star = Ident::new("*");
                    let table = Ident::new(names::table(name)?.name);
                    let star = table_column(self, &[table, star])?.replace("\"*\"", "*");
                    translated.push((star.clone(), star));
                    continue;
                }
                other => return Err(ServerError::unsupported(other)),
            };
            let typed = match expression {
                Expr::CompoundIdentifier(parts) => {
                    let sql = table_column(self, parts)?;
                    Typed { shape: Shape::Column(sql.clone()), sql }
                }
                _ => self.expression(expression)?,
            };
            translated
                .push((format!("{} AS {}", typed.sql, names::quoted(&name)), typed.shape.probe()));
        }
        Ok(translated)
    }

    pub(super) fn order(&mut self, keys: &[OrderByExpr]) -> Result<String> {
        let keys: Result<Vec<String>> = keys
            .iter()
            .map(|key| {
                refuse!("NULLS FIRST": key.options.nulls_first.is_some(), "WITH FILL": key.with_fill.is_some());
                let direction = match &key.options.sort {
                    None | Some(OrderBySort::Asc) => "",
                    Some(OrderBySort::Desc) => " DESC",
                    Some(OrderBySort::Using(_)) => return Err(ServerError::unsupported("ORDER BY … USING")),
                };
                // `ORDER BY (SELECT NULL)` is how T-SQL says "in any order".
                Ok(format!("{}{direction}", self.sql(&key.expr)?))
            })
            .collect();
        Ok(keys?.join(", "))
    }
}

fn join(items: &[(String, String)], part: impl Fn(&(String, String)) -> &String) -> String {
    items.iter().map(|item| part(item).as_str()).collect::<Vec<_>>().join(", ")
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

/// `SELECT @a = 1, @b = 2`: the parser takes the variables for names.
fn assigned_variables(items: &[SelectItem]) -> Result<Vec<String>> {
    let variable = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. }
            if alias.quote_style.is_none() && alias.value.starts_with('@') =>
        {
            Some(alias.value.to_ascii_lowercase())
        }
        _ => None,
    };
    let variables: Vec<String> = items.iter().filter_map(variable).collect();
    refuse!("a SELECT of values and variables": !variables.is_empty() && variables.len() != items.len());
    Ok(variables)
}

fn into_target(into: &SelectInto) -> Result<Target> {
    let SelectInto { temporary, unlogged, table, targets } = into;
    refuse!("INTO TEMPORARY": *temporary, "INTO UNLOGGED": *unlogged, "INTO TABLE": *table);
    match &targets[..] {
        [Expr::Identifier(name)] => Ok(Target::Table(names::table(&vec![name.clone()].into())?)),
        [Expr::CompoundIdentifier(parts)] => {
            Ok(Target::Table(names::table(&parts.clone().into())?))
        }
        _ => Err(ServerError::unsupported("INTO")),
    }
}

fn column_list(alias: &TableAlias) -> Result<String> {
    if alias.columns.is_empty() {
        return Ok(String::new());
    }
    refuse!("a column's type in an alias": alias.columns.iter().any(|column| column.data_type.is_some()));
    let columns: Vec<String> =
        alias.columns.iter().map(|column| names::quoted(&column.name.value)).collect();
    Ok(format!("({})", columns.join(", ")))
}
