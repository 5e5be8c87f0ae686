//! The allow-list: a statement is rebuilt from the clauses that the compiler reads, and must
//! equal the client's. Any other clause is refused by name, including clauses that future
//! versions of the parser accept.

use std::fmt::Display;

use sqlparser::{
    ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Insert, ObjectName,
        ObjectNamePart, Query, Select, SetExpr, Statement, TableFactor, Values,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};

use super::error::SqlError;
pub(super) use crate::database::{list, quoted};

pub(super) fn parse(sql: &str) -> Result<Vec<Statement>, SqlError> {
    // The parser reads it as `=`. This also refuses texts that contain it.
    if sql.contains("==") {
        return Err(SqlError::unsupported("the operator =="));
    }
    Parser::parse_sql(&PostgreSqlDialect {}, sql).map_err(|error| {
        let message = format!("syntax error, or not known to this stand-in: {error}");
        SqlError::new("42601", message)
    })
}

/// Refuses `given` unless it has the words of `rebuilt`. The error names the first others.
pub(super) fn only(rebuilt: &str, given: &impl Display) -> Result<(), SqlError> {
    let given = given.to_string();
    let (mut known, mut words) = (rebuilt.split_whitespace(), given.split_whitespace().peekable());
    while words.next_if(|word| known.next() == Some(word)).is_some() {}
    match words.collect::<Vec<_>>().join(" ") {
        more if !more.is_empty() => Err(SqlError::unsupported(more)),
        _ if known.next().is_some() => Err(SqlError::unsupported(given)),
        _ => Ok(()),
    }
}

/// A query of one `SELECT`, with `ORDER BY`.
pub(super) fn select(query: &Query) -> Result<&Select, SqlError> {
    let SetExpr::Select(given) = query.body.as_ref() else {
        return Err(SqlError::unsupported(query.body.to_string()));
    };
    let mut rebuilt = format!("SELECT {}", list(&given.projection));
    if !given.from.is_empty() {
        rebuilt += &format!(" FROM {}", list(&given.from));
    }
    if let Some(condition) = &given.selection {
        rebuilt += &format!(" WHERE {condition}");
    }
    let order = query.order_by.as_ref().map(ToString::to_string).unwrap_or_default();
    // Without groups it prints only its keyword.
    let groups = given.group_by.to_string();
    let groups = if groups.trim() == "GROUP BY" { "" } else { &groups };
    only(&format!("{rebuilt} {groups} {order}"), query)?;
    Ok(given)
}

/// The rows of an `INSERT … VALUES`.
pub(super) fn rows(given: &Insert) -> Result<&Values, SqlError> {
    let body = given.source.as_ref().map(|source| source.body.as_ref());
    let Some(SetExpr::Values(values)) = body else {
        return Err(SqlError::unsupported(given.to_string()));
    };
    let mut rebuilt = format!("INSERT INTO {} ", given.table);
    if !given.columns.is_empty() {
        rebuilt += &format!("({}) ", list(&given.columns));
    }
    let rows: Vec<String> = values.rows.iter().map(|row| format!("({})", list(row))).collect();
    rebuilt += &format!("VALUES {}", list(&rows));
    if let Some(on) = &given.on {
        rebuilt += &on.to_string();
    }
    if let Some(returning) = &given.returning {
        rebuilt += &format!(" RETURNING {}", list(returning));
    }
    only(&rebuilt, given)?;
    Ok(values)
}

/// The name of a table, without further clauses.
pub(super) fn table(factor: &TableFactor) -> Result<String, SqlError> {
    let TableFactor::Table { name, .. } = factor else {
        return Err(SqlError::unsupported(factor.to_string()));
    };
    only(&name.to_string(), factor)?;
    local(name)
}

/// The arguments of a call without further clauses; `None` is the asterisk of `count(*)`.
pub(super) fn arguments(function: &Function) -> Result<Vec<Option<&Expr>>, SqlError> {
    let FunctionArguments::List(given) = &function.args else {
        only(&function.name.to_string(), function)?;
        return Ok(Vec::new());
    };
    only(&format!("{}({})", function.name, list(&given.args)), function)?;
    let arguments = given.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(Some(expr)),
        FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => Ok(None),
        _ => Err(SqlError::unsupported(function.to_string())),
    });
    arguments.collect()
}

/// A name, folded to lower case unless quoted.
pub(super) fn folded(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// The last part of a name.
pub(super) fn last_name(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(folded).unwrap_or_default()
}

/// A name without a schema.
pub(super) fn local(name: &ObjectName) -> Result<String, SqlError> {
    match name.0.as_slice() {
        [ObjectNamePart::Identifier(name)] => Ok(folded(name)),
        _ => Err(SqlError::unsupported(name.to_string())),
    }
}
