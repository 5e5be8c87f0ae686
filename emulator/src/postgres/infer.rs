//! The types of expressions, from the statement's text and the columns of the
//! tables it names: clients ask before anything runs.

use std::{collections::BTreeMap, ops::ControlFlow};

use pgwire::api::Type;
use sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Query, SelectItem,
    SetExpr, Statement, Value, Visit, Visitor,
};

use super::values::type_by_name;

/// The columns of every table a statement names, and of each table by itself.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) types: BTreeMap<String, Type>,
    pub(super) tables: BTreeMap<String, Vec<(String, Type)>>,
}

/// The number of a placeholder: `$1` is 1.
pub(super) fn placeholder(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => name.strip_prefix('$')?.parse().ok(),
            _ => None,
        },
        Expr::Nested(inner) => placeholder(inner),
        _ => None,
    }
}

pub(super) fn arguments(arguments: &FunctionArguments) -> Vec<&Expr> {
    let FunctionArguments::List(list) = arguments else {
        return Vec::new();
    };
    let exprs = list.args.iter().filter_map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    exprs.collect()
}

/// The last part of a name, folded to lower case unless quoted.
pub(super) fn last_name(name: &sqlparser::ast::ObjectName) -> String {
    let ident = name.0.last().and_then(|part| part.as_ident());
    ident.map(folded).unwrap_or_default()
}

pub(super) fn folded(ident: &sqlparser::ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// The type of an expression, if it can be told.
pub(super) fn type_of(expr: &Expr, columns: &Columns, parameters: &[Type]) -> Option<Type> {
    let of = |expr: &Expr| type_of(expr, columns, parameters);
    match expr {
        Expr::Nested(inner) => of(inner),
        Expr::Identifier(name) => columns.types.get(&folded(name)).cloned(),
        Expr::CompoundIdentifier(names) => columns.types.get(&folded(names.last()?)).cloned(),
        Expr::Cast { data_type, .. } => type_by_name(&data_type.to_string()),
        Expr::TypedString(typed) => type_by_name(&typed.data_type.to_string()),
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) if number.parse::<i32>().is_ok() => Some(Type::INT4),
            Value::Number(number, _) if number.parse::<i64>().is_ok() => Some(Type::INT8),
            Value::Number(..) => Some(Type::NUMERIC),
            Value::Boolean(_) => Some(Type::BOOL),
            Value::Placeholder(_) => parameters.get(placeholder(expr)?.checked_sub(1)?).cloned(),
            // Whatever stands beside it decides.
            Value::Null => None,
            _ => Some(Type::TEXT),
        },
        Expr::UnaryOp { op, expr } => match op {
            sqlparser::ast::UnaryOperator::Not => Some(Type::BOOL),
            _ => of(expr),
        },
        Expr::BinaryOp { left, op, right } => match op {
            BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo => wider(of(left), of(right)),
            BinaryOperator::StringConcat | BinaryOperator::LongArrow => Some(Type::TEXT),
            BinaryOperator::Arrow => Some(Type::JSON),
            _ => Some(Type::BOOL),
        },
        Expr::Case { conditions, else_result, .. } => {
            conditions.iter().map(|when| &when.result).chain(else_result.as_deref()).find_map(of)
        }
        Expr::Function(function) => {
            function_type(&last_name(&function.name), &arguments(&function.args), of)
        }
        Expr::Subquery(query) => match projection(&query.body)?.first()? {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => of(expr),
            _ => None,
        },
        Expr::Substring { .. } | Expr::Trim { .. } => Some(Type::TEXT),
        Expr::Ceil { expr, .. } | Expr::Floor { expr, .. } => of(expr),
        Expr::Collate { expr, .. } => of(expr),
        Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::Between { .. }
        | Expr::Like { .. }
        | Expr::ILike { .. }
        | Expr::Exists { .. } => Some(Type::BOOL),
        _ => None,
    }
}

