//! What is true, false or unknown. T-SQL has no values of that kind, and no other conditions.

use sqlparser::ast::{BinaryOperator, Expr};

use super::{Result, Translator, Typed, common_type};
use crate::azure_sql::{error::ServerError, types::SqlType};

impl Translator<'_> {
    pub(super) fn predicate(&mut self, expression: &Expr) -> Result<String> {
        Ok(match expression {
            Expr::Nested(inner) => format!("({})", self.predicate(inner)?),
            Expr::UnaryOp { op: sqlparser::ast::UnaryOperator::Not, expr } => {
                format!("NOT ({})", self.predicate(expr)?)
            }
            Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
                format!("({} {op} {})", self.predicate(left)?, self.predicate(right)?)
            }
            Expr::BinaryOp { left, op, right } => {
                let (left, right) = (self.operand(left)?, self.operand(right)?);
                compare(left, op, right)?
            }
            Expr::IsNull(inner) => format!("{} IS NULL", self.operand(inner)?.sql),
            Expr::IsNotNull(inner) => format!("{} IS NOT NULL", self.operand(inner)?.sql),
            Expr::Between { expr, negated, low, high } => {
                let low = compare(self.operand(expr)?, &BinaryOperator::GtEq, self.operand(low)?)?;
                let high =
                    compare(self.operand(expr)?, &BinaryOperator::LtEq, self.operand(high)?)?;
                format!("{}({low} AND {high})", if *negated { "NOT " } else { "" })
            }
            Expr::Exists { subquery, negated } => {
                let query = self.query(subquery, true)?;
                format!("{}EXISTS ({})", if *negated { "NOT " } else { "" }, query.sql)
            }
            other => return Err(ServerError::unsupported(other)),
        })
    }

    /// An expression that stands beside SQLite's operators.
    fn operand(&mut self, expression: &Expr) -> Result<Typed> {
        let typed = self.expression(expression)?;
        Ok(Typed { sql: format!("({})", typed.sql), ..typed })
    }
}

fn compare(left: Typed, operator: &BinaryOperator, right: Typed) -> Result<String> {
    let ordered = match operator {
        BinaryOperator::Eq | BinaryOperator::NotEq => false,
        BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq => {
            true
        }
        other => return Err(ServerError::unsupported(other)),
    };
    let sql_type = common_type(&[&left, &right])?;
    let side = |typed: Typed| key(typed.cast(sql_type)?.sql, sql_type, ordered);
    Ok(format!("{} {operator} {}", side(left)?, side(right)?))
}

/// What SQLite can compare in place of values of this type; `ordered`: also which is less.
pub(super) fn key(sql: String, sql_type: SqlType, ordered: bool) -> Result<String> {
    match sql_type {
        sql_type if sql_type.is_text() && ordered => Ok(format!("tsql_order_key({sql})")),
        sql_type if sql_type.is_text() => Ok(format!("tsql_equal_key({sql})")),
        // The order of uniqueidentifier is that of its last group; binaries are equal if all but
        // zeros at the end is; a datetimeoffset is what it is in UTC.
        SqlType::UniqueIdentifier if !ordered => Ok(sql),
        SqlType::UniqueIdentifier | SqlType::DateTimeOffset(_) => {
            Err(ServerError::unsupported(format_args!("a comparison of {sql_type}")))
        }
        sql_type if sql_type.is_binary() => {
            Err(ServerError::unsupported(format_args!("a comparison of {sql_type}")))
        }
        _ => Ok(sql),
    }
}
