//! Conditions: true, false or unknown. T-SQL has no Boolean values.

use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

use super::{Result, Translator, Typed, common_type};
use crate::azure_sql::error::ServerError;

impl Translator<'_> {
    pub(super) fn predicate(&mut self, expression: &Expr) -> Result<String> {
        Ok(match expression {
            Expr::Nested(inner) => format!("({})", self.predicate(inner)?),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
                format!("NOT ({})", self.predicate(expr)?)
            }
            Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
                format!("({} {op} {})", self.predicate(left)?, self.predicate(right)?)
            }
            Expr::BinaryOp { left, op, right } => {
                let (left, right) = (self.expression(left)?, self.expression(right)?);
                compare(left, op, right)?
            }
            Expr::IsNull(inner) => format!("({}) IS NULL", self.expression(inner)?.sql),
            Expr::IsNotNull(inner) => format!("({}) IS NOT NULL", self.expression(inner)?.sql),
            other => return Err(ServerError::unsupported(other)),
        })
    }
}

fn compare(left: Typed, operator: &BinaryOperator, right: Typed) -> Result<String> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    let is_equality = matches!(operator, Eq | NotEq);
    if !is_equality && !matches!(operator, Lt | LtEq | Gt | GtEq) {
        return Err(ServerError::unsupported(operator));
    }
    let sql_type = common_type([&left, &right])?;
    let (left, right) = (left.cast(sql_type)?.sql, right.cast(sql_type)?.sql);
    Ok(match sql_type {
        text if text.is_text() && is_equality => {
            format!("tsql_equal_key({left}) {operator} tsql_equal_key({right})")
        }
        text if text.is_text() => {
            return Err(ServerError::unsupported(format_args!("{operator} of {text}")));
        }
        _ => format!("({left}) {operator} ({right})"),
    })
}
