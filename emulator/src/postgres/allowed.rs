//! The allow-list: a statement is rebuilt from the clauses that the compiler reads, and
//! must then equal what the client sent. Whatever else it holds is refused by name,
//! whichever clauses the parser learns.

use std::fmt::Display;

use sqlparser::{
    ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
        ObjectNamePart, Query, Select, SetExpr, Statement, TableFactor,
    },
    dialect::PostgreSqlDialect,
    parser::{Parser, ParserError},
    tokenizer::{Token, Tokenizer},
};

use super::error::SqlError;

pub(super) fn parse(sql: &str) -> Result<Vec<Statement>, SqlError> {
    let unknown = |error: ParserError| {
        let message = format!("syntax error, or not known to this stand-in: {error}");
        SqlError::new("42601", message)
    };
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize();
    let tokens = tokens.map_err(|error| unknown(error.into()))?;
    // The parser takes it for `=`.
    if tokens.contains(&Token::DoubleEq) {
        return Err(SqlError::unsupported("the operator =="));
    }
    Parser::new(&PostgreSqlDialect {}).with_tokens(tokens).parse_statements().map_err(unknown)
}

/// A statement to rebuild another in.
pub(super) fn plain(sql: &str) -> Result<Statement, SqlError> {
    parse(sql)?.pop().ok_or_else(|| SqlError::unsupported(sql))
}

/// Refuses `given` unless it equals `rebuilt`, by the words that `rebuilt` lacks.
pub(super) fn only<T: PartialEq + Display>(rebuilt: &T, given: &T) -> Result<(), SqlError> {
    if rebuilt == given {
        return Ok(());
    }
    let (rebuilt, given) = (rebuilt.to_string(), given.to_string());
    let (rebuilt, words): (Vec<_>, Vec<_>) =
        (rebuilt.split_whitespace().collect(), given.split_whitespace().collect());
    let equal = |pair: &(&&str, &&str)| pair.0 == pair.1;
    let front = rebuilt.iter().zip(&words).take_while(equal).count();
    let back = rebuilt.iter().rev().zip(words.iter().rev()).take_while(equal).count();
    let end = words.len().saturating_sub(back).max(front);
    let more = words[front..end].join(" ");
    Err(SqlError::unsupported(if more.is_empty() { given } else { more }))
}

/// A query of one `SELECT`, with `ORDER BY`.
pub(super) fn select(query: &Query) -> Result<&Select, SqlError> {
    let SetExpr::Select(given) = query.body.as_ref() else {
        return Err(SqlError::unsupported(query.body.to_string()));
    };
    let Statement::Query(mut rebuilt) = plain("SELECT 1")? else {
        return Err(SqlError::unsupported(query.to_string()));
    };
    if let SetExpr::Select(select) = rebuilt.body.as_mut() {
        select.projection.clone_from(&given.projection);
        select.from.clone_from(&given.from);
        select.selection.clone_from(&given.selection);
        select.group_by.clone_from(&given.group_by);
    }
    rebuilt.order_by.clone_from(&query.order_by);
    only(&*rebuilt, query)?;
    Ok(given)
}

/// The name of a table, which has nothing else.
pub(super) fn table(factor: &TableFactor) -> Result<String, SqlError> {
    let TableFactor::Table { name, .. } = factor else {
        return Err(SqlError::unsupported(factor.to_string()));
    };
    only(&name.to_string(), &factor.to_string())?;
    local(name)
}

/// The arguments of a call, which has nothing else; `None` is the asterisk of `count(*)`.
pub(super) fn arguments(function: &Function) -> Result<Vec<Option<&Expr>>, SqlError> {
    let FunctionArguments::List(list) = &function.args else {
        only(&function.name.to_string(), &function.to_string())?;
        return Ok(Vec::new());
    };
    let words: Vec<String> = list.args.iter().map(ToString::to_string).collect();
    only(&format!("{}({})", function.name, words.join(", ")), &function.to_string())?;
    let arguments = list.args.iter().map(|argument| match argument {
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

/// For SQLite.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
