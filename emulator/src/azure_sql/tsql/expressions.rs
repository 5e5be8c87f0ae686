//! Values: constants, variables, columns, functions, operators, CAST.

use sqlparser::ast::{BinaryOperator, CastKind, Expr, Function, Ident, UnaryOperator, Value};

use super::{Result, Translator, Typed, names, refuse};
use crate::azure_sql::{
    convert::{not_a_value, unit_count},
    error::ServerError,
    session::Variable,
    types::SqlType,
};

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
            other => Err(ServerError::unsupported(other)),
        }
    }

    fn identifier(&mut self, identifier: &Ident) -> Result<Typed> {
        let name = identifier.value.as_str();
        if identifier.quote_style.is_some() || !name.starts_with('@') {
            return self.column(std::slice::from_ref(identifier));
        }
        if name.starts_with("@@") {
            return self.system(name, name);
        }
        match self.variables.get(&name.to_ascii_lowercase()) {
            Some(Variable { sql_type: Some(sql_type), value }) => self.parameter(value, *sql_type),
            Some(_) => Ok(Typed::null()),
            None => {
                let text = format!("Must declare the scalar variable \"{name}\".");
                Err(ServerError::new(137, 15, text))
            }
        }
    }

    fn system(&mut self, name: &str, shown: &str) -> Result<Typed> {
        match self.session.system(&name.to_ascii_uppercase()) {
            Some((sql_type, value)) => self.parameter(&value, sql_type),
            None => Err(ServerError::unsupported(shown)),
        }
    }

    fn function(&mut self, function: &Function) -> Result<Typed> {
        let shown = function.to_string();
        match shown.split_once('(') {
            Some((name, ")")) => self.system(&format!("{name}()"), &shown),
            Some((name, rest)) if name.eq_ignore_ascii_case("OBJECT_ID") => {
                self.object_id(rest).ok_or_else(|| ServerError::unsupported(function))
            }
            _ => Err(ServerError::unsupported(function)),
        }
    }

    /// `OBJECT_ID(N'dbo.T', N'U')`: a number if the table exists, else NULL.
    fn object_id(&self, arguments: &str) -> Option<Typed> {
        let name = arguments.trim_start_matches('N').strip_prefix('\'')?;
        let (name, rest) = name.split_once('\'')?;
        if ![")", ", N'U')", ", 'U')"].contains(&rest) || name.contains(['[', '"', '#']) {
            return None;
        }
        let name = name.strip_prefix("dbo.").unwrap_or(name).to_owned();
        if name.contains('.') {
            return None;
        }
        let found = self.session.columns(&names::Table { name }).is_some();
        Some(Typed::new(if found { "1" } else { "NULL" }, SqlType::Int))
    }

    fn cast(&mut self, operand: &Expr, declared: &str) -> Result<Typed> {
        let Some(to) = SqlType::parse_cast(declared) else {
            return Err(ServerError::unsupported(declared));
        };
        if let Some(key) = session_key(operand) {
            return match self.session.context.get(&key.to_lowercase()) {
                Some((value, from)) => self.parameter(value, *from)?.cast(to),
                None => Typed::null().cast(to),
            };
        }
        self.expression(operand)?.cast(to)
    }
}

/// The key of `SESSION_CONTEXT(N'key')`, a sql_variant, which only CAST accepts.
fn session_key(expression: &Expr) -> Option<String> {
    let Expr::Function(function) = expression else { return None };
    let shown = function.to_string();
    let (name, rest) = shown.split_once("(N'")?;
    let key = rest.strip_suffix("')").filter(|key| !key.contains('\''))?;
    name.eq_ignore_ascii_case("SESSION_CONTEXT").then(|| key.to_owned())
}

fn is_number(expression: &Expr) -> bool {
    matches!(expression, Expr::Value(value) if matches!(value.value, Value::Number(..)))
}

fn arithmetic(left: &Typed, operator: &BinaryOperator, right: &Typed) -> Result<Typed> {
    let left_type = left.sql_type.unwrap_or(right.known_type());
    let right_type = right.sql_type.unwrap_or(left_type);
    let result = left_type.max(right_type);
    let known = ["+", "-", "*", "/", "%"].contains(&operator.to_string().as_str());
    let integers = left_type.is_integer() && right_type.is_integer() && result != SqlType::Bit;
    if !known || !integers {
        let construct = format_args!("{left_type} {operator} {right_type}");
        return Err(ServerError::unsupported(construct));
    }
    let sql = format!("tsql_math({}, '{operator}', {}, '{result}')", left.sql, right.sql);
    Ok(Typed::new(sql, result))
}

fn literal(value: &Value) -> Result<Typed> {
    match value {
        Value::Null => Ok(Typed::null()),
        Value::SingleQuotedString(text) => {
            if let Some(c) = text.chars().find(|c| !c.is_ascii()) {
                return Err(ServerError::unsupported(format_args!("{c} in a constant without N")));
            }
            text_literal(text, SqlType::VarChar, 8000)
        }
        Value::NationalStringLiteral(text) => text_literal(text, SqlType::NVarChar, 4000),
        Value::Number(number, false) => number_literal(number),
        other => Err(ServerError::unsupported(other)),
    }
}

fn text_literal(text: &str, of: fn(Option<u16>) -> SqlType, most: usize) -> Result<Typed> {
    // SQLite would end the statement at a NUL; T-SQL joins lines after a backslash.
    refuse!(
        "a NUL in a constant": text.contains('\0'),
        "a backslash at the end of a line": text.contains("\\\n") || text.contains("\\\r\n"),
    );
    let units = Some(unit_count(text, of(None)).max(1)).filter(|units| *units <= most);
    Ok(Typed::new(names::string(text), of(units.map(|units| units as u16))))
}

/// A number that does not fit an `int` is a `decimal`, not a `bigint`.
fn number_literal(number: &str) -> Result<Typed> {
    if let Ok(integer) = number.parse::<i32>() {
        // The documentation does not state the type of this constant in SQL Server.
        refuse!("-2147483648 without CAST": integer == i32::MIN);
        return Ok(Typed::new(number, SqlType::Int));
    }
    refuse!("a float": number.contains(['e', 'E']));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = whole.trim_start_matches(['-', '0']).len() + fraction.len();
    let (precision, scale) = (digits.max(1) as u8, fraction.len() as u8);
    let units: i64 = format!("{whole}{fraction}").parse().map_err(|_| not_a_value())?;
    Ok(Typed::new(units.to_string(), SqlType::Decimal { precision, scale }))
}
