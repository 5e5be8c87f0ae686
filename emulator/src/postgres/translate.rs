//! From PostgreSQL's SQL to SQLite's, for the subset listed here; everything
//! else is refused by name (SQLSTATE 0A000).

use std::ops::ControlFlow;

use pgwire::api::Type;
use sqlparser::ast::{
    DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, Insert, LimitClause, ObjectName, ObjectNamePart, ObjectType, Query,
    SetExpr, Statement, TableObject, Value, ValueWithSpan, VisitMut, VisitorMut,
};

use super::{
    definitions::{alter_table, create_table},
    error::SqlError,
    infer::{Columns, folded, last_name},
    names::name_items,
    values::type_by_name,
};

/// Statements for SQLite, and the tag that tells the client what was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Translated {
    pub(super) tag: &'static str,
    pub(super) sql: Vec<String>,
}

/// Queries, `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE` and the definition of
/// tables, indexes and views.
pub(super) fn translate(
    mut statement: Statement,
    columns: &Columns,
) -> Result<Translated, SqlError> {
    if let Statement::Insert(insert) = &mut statement {
        cast_literals(insert, columns);
    }
    if let ControlFlow::Break(error) = statement.visit(&mut Rewrite) {
        return Err(error);
    }
    let tag = match &mut statement {
        Statement::Query(query) => query_tag(query),
        Statement::Insert(_) => "INSERT 0",
        Statement::Update(_) => "UPDATE",
        Statement::Delete(_) => "DELETE",
        Statement::CreateTable(table) => {
            create_table(table)?;
            "CREATE TABLE"
        }
        Statement::CreateView(view) if !view.materialized => "CREATE VIEW",
        Statement::CreateIndex(index) => {
            index.concurrently = false;
            index.using = None;
            "CREATE INDEX"
        }
        Statement::AlterTable(table) => {
            alter_table(table)?;
            "ALTER TABLE"
        }
        Statement::Drop { .. } => return drop_objects(statement),
        Statement::Truncate(truncate) => {
            let names = truncate.table_names.iter();
            return Ok(Translated {
                tag: "TRUNCATE TABLE",
                sql: names.map(|target| format!("DELETE FROM {}", local(&target.name))).collect(),
            });
        }
        other => return Err(SqlError::unsupported(first_words(&other.to_string()))),
    };
    Ok(Translated { tag, sql: vec![statement.to_string()] })
}

pub(super) fn first_words(sql: &str) -> String {
    let words: Vec<&str> = sql.split_whitespace().take(2).collect();
    words.join(" ")
}

fn query_tag(query: &mut Query) -> &'static str {
    match query.body.as_ref() {
        SetExpr::Insert(_) => "INSERT 0",
        SetExpr::Update(_) => "UPDATE",
        SetExpr::Delete(_) => "DELETE",
        _ => "SELECT",
    }
}

fn drop_objects(statement: Statement) -> Result<Translated, SqlError> {
    let Statement::Drop { object_type, if_exists, names, .. } = statement else {
        unreachable!("called for DROP alone")
    };
    let tag = match object_type {
        ObjectType::Table => "DROP TABLE",
        ObjectType::View => "DROP VIEW",
        ObjectType::Index => "DROP INDEX",
        other => return Err(SqlError::unsupported(format!("DROP {other}"))),
    };
    let exists = if if_exists { " IF EXISTS" } else { "" };
    let sql = names.iter().map(|name| format!("{tag}{exists} {}", local(name)));
    Ok(Translated { tag, sql: sql.collect() })
}

/// Without the schema `public`, the only one; `pg_temp` is SQLite's `temp`.
fn local(name: &ObjectName) -> ObjectName {
    let mut name = name.clone();
    if let [schema, _] = name.0.as_mut_slice()
        && let Some(ident) = schema.as_ident()
    {
        match folded(ident).as_str() {
            "public" => drop(name.0.remove(0)),
            "pg_temp" => *schema = ObjectNamePart::Identifier(Ident::new("temp")),
            _ => {}
        }
    }
    name
}

/// A string that goes into a column is read as that column's type.
fn cast_literals(insert: &mut Insert, columns: &Columns) {
    let TableObject::TableName(table) = &insert.table else {
        return;
    };
    let Some(table) = columns.tables.get(&last_name(table)) else {
        return;
    };
    let Some(SetExpr::Values(values)) = insert.source.as_mut().map(|query| query.body.as_mut())
    else {
        return;
    };
    let named: Vec<String> = insert.columns.iter().map(last_name).collect();
    let targets: Vec<Option<Type>> = if named.is_empty() {
        table.iter().map(|(_, ty)| Some(ty.clone())).collect()
    } else {
        let find = |name: &String| table.iter().find(|(column, _)| column == name);
        named.iter().map(|name| find(name).map(|(_, ty)| ty.clone())).collect()
    };
    for row in &mut values.rows {
        for (expr, ty) in row.content.iter_mut().zip(&targets) {
            let is_string = matches!(expr, Expr::Value(value)
                if matches!(value.value, Value::SingleQuotedString(_)));
            if let Some(ty) = ty.as_ref().filter(|_| is_string) {
                *expr = cast(expr.clone(), ty.name());
            }
        }
    }
}

