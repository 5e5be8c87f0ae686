//! The types of parameters, by what stands beside them, as PostgreSQL has it.

use std::{collections::BTreeMap, ops::ControlFlow};

use pgwire::api::Type;
use sqlparser::ast::{
    AssignmentTarget, BinaryOperator, Expr, LimitClause, OnConflictAction, OnInsert, Query,
    SelectItem, SetExpr, Statement, TableObject, Visit, Visitor,
};

use super::{
    infer::{Columns, arguments, last_name, placeholder, type_of},
    values::type_by_name,
};

/// The types of the parameters, as far as the client did not give them.
pub(super) fn parameters(
    statement: &Statement,
    columns: &Columns,
    given: &[Option<Type>],
) -> Vec<Type> {
    let mut found = Found { columns, types: BTreeMap::new() };
    for (at, ty) in given.iter().enumerate() {
        if let Some(ty) = ty.as_ref().filter(|ty| **ty != Type::UNKNOWN) {
            found.types.insert(at + 1, ty.clone());
        }
    }
    found.assignments(statement);
    // Never breaks.
    let _ = statement.visit(&mut found);
    let count = found.types.keys().max().copied().unwrap_or(0);
    let count = count.max(found.highest(statement));
    (1..=count).map(|number| found.types.get(&number).cloned().unwrap_or(Type::TEXT)).collect()
}

struct Found<'a> {
    columns: &'a Columns,
    types: BTreeMap<usize, Type>,
}

impl Found<'_> {
    fn is(&mut self, expr: &Expr, ty: Option<Type>) {
        if let (Some(number), Some(ty)) = (placeholder(expr), ty) {
            self.types.entry(number).or_insert(ty);
        }
    }

    fn alike(&mut self, exprs: &[&Expr]) {
        let types = self.list();
        let ty = exprs
            .iter()
            .filter(|expr| placeholder(expr).is_none())
            .find_map(|expr| type_of(expr, self.columns, &types));
        for expr in exprs {
            self.is(expr, ty.clone());
        }
    }

    fn list(&self) -> Vec<Type> {
        let count = self.types.keys().max().copied().unwrap_or(0);
        let known = |number| self.types.get(&number).cloned();
        (1..=count).map(|number| known(number).unwrap_or(Type::TEXT)).collect()
    }

    fn highest(&self, statement: &Statement) -> usize {
        let mut highest = 0;
        let _ = sqlparser::ast::visit_expressions(statement, |expr: &Expr| {
            highest = highest.max(placeholder(expr).unwrap_or(0));
            ControlFlow::<()>::Continue(())
        });
        highest
    }

    /// Values take the types of the columns they go into.
    fn assignments(&mut self, statement: &Statement) {
        let assignments = match statement {
            Statement::Insert(insert) => {
                let TableObject::TableName(table) = &insert.table else {
                    return;
                };
                let Some(table) = self.columns.tables.get(&last_name(table)) else {
                    return;
                };
                let targets: Vec<Option<Type>> = if insert.columns.is_empty() {
                    table.iter().map(|(_, ty)| Some(ty.clone())).collect()
                } else {
                    let named = insert.columns.iter().map(last_name);
                    named
                        .map(|name| {
                            let column = table.iter().find(|(column, _)| *column == name);
                            column.map(|(_, ty)| ty.clone())
                        })
                        .collect()
                };
                self.values(insert.source.as_deref(), &targets);
                match &insert.on {
                    Some(OnInsert::OnConflict(conflict)) => match &conflict.action {
                        OnConflictAction::DoUpdate(update) => update.assignments.as_slice(),
                        OnConflictAction::DoNothing => &[],
                    },
                    _ => &[],
                }
            }
            Statement::Update(update) => update.assignments.as_slice(),
            _ => &[],
        };
        for assignment in assignments {
            if let AssignmentTarget::ColumnName(name) = &assignment.target {
                let ty = self.columns.types.get(&last_name(name)).cloned();
                self.is(&assignment.value, ty);
            }
        }
    }

    fn values(&mut self, source: Option<&Query>, targets: &[Option<Type>]) {
        match source.map(|query| query.body.as_ref()) {
            Some(SetExpr::Values(values)) => {
                for row in &values.rows {
                    for (expr, ty) in row.content.iter().zip(targets) {
                        self.is(expr, ty.clone());
                    }
                }
            }
            Some(SetExpr::Select(select)) => {
                for (item, ty) in select.projection.iter().zip(targets) {
                    if let SelectItem::UnnamedExpr(expr) = item {
                        self.is(expr, ty.clone());
                    }
                }
            }
            _ => {}
        }
    }
}

impl Visitor for Found<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(LimitClause::LimitOffset { limit, offset, .. }) = &query.limit_clause {
            for expr in limit.iter().chain(offset.iter().map(|offset| &offset.value)) {
                self.is(expr, Some(Type::INT8));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Cast { expr, data_type, .. } => {
                self.is(expr, type_by_name(&data_type.to_string()))
            }
            Expr::BinaryOp { left, op, right } => match op {
                BinaryOperator::StringConcat => {
                    self.is(left, Some(Type::TEXT));
                    self.is(right, Some(Type::TEXT));
                }
                BinaryOperator::And | BinaryOperator::Or => {
                    self.is(left, Some(Type::BOOL));
                    self.is(right, Some(Type::BOOL));
                }
                _ => self.alike(&[left, right]),
            },
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                self.alike(&[left, right]);
            }
            Expr::InList { expr, list, .. } => {
                let all: Vec<&Expr> = list.iter().chain([expr.as_ref()]).collect();
                self.alike(&all);
            }
            Expr::Between { expr, low, high, .. } => self.alike(&[expr, low, high]),
            Expr::Function(function) => {
                let arguments = arguments(&function.args);
                match last_name(&function.name).as_str() {
                    "coalesce" | "nullif" | "greatest" | "least" => self.alike(&arguments),
                    name => {
                        for (at, argument) in arguments.into_iter().enumerate() {
                            self.is(argument, argument_type(name, at));
                        }
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn argument_type(function: &str, at: usize) -> Option<Type> {
    match function {
        "pg_sleep" => Some(Type::FLOAT8),
        "pg_advisory_lock" | "pg_try_advisory_lock" | "pg_advisory_unlock" => Some(Type::INT8),
        "set_config" if at == 2 => Some(Type::BOOL),
        "current_setting" if at == 1 => Some(Type::BOOL),
        "substr" | "substring" if at > 0 => Some(Type::INT4),
        _ => None,
    }
}
