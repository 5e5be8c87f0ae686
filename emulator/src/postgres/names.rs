//! The names of columns that are selected without one.

use sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr, Value};

use super::{
    infer::{folded, last_name},
    values::type_by_name,
};

/// Writes the names out that SQLite would make otherwise (`count(*)`).
pub(super) fn name_items(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return;
    };
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr @ Expr::Function(_)) = item {
            let alias = Ident::with_quote('"', expr_name(expr));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

/// The name PostgreSQL gives a column.
pub(super) fn item_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        SelectItem::UnnamedExpr(expr) => Some(expr_name(expr)),
        _ => None,
    }
}

fn expr_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(name) => folded(name),
        Expr::CompoundIdentifier(names) => names.last().map(folded).unwrap_or_default(),
        Expr::Function(function) => last_name(&function.name),
        Expr::Nested(inner) => expr_name(inner),
        Expr::Case { .. } => "case".to_owned(),
        Expr::Exists { .. } => "exists".to_owned(),
        Expr::Value(value) if matches!(value.value, Value::Boolean(_)) => "bool".to_owned(),
        Expr::Cast { expr, data_type, .. } => match expr_name(expr) {
            unnamed if unnamed == "?column?" => {
                let ty = type_by_name(&data_type.to_string());
                ty.map_or(unnamed, |ty| ty.name().to_owned())
            }
            name => name,
        },
        _ => "?column?".to_owned(),
    }
}