pub(super) fn name_of(name: &str) -> ObjectName {
    ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))])
}

pub(super) fn string(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).with_empty_span())
}

fn cast(expr: Expr, ty: &str) -> Expr {
    call("pg_cast", vec![expr, string(ty)])
}

pub(super) fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let arguments =
        arguments.into_iter().map(|expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)));
    Expr::Function(Function {
        name: name_of(name),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: arguments.collect(),
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

struct Rewrite;

impl VisitorMut for Rewrite {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        // SQLite locks the database as a whole.
        query.locks.clear();
        name_items(query);
        // SQLite knows no OFFSET without a LIMIT; below zero is none.
        if let Some(LimitClause::LimitOffset { limit: limit @ None, offset: Some(_), .. }) =
            &mut query.limit_clause
        {
            *limit = Some(Expr::Value(Value::Number("-1".to_owned(), false).with_empty_span()));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<SqlError> {
        if let [schema, _] = relation.0.as_slice()
            && let Some(ident) = schema.as_ident()
            && ["pg_catalog", "information_schema"].contains(&folded(ident).as_str())
        {
            return ControlFlow::Break(SqlError::unsupported(relation.to_string()));
        }
        *relation = local(relation);
        ControlFlow::Continue(())
    }

    fn pre_visit_ident(&mut self, ident: &mut Ident) -> ControlFlow<SqlError> {
        ident.value = folded(ident);
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<SqlError> {
        match &mut value.value {
            // `$1` is a name to SQLite, `?1` a number.
            Value::Placeholder(name) => *name = name.replace('$', "?"),
            Value::EscapedStringLiteral(text) => {
                value.value = Value::SingleQuotedString(std::mem::take(text));
            }
            Value::DollarQuotedString(text) => {
                value.value = Value::SingleQuotedString(std::mem::take(&mut text.value));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        match rewritten(expr) {
            Ok(Some(new)) => *expr = new,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

fn rewritten(expr: &Expr) -> Result<Option<Expr>, SqlError> {
    Ok(match expr {
        Expr::Cast { expr, data_type, .. } => Some(cast((**expr).clone(), known(data_type)?)),
        Expr::TypedString(typed) => {
            let text = Expr::Value(typed.value.clone());
            Some(cast(text, known(&typed.data_type)?))
        }
        Expr::ILike { negated, any, expr, pattern, escape_char } => Some(Expr::Like {
            negated: *negated,
            any: *any,
            expr: Box::new(call("lower", vec![(**expr).clone()])),
            pattern: Box::new(call("lower", vec![(**pattern).clone()])),
            escape_char: escape_char.clone(),
        }),
        Expr::Function(function) => Some(rewritten_function(function)),
        Expr::AtTimeZone { .. }
        | Expr::Extract { .. }
        | Expr::Interval(_)
        | Expr::Array(_)
        | Expr::AnyOp { .. }
        | Expr::AllOp { .. }
        | Expr::SimilarTo { .. }
        | Expr::Position { .. }
        | Expr::Overlay { .. }
        | Expr::CompoundFieldAccess { .. } => {
            return Err(SqlError::unsupported(expr.to_string()));
        }
        _ => None,
    })
}

fn known(data_type: &DataType) -> Result<&'static str, SqlError> {
    let name = data_type.to_string();
    let ty = type_by_name(&name).ok_or_else(|| SqlError::unsupported(format!("type {name}")))?;
    Ok(match ty {
        Type::INT2 => "int2",
        Type::INT4 => "int4",
        Type::INT8 => "int8",
        Type::FLOAT4 => "float4",
        Type::FLOAT8 => "float8",
        Type::BOOL => "bool",
        Type::TIMESTAMPTZ => "timestamptz",
        Type::TIMESTAMP => "timestamp",
        Type::DATE => "date",
        Type::UUID => "uuid",
        Type::BYTEA => "bytea",
        Type::NUMERIC => "numeric",
        Type::JSON => "json",
        Type::JSONB => "jsonb",
        Type::OID => "oid",
        _ => "text",
    })
}

/// Functions that SQLite has under another name, or in parentheses only.
fn rewritten_function(function: &Function) -> Expr {
    let name = last_name(&function.name);
    let now = || call("now", Vec::new());
    let renamed = match name.as_str() {
        "current_timestamp" | "transaction_timestamp" | "statement_timestamp" => return now(),
        "current_date" => return cast(now(), "date"),
        "localtimestamp" => return cast(now(), "timestamp"),
        "user" | "current_role" | "current_user" => return call("current_user", Vec::new()),
        "session_user" => return call("session_user", Vec::new()),
        "current_catalog" => return call("current_database", Vec::new()),
        "current_schema" => return call("current_schema", Vec::new()),
        "random" => "pg_random",
        "greatest" | "bool_or" => "max",
        "least" | "bool_and" => "min",
        "char_length" | "character_length" => "length",
        "strpos" => "instr",
        // Whatever its schema: `pg_catalog.now()`.
        same => same,
    };
    Expr::Function(Function { name: name_of(renamed), ..function.clone() })
}
