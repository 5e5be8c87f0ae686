//! Expressions.

use sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, CeilFloorKind, Expr, Ident, TrimWhereField, UnaryOperator,
    Value,
};

use super::{Parameter, Shape, System, Translator, Typed, names, refuse};
use crate::azure_sql::{error::ServerError, types::SqlType};

type Result<T> = std::result::Result<T, ServerError>;

pub(super) const INT: SqlType = SqlType::Int;
pub(super) const TEXT: SqlType = SqlType::NVarChar(Some(4000));

impl Translator<'_> {
    /// The expression, its type not asked for.
    pub(super) fn sql(&mut self, expression: &Expr) -> Result<String> {
        Ok(self.expression(expression)?.sql)
    }

    pub(super) fn list<'e>(
        &mut self,
        expressions: impl IntoIterator<Item = &'e Expr>,
    ) -> Result<String> {
        let list: Result<Vec<String>> =
            expressions.into_iter().map(|expression| self.sql(expression)).collect();
        Ok(list?.join(", "))
    }

    pub(super) fn expression(&mut self, expression: &Expr) -> Result<Typed> {
        match expression {
            Expr::Identifier(identifier) => self.identifier(identifier),
            Expr::CompoundIdentifier(parts) => {
                let sql = names::column(parts)?;
                Ok(Typed { shape: Shape::Column(sql.clone()), sql })
            }
            Expr::Value(value) => match &value.value {
                Value::Placeholder(name) => self.identifier(&Ident::new(name)),
                literal_value => literal(literal_value),
            },
            Expr::Nested(inner) => {
                let inner = self.expression(inner)?;
                Ok(Typed { sql: format!("({})", inner.sql), shape: inner.shape })
            }
            Expr::UnaryOp { op, expr } => self.unary(*op, expr),
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right),
            Expr::Function(function) => self.function(function),
            Expr::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref())
            }
            Expr::Cast { .. } | Expr::Convert { .. } => self.conversion(expression),
            Expr::Subquery(query) => {
                let query = self.query(query)?;
                Ok(Typed::values(format!("({})", query.sql)))
            }
            Expr::Substring { .. } | Expr::Trim { .. } | Expr::Ceil { .. } | Expr::Floor { .. } => {
                self.text_or_number(expression)
            }
            _ => self.predicate(expression),
        }
    }

    /// What is true or false.
    fn predicate(&mut self, expression: &Expr) -> Result<Typed> {
        let not = |negated: &bool| if *negated { "NOT " } else { "" };
        let sql = match expression {
            Expr::IsNull(inner) => format!("{} IS NULL", self.sql(inner)?),
            Expr::IsNotNull(inner) => format!("{} IS NOT NULL", self.sql(inner)?),
            Expr::InList { expr, list, negated } => {
                format!("{} {}IN ({})", self.sql(expr)?, not(negated), self.list(list)?)
            }
            Expr::InSubquery { expr, subquery, negated } => {
                format!("{} {}IN ({})", self.sql(expr)?, not(negated), self.query(subquery)?.sql)
            }
            Expr::Between { expr, negated, low, high } => {
                format!(
                    "{} {}BETWEEN {} AND {}",
                    self.sql(expr)?,
                    not(negated),
                    self.sql(low)?,
                    self.sql(high)?
                )
            }
            Expr::Like { negated, any, expr, pattern, escape_char } => {
                refuse!("LIKE ANY": *any);
                let escape = match escape_char {
                    Some(escape) => self.sql(escape)?,
                    None => "NULL".to_owned(),
                };
                if self.in_definition {
                    refuse!("LIKE … ESCAPE in a table's definition": escape_char.is_some());
                    format!("{} {}LIKE {}", self.sql(expr)?, not(negated), self.sql(pattern)?)
                } else {
                    format!(
                        "({}tsql_like({}, {}, {escape}))",
                        not(negated),
                        self.sql(expr)?,
                        self.sql(pattern)?
                    )
                }
            }
            Expr::Exists { subquery, negated } => {
                format!("{}EXISTS ({})", not(negated), self.query(subquery)?.sql)
            }
            other => return Err(ServerError::unsupported(other)),
        };
        Ok(Typed::new(sql, SqlType::Bit))
    }

    fn identifier(&mut self, identifier: &Ident) -> Result<Typed> {
        let name = identifier.value.as_str();
        if identifier.quote_style.is_some() {
            return Ok(column(name));
        }
        if name.starts_with("@@") {
            return self.global_variable(name);
        }
        if name.starts_with('@') {
            let name = name.to_ascii_lowercase();
            let Some(sql_type) = self.scope.get(&name) else {
                return Err(ServerError::new(
                    137,
                    15,
                    format!("Must declare the scalar variable \"{}\".", identifier.value),
                ));
            };
            refuse!("a variable in a table's definition": self.in_definition);
            let shape = sql_type.map_or(Shape::Values, Shape::Known);
            return Ok(Typed { sql: self.parameter(Parameter::Variable(name)), shape });
        }
        match name.to_ascii_uppercase().as_str() {
            "CURRENT_USER" | "SESSION_USER" | "SYSTEM_USER" | "USER" => {
                Ok(Typed::new(self.system(System::User)?, SqlType::NVarChar(Some(128))))
            }
            "CURRENT_TIMESTAMP" => self.now(System::Now),
            "DEFAULT" => Err(ServerError::unsupported("DEFAULT")),
            _ => Ok(column(name)),
        }
    }

    /// The date and time of the statement; of the change, in a DEFAULT.
    pub(super) fn now(&mut self, system: System) -> Result<Typed> {
        let sql_type = match system {
            System::NowPrecise => SqlType::DateTime2(7),
            System::NowOffset => SqlType::DateTimeOffset(7),
            _ => SqlType::DateTime,
        };
        if !self.in_definition {
            return Ok(Typed::new(self.system(system)?, sql_type));
        }
        let sql = "strftime('%Y-%m-%d %H:%M:%f', 'now')";
        Ok(match system {
            System::NowOffset => Typed::new(format!("{sql} || ' +00:00'"), sql_type),
            _ => Typed::new(sql, sql_type),
        })
    }

    fn global_variable(&mut self, name: &str) -> Result<Typed> {
        let identity = SqlType::Decimal { precision: 38, scale: 0 };
        let (system, sql_type) = match name.to_ascii_uppercase().as_str() {
            "@@TRANCOUNT" => (System::TransactionCount, INT),
            "@@ROWCOUNT" => (System::RowCount, INT),
            "@@ERROR" => (System::Error, INT),
            "@@IDENTITY" => (System::Identity, identity),
            "@@SPID" => (System::Spid, SqlType::SmallInt),
            "@@VERSION" => (System::Version, SqlType::NVarChar(Some(300))),
            "@@LANGUAGE" => (System::Language, SqlType::NVarChar(Some(128))),
            "@@LOCK_TIMEOUT" => (System::LockTimeout, INT),
            _ => return Err(ServerError::unsupported(name)),
        };
        Ok(Typed::new(self.system(system)?, sql_type))
    }

    fn unary(&mut self, operator: UnaryOperator, operand: &Expr) -> Result<Typed> {
        let operand = self.expression(operand)?;
        let operator = match operator {
            UnaryOperator::Minus => "-",
            UnaryOperator::Plus => "+",
            UnaryOperator::BitwiseNot => "~",
            UnaryOperator::Not => {
                return Ok(Typed::new(format!("NOT {}", operand.sql), SqlType::Bit));
            }
            other => return Err(ServerError::unsupported(other)),
        };
        // Two minuses would begin a comment.
        Ok(Typed { sql: format!("({operator} {})", operand.sql), shape: operand.shape })
    }

    fn binary(&mut self, left: &Expr, operator: &BinaryOperator, right: &Expr) -> Result<Typed> {
        let (left, right) = (self.expression(left)?, self.expression(right)?);
        let shape = arithmetic(&left.shape, &right.shape);
        let plain = |sql_operator: &str| {
            Ok(Typed::new(format!("{} {sql_operator} {}", left.sql, right.sql), SqlType::Bit))
        };
        let computed = |sql_operator: &str| format!("({} {sql_operator} {})", left.sql, right.sql);
        let called = |function: &str| format!("{function}({}, {})", left.sql, right.sql);
        let sql = match operator {
            BinaryOperator::And => return plain("AND"),
            BinaryOperator::Or => return Ok(Typed::new(computed("OR"), SqlType::Bit)),
            BinaryOperator::Eq => return plain("="),
            BinaryOperator::NotEq => return plain("<>"),
            BinaryOperator::Lt => return plain("<"),
            BinaryOperator::LtEq => return plain("<="),
            BinaryOperator::Gt => return plain(">"),
            BinaryOperator::GtEq => return plain(">="),
            // In a definition, SQLite's own operators have to do.
            BinaryOperator::Plus if self.in_definition => computed("+"),
            BinaryOperator::Plus => called("tsql_add"),
            BinaryOperator::Minus => computed("-"),
            BinaryOperator::Multiply => computed("*"),
            BinaryOperator::Divide if self.in_definition => computed("/"),
            BinaryOperator::Divide => called("tsql_divide"),
            BinaryOperator::Modulo if self.in_definition => computed("%"),
            BinaryOperator::Modulo => called("tsql_modulo"),
            BinaryOperator::BitwiseAnd => computed("&"),
            BinaryOperator::BitwiseOr => computed("|"),
            other => return Err(ServerError::unsupported(other)),
        };
        Ok(Typed { sql, shape })
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        conditions: &[CaseWhen],
        otherwise: Option<&Expr>,
    ) -> Result<Typed> {
        let mut sql = "CASE".to_owned();
        if let Some(operand) = operand {
            sql = format!("{sql} {}", self.sql(operand)?);
        }
        let mut shapes = Vec::new();
        for CaseWhen { condition, result } in conditions {
            let (condition, result) = (self.sql(condition)?, self.expression(result)?);
            sql = format!("{sql} WHEN {condition} THEN {}", result.sql);
            shapes.push(result.shape);
        }
        if let Some(otherwise) = otherwise {
            let otherwise = self.expression(otherwise)?;
            sql = format!("{sql} ELSE {}", otherwise.sql);
            shapes.push(otherwise.shape);
        }
        Ok(Typed { sql: format!("{sql} END"), shape: first_known(shapes) })
    }

    fn conversion(&mut self, expression: &Expr) -> Result<Typed> {
        let (try_it, operand, data_type) = match expression {
            Expr::Cast { kind, expr, data_type, format } => {
                refuse!("FORMAT": format.is_some());
                let try_it = match kind {
                    CastKind::Cast => false,
                    CastKind::TryCast => true,
                    CastKind::SafeCast | CastKind::DoubleColon => {
                        return Err(ServerError::unsupported(expression));
                    }
                };
                (try_it, expr, data_type)
            }
            Expr::Convert {
                is_try,
                expr,
                data_type: Some(data_type),
                charset,
                target_before_value,
                styles,
            } => {
                refuse!("CHARACTER SET": charset.is_some(), "CONVERT": !target_before_value);
                refuse!("CONVERT with a style": !styles.is_empty());
                (*is_try, expr, data_type)
            }
            other => return Err(ServerError::unsupported(other)),
        };
        let declared = data_type.to_string();
        let Some(sql_type) = SqlType::parse_cast(&declared) else {
            return Err(ServerError::unsupported(declared));
        };
        refuse!("CAST in a table's definition": self.in_definition);
        let function = if try_it { "tsql_try_cast" } else { "tsql_cast" };
        Ok(Typed::new(format!("{function}({}, '{sql_type}')", self.sql(operand)?), sql_type))
    }

    /// Functions to which the parser gives nodes of their own.
    fn text_or_number(&mut self, expression: &Expr) -> Result<Typed> {
        match expression {
            Expr::Substring {
                expr,
                substring_from: Some(from),
                substring_for: Some(length),
                ..
            } => {
                let arguments = self.list([&**expr, from, length])?;
                self.call("tsql_substring", &arguments, TEXT)
            }
            Expr::Trim { trim_where, trim_what: None, expr, trim_characters: None } => {
                let function = match trim_where {
                    None | Some(TrimWhereField::Both) => "trim",
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                };
                Ok(Typed::new(format!("{function}({})", self.sql(expr)?), TEXT))
            }
            Expr::Ceil { expr, field } | Expr::Floor { expr, field } => {
                let CeilFloorKind::DateTimeField(_) = field else {
                    return Err(ServerError::unsupported(expression));
                };
                let function =
                    if matches!(expression, Expr::Ceil { .. }) { "ceil" } else { "floor" };
                let operand = self.expression(expr)?;
                Ok(Typed { sql: format!("{function}({})", operand.sql), shape: operand.shape })
            }
            other => Err(ServerError::unsupported(other)),
        }
    }

    /// A call of one of the session's functions, which definitions cannot use.
    pub(super) fn call(&self, function: &str, arguments: &str, sql_type: SqlType) -> Result<Typed> {
        refuse!("this function in a table's definition": self.in_definition);
        Ok(Typed::new(format!("{function}({arguments})"), sql_type))
    }
}

