//! Values: constants, variables, columns, operators, CAST.

use sqlparser::ast::{BinaryOperator, CastKind, Expr, Ident, UnaryOperator, Value};

use super::{Parameter, Result, System, Translator, Typed, refuse};
use crate::azure_sql::{
    code_page::windows_1252, convert::unit_count, decimal::Decimal, error::ServerError,
    types::SqlType,
};

const NAME: SqlType = SqlType::NVarChar(Some(128));

impl Translator<'_> {
    pub(super) fn expression(&mut self, expression: &Expr) -> Result<Typed> {
        match expression {
            Expr::Identifier(name) => self.identifier(name),
            Expr::CompoundIdentifier(parts) => self.column(parts),
            Expr::Value(value) => match &value.value {
                Value::Placeholder(name) => self.identifier(&Ident::new(name)),
                literal_value => literal(literal_value),
            },
            Expr::Nested(inner) => {
                let inner = self.expression(inner)?;
                Ok(Typed { sql: format!("({})", inner.sql), ..inner })
            }
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => self.expression(expr),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } if is_number(expr) => {
                number_literal(&format!("-{expr}"))
            }
            Expr::BinaryOp { left, op, right } => {
                let (left, right) = (self.expression(left)?, self.expression(right)?);
                arithmetic(&left, op, &right)
            }
            Expr::Function(function) => self.function(function),
            Expr::Cast { kind: CastKind::Cast, expr, data_type, format: None } => {
                self.cast(expr, &data_type.to_string())
            }
            Expr::Subquery(query) => {
                let query = self.query(query, true)?;
                let [(_, typed)] = &query.items[..] else {
                    return Err(ServerError::unsupported("a subquery of several columns"));
                };
                refuse!("a subquery that may have several rows": !query.single);
                Ok(Typed { sql: format!("({})", query.sql), ..typed.clone() })
            }
            other => Err(ServerError::unsupported(other)),
        }
    }

    fn identifier(&mut self, identifier: &Ident) -> Result<Typed> {
        let name = identifier.value.as_str();
        if identifier.quote_style.is_some() || !name.starts_with('@') {
            return self.column(std::slice::from_ref(identifier));
        }
        if name.starts_with("@@") {
            let (system, sql_type) = match name.to_ascii_uppercase().as_str() {
                "@@TRANCOUNT" => (System::TransactionCount, SqlType::Int),
                "@@ROWCOUNT" => (System::RowCount, SqlType::Int),
                "@@SPID" => (System::Spid, SqlType::SmallInt),
                "@@VERSION" => (System::Version, SqlType::NVarChar(Some(300))),
                "@@LANGUAGE" => (System::Language, NAME),
                "@@LOCK_TIMEOUT" => (System::LockTimeout, SqlType::Int),
                _ => return Err(ServerError::unsupported(name)),
            };
            return self.system(system, sql_type);
        }
        let Some(sql_type) = self.scope.get(&name.to_ascii_lowercase()) else {
            let text = format!("Must declare the scalar variable \"{name}\".");
            return Err(ServerError::new(137, 15, text));
        };
        match sql_type {
            None => Ok(Typed::null()),
            Some(sql_type) => {
                let parameter = Parameter::Variable(name.to_ascii_lowercase());
                Ok(Typed::new(self.parameter(parameter)?, *sql_type))
            }
        }
    }

    fn cast(&mut self, operand: &Expr, declared: &str) -> Result<Typed> {
        let Some(to) = SqlType::parse_cast(declared) else {
            return Err(ServerError::unsupported(declared));
        };
        // The only use of a sql_variant.
        if let Expr::Function(function) = operand
            && function.name.to_string().eq_ignore_ascii_case("SESSION_CONTEXT")
        {
            let key = match &self.plain_arguments(function)?[..] {
                [key] => self.expression(key)?,
                _ => return Err(ServerError::unsupported(function)),
            };
            return Ok(Typed::new(format!("tsql_session_context({}, '{to}')", key.sql), to));
        }
        self.expression(operand)?.cast(to)
    }
}

fn is_number(expression: &Expr) -> bool {
    matches!(expression, Expr::Value(value) if matches!(value.value, Value::Number(..)))
}