fn function_type(
    name: &str,
    arguments: &[&Expr],
    of: impl Fn(&Expr) -> Option<Type>,
) -> Option<Type> {
    let first = || arguments.first().and_then(|expr| of(expr));
    Some(match name {
        "count" | "nextval" | "currval" | "lastval" | "row_number" | "rank" => Type::INT8,
        "sum" => match first()? {
            Type::INT2 | Type::INT4 => Type::INT8,
            Type::INT8 => Type::NUMERIC,
            other => other,
        },
        "avg" => match first()? {
            Type::FLOAT4 | Type::FLOAT8 => Type::FLOAT8,
            _ => Type::NUMERIC,
        },
        "length" | "char_length" | "character_length" | "strpos" | "pg_backend_pid" => Type::INT4,
        "now"
        | "current_timestamp"
        | "clock_timestamp"
        | "transaction_timestamp"
        | "statement_timestamp" => Type::TIMESTAMPTZ,
        "localtimestamp" => Type::TIMESTAMP,
        "current_date" => Type::DATE,
        "gen_random_uuid" => Type::UUID,
        "random" => Type::FLOAT8,
        "current_user" | "session_user" | "current_role" | "user" | "current_database"
        | "current_catalog" | "current_schema" => Type::NAME,
        "pg_sleep" | "pg_advisory_lock" | "pg_advisory_unlock_all" => Type::VOID,
        "pg_try_advisory_lock" | "pg_advisory_unlock" | "bool_and" | "bool_or" => Type::BOOL,
        "min" | "max" | "coalesce" | "nullif" | "greatest" | "least" | "abs" | "round" => {
            return arguments.iter().find_map(|expr| of(expr));
        }
        _ => return None,
    })
}

fn wider(left: Option<Type>, right: Option<Type>) -> Option<Type> {
    let rank = |ty: &Type| match *ty {
        Type::INT2 => 1,
        Type::INT4 => 2,
        Type::INT8 => 3,
        Type::NUMERIC => 4,
        Type::FLOAT4 => 5,
        Type::FLOAT8 => 6,
        _ => 0,
    };
    [left, right].into_iter().flatten().max_by_key(rank)
}

/// The names that the queries within a statement give to what they select.
pub(super) fn name_selected(statement: &Statement, columns: &mut Columns) {
    // Never breaks.
    let _ = statement.visit(&mut Named(columns));
}

struct Named<'a>(&'a mut Columns);

impl Visitor for Named<'_> {
    type Break = ();

    /// After the queries inside, whose names it may select.
    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for item in projection(&query.body).unwrap_or_default() {
            let (name, expr) = match item {
                SelectItem::ExprWithAlias { expr, alias } => (folded(alias), expr),
                SelectItem::UnnamedExpr(expr @ Expr::Function(function)) => {
                    (last_name(&function.name), expr)
                }
                _ => continue,
            };
            if let Some(ty) = type_of(expr, self.0, &[]) {
                self.0.types.entry(name).or_insert(ty);
            }
        }
        ControlFlow::Continue(())
    }
}

/// What a query selects.
pub(super) fn projection(body: &SetExpr) -> Option<&[SelectItem]> {
    match body {
        SetExpr::Select(select) => Some(&select.projection),
        SetExpr::Query(query) => projection(&query.body),
        SetExpr::SetOperation { left, .. } => projection(left),
        SetExpr::Insert(statement) | SetExpr::Update(statement) | SetExpr::Delete(statement) => {
            returned(statement)
        }
        _ => None,
    }
}

/// What a statement gives back.
pub(super) fn returned(statement: &Statement) -> Option<&[SelectItem]> {
    match statement {
        Statement::Query(query) => projection(&query.body),
        Statement::Insert(insert) => insert.returning.as_deref(),
        Statement::Update(update) => update.returning.as_deref(),
        Statement::Delete(delete) => delete.returning.as_deref(),
        _ => None,
    }
}