fn column(name: &str) -> Typed {
    let sql = names::quoted(name);
    Typed { shape: Shape::Column(sql.clone()), sql }
}

/// The first type that is known at all.
pub(super) fn first_known(shapes: impl IntoIterator<Item = Shape>) -> Shape {
    shapes.into_iter().find(|shape| *shape != Shape::Values).unwrap_or(Shape::Values)
}

/// Two integers make the wider one; other types are told by values.
fn arithmetic(left: &Shape, right: &Shape) -> Shape {
    match (left, right) {
        (Shape::Known(left), Shape::Known(right)) if left.is_integer() && right.is_integer() => {
            let wide = [left, right].contains(&&SqlType::BigInt);
            Shape::Known(if wide { SqlType::BigInt } else { INT })
        }
        (Shape::Known(left), Shape::Known(right)) if left.is_text() && right.is_text() => {
            Shape::Known(SqlType::NVarChar(None))
        }
        _ => Shape::Values,
    }
}

fn literal(value: &Value) -> Result<Typed> {
    let text = |text: &str| {
        let units = text.encode_utf16().count();
        let sql_type =
            SqlType::NVarChar(u16::try_from(units.max(1)).ok().filter(|units| *units <= 4000));
        Typed::new(format!("'{}'", text.replace('\'', "''")), sql_type)
    };
    match value {
        Value::Null => Ok(Typed::values("NULL")),
        Value::SingleQuotedString(string) | Value::NationalStringLiteral(string) => {
            // SQLite would end the statement there.
            refuse!("a NUL in a string": string.contains('\0'));
            Ok(text(string))
        }
        Value::HexStringLiteral(digits) => {
            let even = if digits.len() % 2 == 0 { digits.clone() } else { format!("0{digits}") };
            refuse!("a binary constant": !even.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let length =
                u16::try_from((even.len() / 2).max(1)).ok().filter(|length| *length <= 8000);
            Ok(Typed::new(format!("X'{even}'"), SqlType::VarBinary(length)))
        }
        Value::Number(number, false) => number_literal(number),
        other => Err(ServerError::unsupported(other)),
    }
}

fn number_literal(number: &str) -> Result<Typed> {
    if let Ok(integer) = number.parse::<i64>() {
        let sql_type = if i32::try_from(integer).is_ok() { INT } else { SqlType::BigInt };
        return Ok(Typed::new(number, sql_type));
    }
    if number.contains(['e', 'E']) && number.parse::<f64>().is_ok() {
        return Ok(Typed::new(number, SqlType::Float));
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let precision = (whole.trim_start_matches('0').len() + fraction.len()).max(1);
    if !(digits(whole) && digits(fraction) && precision <= 38) {
        return Err(ServerError::unsupported(number));
    }
    let sql_type = SqlType::Decimal { precision: precision as u8, scale: fraction.len() as u8 };
    Ok(Typed::new(format!("{}.{fraction}", if whole.is_empty() { "0" } else { whole }), sql_type))
}
