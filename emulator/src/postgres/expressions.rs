//! Translates expressions for SQLite and determines their types as PostgreSQL does.

use pgwire::api::Type;
use rusqlite::{Connection, types};
use sqlparser::ast::{BinaryOperator, CastKind, DataType, Expr, Function, UnaryOperator, Value};

use super::{
    Embedded, VERSION,
    allowed::{arguments, folded, last_name, quoted},
    error::SqlError,
    values::{Class, Ty, parse},
};

/// An expression for SQLite, and its type.
pub(super) struct Typed {
    pub(super) sql: String,
    pub(super) ty: Ty,
}

impl Typed {
    fn new(sql: impl Into<String>, ty: impl Into<Ty>) -> Self {
        Self { sql: sql.into(), ty: ty.into() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) ty: Ty,
    /// `GENERATED ALWAYS`.
    pub(super) always: bool,
    /// The primary key.
    pub(super) key: bool,
}

/// A table whose columns expressions can name.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
}

/// Compiles one statement.
pub(super) struct Compiler<'a> {
    pub(super) sqlite: &'a Connection,
    pub(super) engine: &'a Embedded,
    /// The user and the database of the session.
    pub(super) names: &'a [String; 2],
    /// The types of the parameters, by number, as far as the client or the statement states them.
    pub(super) parameters: Vec<Option<Type>>,
    pub(super) sources: Vec<Source>,
    pub(super) aggregated: bool,
    /// Whether this is in the argument of an aggregate function.
    pub(super) aggregating: bool,
    /// The columns named outside of aggregates, as the indexes of source and column.
    pub(super) bare: Vec<(usize, usize)>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        sqlite: &'a Connection,
        engine: &'a Embedded,
        names: &'a [String; 2],
        parameters: Vec<Option<Type>>,
    ) -> Self {
        let (sources, bare) = (Vec::new(), Vec::new());
        let (aggregated, aggregating) = (false, false);
        Self { sqlite, engine, names, parameters, sources, aggregated, aggregating, bare }
    }

    /// Translates an expression. A literal or a parameter takes the type `wanted`, or is text.
    pub(super) fn expr(&mut self, expr: &Expr, wanted: Option<&Type>) -> Result<Typed, SqlError> {
        Ok(match expr {
            Expr::Nested(inner) => self.expr(inner, wanted)?,
            Expr::Identifier(name) => self.column(None, &folded(name))?,
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [table, name] => self.column(Some(&folded(table)), &folded(name))?,
                _ => return Err(SqlError::unsupported(expr.to_string())),
            },
            Expr::Value(value) => self.value(&value.value, "", wanted)?,
            Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner } => match inner.as_ref() {
                Expr::Value(value) if matches!(value.value, Value::Number(..)) => {
                    self.value(&value.value, "-", None)?
                }
                _ => return Err(SqlError::unsupported(expr.to_string())),
            },
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right)?,
            Expr::Between { expr, negated: false, low, high } => {
                let [low, high] = [
                    self.binary(expr, &BinaryOperator::GtEq, low)?,
                    self.binary(expr, &BinaryOperator::LtEq, high)?,
                ];
                Typed::new(format!("({} AND {})", low.sql, high.sql), Type::BOOL)
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr: inner,
                data_type: to,
                format: None,
            } => {
                let to = data_type(to)?;
                if to.base == Type::VARCHAR && to.modifier != -1 {
                    // This cast truncates text, but an assignment refuses longer text.
                    return Err(SqlError::unsupported(expr.to_string()));
                }
                self.assigned(inner, &to)?
            }
            Expr::Function(function) => self.function(function)?,
            other => return Err(SqlError::unsupported(other.to_string())),
        })
    }

    /// Translates an expression whose equal values look the same and which SQLite sorts as
    /// PostgreSQL does.
    pub(super) fn comparable(&mut self, expr: &Expr) -> Result<Typed, SqlError> {
        let typed = self.expr(expr, None)?;
        match typed.ty.class() {
            Class::Other => Err(SqlError::unsupported(format!("grouping or ordering by {expr}"))),
            _ => Ok(typed),
        }
    }

    /// Translates a condition.
    pub(super) fn boolean(&mut self, expr: &Expr) -> Result<String, SqlError> {
        let typed = self.expr(expr, Some(&Type::BOOL))?;
        if typed.ty.base == Type::BOOL {
            return Ok(typed.sql);
        }
        let ty = typed.ty.base.name();
        Err(SqlError::new("42804", format!("argument must be type boolean, not type {ty}")))
    }

    /// Translates a value that is assigned to a column of this type.
    pub(super) fn assigned(&mut self, expr: &Expr, to: &Ty) -> Result<Typed, SqlError> {
        let Typed { sql, ty: from } = self.expr(expr, Some(&to.base))?;
        let known = match (from.class(), to.class()) {
            (Class::Integer, Class::Integer) | (Class::Text, Class::Text) => true,
            (Class::Integer, _) => to.base == Type::NUMERIC,
            _ => from.base == to.base || from.base == Type::NUMERIC && to.base == Type::FLOAT8,
        };
        if !known {
            let (from, to) = (from.base.name(), to.base.name());
            return Err(SqlError::unsupported(format!("a cast from {from} to {to}")));
        }
        let is_plain = to.modifier == -1 && (from.base == to.base || from.class() == Class::Text);
        if is_plain || from == *to {
            return Ok(Typed::new(sql, to.clone()));
        }
        let sql = format!("pg_cast({sql}, '{}', '{}')", from.name(), to.name());
        Ok(Typed::new(sql, to.clone()))
    }

    pub(super) fn column(&mut self, table: Option<&str>, name: &str) -> Result<Typed, SqlError> {
        let named = |source: &Source| table.is_none_or(|table| source.name == table);
        let mut found = Vec::new();
        for (at, source) in self.sources.iter().enumerate().filter(|(_, source)| named(source)) {
            let column = source.columns.iter().position(|column| column.name == name);
            found.extend(column.map(|column| (at, column)));
        }
        match found.as_slice() {
            [] => Err(SqlError::new("42703", format!("column \"{name}\" does not exist"))),
            [(source, column)] => {
                if !self.aggregating {
                    self.bare.push((*source, *column));
                }
                let Source { name: table, columns } = &self.sources[*source];
                let sql = match self.sources.len() {
                    1 => quoted(name),
                    _ => format!("{}.{}", quoted(table), quoted(name)),
                };
                Ok(Typed::new(sql, columns[*column].ty.clone()))
            }
            _ => {
                let message = format!("column reference \"{name}\" is ambiguous");
                Err(SqlError::new("42702", message))
            }
        }
    }

    fn value(
        &mut self,
        value: &Value,
        sign: &str,
        wanted: Option<&Type>,
    ) -> Result<Typed, SqlError> {
        let (text, ty) = match value {
            Value::Number(number, false) => {
                let number = format!("{sign}{number}");
                let ty = match number.parse::<i64>() {
                    Ok(number) if i32::try_from(number).is_ok() => Type::INT4,
                    Ok(_) => Type::INT8,
                    Err(_) => Type::NUMERIC,
                };
                (number, ty)
            }
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => {
                (text.clone(), wanted.cloned().unwrap_or(Type::TEXT))
            }
            Value::Boolean(flag) => {
                return Ok(Typed::new(i32::from(*flag).to_string(), Type::BOOL));
            }
            Value::Null => return Ok(Typed::new("NULL", wanted.cloned().unwrap_or(Type::TEXT))),
            Value::Placeholder(name) => return self.parameter(name, wanted),
            other => return Err(SqlError::unsupported(other.to_string())),
        };
        let sql = match parse(&text, &ty)? {
            types::Value::Integer(number) => number.to_string(),
            types::Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
            _ => return Err(SqlError::unsupported(format!("the {} '{text}'", ty.name()))),
        };
        Ok(Typed::new(sql, ty))
    }

    fn parameter(&mut self, name: &str, wanted: Option<&Type>) -> Result<Typed, SqlError> {
        let number = name.strip_prefix('$').and_then(|number| number.parse::<u16>().ok());
        let Some(at) = number.and_then(|number| usize::from(number).checked_sub(1)) else {
            return Err(SqlError::new("42P02", format!("there is no parameter {name}")));
        };
        if self.parameters.len() <= at {
            self.parameters.resize(at + 1, None);
        }
        let ty = self.parameters[at].get_or_insert(wanted.cloned().unwrap_or(Type::TEXT));
        Ok(Typed::new(format!("?{}", at + 1), ty.clone()))
    }

    fn binary(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
    ) -> Result<Typed, SqlError> {
        use BinaryOperator as Op;
        let (left, right) = match op {
            Op::And | Op::Or => (self.boolean(left)?, self.boolean(right)?),
            Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq => {
                // `1 < 2 < 3` is a syntax error in PostgreSQL.
                if [left, right].iter().any(|side| matches!(side, Expr::BinaryOp { .. })) {
                    return Err(SqlError::unsupported(format!("{left} {op} {right}")));
                }
                let one = self.expr(left, None)?;
                let other = self.expr(right, Some(&one.ty.base))?;
                if one.ty.class() != other.ty.class() || one.ty.class() == Class::Other {
                    let (one, other) = (one.ty.base.name(), other.ty.base.name());
                    return Err(SqlError::unsupported(format!("{one} {op} {other}")));
                }
                (one.sql, other.sql)
            }
            _ => return Err(SqlError::unsupported(format!("{left} {op} {right}"))),
        };
        Ok(Typed::new(format!("({left} {op} {right})"), Type::BOOL))
    }

    fn function(&mut self, function: &Function) -> Result<Typed, SqlError> {
        let name = last_name(&function.name);
        let [user, database] = self.names;
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        Ok(match (name.as_str(), arguments(function)?.as_slice()) {
            ("count", [None]) => self.aggregate(&name, None)?,
            ("count" | "avg", [Some(argument)]) => self.aggregate(&name, Some(argument))?,
            ("current_user" | "session_user", []) => Typed::new(literal(user), Type::NAME),
            ("current_database", []) => Typed::new(literal(database), Type::NAME),
            ("version", []) => Typed::new(literal(VERSION), Type::TEXT),
            // There are 10,957 days from 1970 to 2000.
            ("current_date", []) => Typed::new("(unixepoch() / 86400 - 10957)", Type::DATE),
            // There are no advisory locks.
            ("pg_advisory_unlock_all", []) => Typed::new("''", Type::VOID),
            _ => {
                let message = format!("function {name} does not exist in this stand-in");
                return Err(SqlError::new("42883", message));
            }
        })
    }

    fn aggregate(&mut self, name: &str, argument: Option<&Expr>) -> Result<Typed, SqlError> {
        self.aggregated = true;
        let Some(argument) = argument else {
            return Ok(Typed::new("count(*)", Type::INT8));
        };
        self.aggregating = true;
        let Typed { sql, ty } = self.expr(argument, None)?;
        self.aggregating = false;
        match ty.base {
            _ if name == "count" => Ok(Typed::new(format!("count({sql})"), Type::INT8)),
            Type::INT2 | Type::INT4 => {
                Ok(Typed::new(format!("pg_average(sum({sql}), count({sql}))"), Type::NUMERIC))
            }
            other => Err(SqlError::unsupported(format!("avg of {}", other.name()))),
        }
    }
}

pub(super) fn data_type(given: &DataType) -> Result<Ty, SqlError> {
    let name = given.to_string();
    Ty::by_name(&name).ok_or_else(|| SqlError::unsupported(format!("the type {name}")))
}

/// PostgreSQL's name for a column that is selected without an alias.
pub(super) fn name_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(folded(name)),
        Expr::CompoundIdentifier(names) => names.last().map(folded),
        Expr::Function(function) => Some(last_name(&function.name)),
        Expr::Nested(inner) => name_of(inner),
        Expr::Cast { expr, data_type: to, .. } => {
            name_of(expr).or_else(|| Some(data_type(to).ok()?.base.name().to_owned()))
        }
        _ => None,
    }
}
