//! Functions.

use sqlparser::ast::{Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments};

use super::{Result, System, Translator, Typed, names, refuse, sources::Clause};
use crate::azure_sql::{error::ServerError, types::SqlType};

const NAME: SqlType = SqlType::NVarChar(Some(128));

/// Of any other one, not even the arguments are looked at.
const KNOWN: [&str; 7] =
    ["SCOPE_IDENTITY", "DB_NAME", "APP_NAME", "HOST_NAME", "SUSER_SNAME", "USER_NAME", "LEN"];

impl Translator<'_> {
    /// The arguments of a call that is nothing but a name and expressions.
    pub(super) fn plain_arguments<'f>(&self, function: &'f Function) -> Result<Vec<&'f Expr>> {
        let FunctionArguments::List(list) = &function.args else {
            return Err(ServerError::unsupported(function));
        };
        let plain = |argument: &'f FunctionArg| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
            _ => None,
        };
        let arguments: Option<Vec<&Expr>> = list.args.iter().map(plain).collect();
        let arguments = arguments.ok_or_else(|| ServerError::unsupported(function))?;
        let shown: Vec<String> = arguments.iter().map(|argument| argument.to_string()).collect();
        // OVER, DISTINCT, FILTER: whatever else there is.
        if function.to_string() != format!("{}({})", function.name, shown.join(", ")) {
            return Err(ServerError::unsupported(function));
        }
        Ok(arguments)
    }

    pub(super) fn function(&mut self, function: &Function) -> Result<Typed> {
        let name = function.name.to_string().to_ascii_uppercase();
        if let "COUNT" | "COUNT_BIG" | "SUM" = name.as_str() {
            return self.aggregate(&name, function);
        }
        let arguments = self.plain_arguments(function)?;
        if name == "OBJECT_ID" {
            return object_id(function, &arguments);
        }
        if !KNOWN.contains(&name.as_str()) {
            return Err(ServerError::unsupported(function));
        }
        let typed: Result<Vec<Typed>> =
            arguments.iter().map(|argument| self.expression(argument)).collect();
        let typed = typed?;
        match (name.as_str(), &typed[..]) {
            ("SCOPE_IDENTITY", []) => {
                self.system(System::ScopeIdentity, SqlType::Decimal { precision: 38, scale: 0 })
            }
            ("DB_NAME", []) => self.system(System::Database, NAME),
            ("APP_NAME", []) => self.system(System::Application, NAME),
            ("HOST_NAME", []) => self.system(System::Host, NAME),
            ("SUSER_SNAME" | "USER_NAME", []) => self.system(System::User, NAME),
            ("LEN", [text]) if text.known_type().is_text() => {
                // That of a `max` type is a bigint.
                let long = text.known_type().length().is_none();
                let sql = format!("tsql_len({})", text.sql);
                Ok(Typed::new(sql, if long { SqlType::BigInt } else { SqlType::Int }))
            }
            _ => Err(ServerError::unsupported(function)),
        }
    }

    fn aggregate(&mut self, name: &str, function: &Function) -> Result<Typed> {
        match self.froms.last_mut() {
            Some(from) if from.clause == Clause::Items => from.aggregate = true,
            _ => return Err(ServerError::unsupported(format_args!("{name} outside of items"))),
        }
        let counted = if name == "COUNT" { SqlType::Int } else { SqlType::BigInt };
        if name != "SUM" && function.to_string() == format!("{}(*)", function.name) {
            return Ok(Typed::new(narrowed("count(*)", counted), counted));
        }
        let [argument] = self.plain_arguments(function)?[..] else {
            return Err(ServerError::unsupported(function));
        };
        self.clause(Clause::Aggregate);
        let typed = self.expression(argument)?;
        self.clause(Clause::Items);
        if name != "SUM" {
            return Ok(Typed::new(narrowed(&format!("count({})", typed.sql), counted), counted));
        }
        let sql_type = match typed.sql_type {
            Some(SqlType::TinyInt | SqlType::SmallInt | SqlType::Int) => SqlType::Int,
            Some(SqlType::Decimal { scale, .. }) => SqlType::Decimal { precision: 38, scale },
            Some(sql_type @ (SqlType::BigInt | SqlType::Float)) => sql_type,
            _ => return Err(ServerError::unsupported(function)),
        };
        Ok(Typed::new(narrowed(&format!("sum({})", typed.sql), sql_type), sql_type))
    }
}

/// `OBJECT_ID(N'dbo.T', N'U')`: some number, or NULL.
fn object_id(function: &Function, arguments: &[&Expr]) -> Result<Typed> {
    let shown: Vec<String> = arguments.iter().map(|argument| argument.to_string()).collect();
    let name = match shown.iter().map(|text| text.trim_start_matches('N')).collect::<Vec<_>>()[..] {
        [name] | [name, "'U'"] => name.strip_prefix('\'').and_then(|n| n.strip_suffix('\'')),
        _ => None,
    };
    let Some(name) = name else { return Err(ServerError::unsupported(function)) };
    let name = name.strip_prefix("dbo.").unwrap_or(name);
    refuse!("OBJECT_ID of another name than dbo.T": name.contains(['.', '[', '"', '#', '\'']));
    let sql = format!(
        "(SELECT rowid FROM sqlite_master WHERE type = 'table' AND name = {} COLLATE NOCASE)",
        names::string(name)
    );
    Ok(Typed::new(sql, SqlType::Int))
}

/// SQLite counts and sums in 64 bits.
fn narrowed(sql: &str, sql_type: SqlType) -> String {
    match sql_type {
        SqlType::Int => format!("tsql_cast({sql}, 'bigint', 'int')"),
        _ => sql.to_owned(),
    }
}