/// An operator that makes a value: of two integers, or of two texts.
fn arithmetic(left: &Typed, operator: &BinaryOperator, right: &Typed) -> Result<Typed> {
    let refused = || {
        let (left, right) = (left.known_type(), right.known_type());
        Err(ServerError::unsupported(format_args!("{left} {operator} {right}")))
    };
    let (Some(left_type), Some(right_type)) =
        (left.sql_type.or(right.sql_type), right.sql_type.or(left.sql_type))
    else {
        return refused();
    };
    let joined = match (left_type, operator, right_type) {
        (SqlType::VarChar(left), BinaryOperator::Plus, SqlType::VarChar(right)) => {
            SqlType::VarChar(left.zip(right).map(|(left, right)| left + right))
        }
        (left, BinaryOperator::Plus, right) if left.is_text() && right.is_text() => {
            SqlType::NVarChar(left.length().zip(right.length()).map(|(left, right)| left + right))
        }
        (left_type, operator, right_type) => {
            let known = ["+", "-", "*", "/", "%"].contains(&operator.to_string().as_str());
            let bits = (left_type, right_type) == (SqlType::Bit, SqlType::Bit);
            if !known || bits || !left_type.is_integer() || !right_type.is_integer() {
                return refused();
            }
            let result = left_type.max(right_type);
            let (left, right) = (&left.sql, &right.sql);
            return Ok(Typed::new(
                format!("tsql_math({left}, '{operator}', {right}, '{result}')"),
                result,
            ));
        }
    };
    let most = if joined.is_unicode() { 4000 } else { 8000 };
    if joined.length() > Some(most) {
        // It is cut, as every text that is longer than its type.
        let (long, cut) = match joined.is_unicode() {
            true => (SqlType::NVarChar(None), SqlType::NVarChar(Some(most))),
            false => (SqlType::VarChar(None), SqlType::VarChar(Some(most))),
        };
        return Typed::new(format!("({} || {})", left.sql, right.sql), long).cast(cut);
    }
    Ok(Typed::new(format!("({} || {})", left.sql, right.sql), joined))
}

fn literal(value: &Value) -> Result<Typed> {
    match value {
        Value::Null => Ok(Typed::null()),
        Value::SingleQuotedString(text) => {
            if let Some(c) = text.chars().find(|c| windows_1252(*c).is_none()) {
                return Err(ServerError::unsupported(format_args!("{c} in a constant without N")));
            }
            text_literal(text, SqlType::VarChar(None))
        }
        Value::NationalStringLiteral(text) => text_literal(text, SqlType::NVarChar(None)),
        Value::HexStringLiteral(digits) => {
            let even = if digits.len() % 2 == 0 { digits.clone() } else { format!("0{digits}") };
            refuse!("a binary constant": !even.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let length = u16::try_from((even.len() / 2).max(1)).ok().filter(|l| *l <= 8000);
            Ok(Typed::new(format!("X'{even}'"), SqlType::VarBinary(length)))
        }
        Value::Number(number, false) => number_literal(number),
        other => Err(ServerError::unsupported(other)),
    }
}

fn text_literal(text: &str, of: SqlType) -> Result<Typed> {
    // SQLite would end the statement at a NUL; T-SQL goes on in the next line after a backslash.
    refuse!(
        "a NUL in a constant": text.contains('\0'),
        "a backslash at the end of a line": text.contains("\\\n") || text.contains("\\\r\n"),
    );
    let most = if of.is_unicode() { 4000 } else { 8000 };
    let length = u16::try_from(unit_count(text, of).max(1)).ok().filter(|units| *units <= most);
    let sql_type =
        if of.is_unicode() { SqlType::NVarChar(length) } else { SqlType::VarChar(length) };
    Ok(Typed::new(super::names::string(text), sql_type))
}

/// What does not fit an `int` is a `decimal`, not a `bigint`.
fn number_literal(number: &str) -> Result<Typed> {
    let refused = || ServerError::unsupported(number);
    if let Ok(integer) = number.parse::<i32>() {
        // Whether that is one constant or two is not known.
        refuse!("-2147483648 without CAST": integer == i32::MIN);
        return Ok(Typed::new(number, SqlType::Int));
    }
    if number.contains(['e', 'E']) {
        let number = number.parse::<f64>().ok().filter(|number| number.is_finite());
        return Ok(Typed::new(format!("{:?}", number.ok_or_else(refused)?), SqlType::Float));
    }
    let decimal = Decimal::parse(number).ok_or_else(refused)?;
    let units = i64::try_from(decimal.units).map_err(|_| refused())?;
    let whole = number.trim_start_matches('-').split('.').next().unwrap_or_default();
    let precision = (whole.trim_start_matches('0').len() as u8 + decimal.scale).max(1);
    Ok(Typed::new(units.to_string(), SqlType::Decimal { precision, scale: decimal.scale }))
}
