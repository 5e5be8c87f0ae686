//! Functions.

use sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Value, WindowType,
};

use super::{
    Shape, System, Translator, Typed,
    expressions::{INT, TEXT, first_known},
    refuse,
};
use crate::azure_sql::{error::ServerError, types::SqlType};

type Result<T> = std::result::Result<T, ServerError>;

const NAME: SqlType = SqlType::NVarChar(Some(128));

impl Translator<'_> {
    pub(super) fn function(&mut self, function: &Function) -> Result<Typed> {
        let Function {
            name,
            uses_odbc_syntax,
            parameters,
            args,
            within_group,
            filter,
            null_treatment,
            over,
        } = function;
        refuse!(
            "{fn …}": *uses_odbc_syntax,
            "a parametric function": *parameters != FunctionArguments::None,
            "WITHIN GROUP": !within_group.is_empty(),
            "FILTER": filter.is_some(),
            "IGNORE NULLS": null_treatment.is_some(),
        );
        let name = name.to_string().to_ascii_uppercase();
        let empty = FunctionArgumentList {
            duplicate_treatment: None,
            args: Vec::new(),
            clauses: Vec::new(),
        };
        let list = match args {
            FunctionArguments::None => &empty,
            FunctionArguments::List(list) => list,
            FunctionArguments::Subquery(_) => return Err(ServerError::unsupported(name)),
        };
        refuse!("a function's clause": !list.clauses.is_empty());
        if let Some(typed) = self.aggregate(&name, list)? {
            let Some(over) = over else { return Ok(typed) };
            return Ok(Typed {
                sql: format!("{} OVER ({})", typed.sql, self.window(over)?),
                shape: typed.shape,
            });
        }
        refuse!("OVER": over.is_some(), "DISTINCT": list.duplicate_treatment.is_some());
        let arguments: Result<Vec<&Expr>> =
            list.args.iter().map(|argument| plain(argument, &name)).collect();
        self.scalar_function(&name, &arguments?)
    }

    fn window(&mut self, over: &WindowType) -> Result<String> {
        let WindowType::WindowSpec(window) = over else {
            return Err(ServerError::unsupported("WINDOW"));
        };
        refuse!("WINDOW": window.window_name.is_some(), "ROWS or RANGE": window.window_frame.is_some());
        let mut sql = Vec::new();
        if !window.partition_by.is_empty() {
            sql.push(format!("PARTITION BY {}", self.list(&window.partition_by)?));
        }
        if !window.order_by.is_empty() {
            sql.push(format!("ORDER BY {}", self.order(&window.order_by)?));
        }
        Ok(sql.join(" "))
    }

    fn aggregate(&mut self, name: &str, list: &FunctionArgumentList) -> Result<Option<Typed>> {
        if let "ROW_NUMBER" | "RANK" | "DENSE_RANK" = name {
            refuse!("arguments of a ranking function": !list.args.is_empty());
            return Ok(Some(Typed::new(format!("{name}()"), SqlType::BigInt)));
        }
        let (sql_name, counts) = match name {
            "COUNT" => ("count", Some(INT)),
            "COUNT_BIG" => ("count", Some(SqlType::BigInt)),
            "SUM" => ("sum", None),
            "AVG" => ("avg", None),
            "MIN" => ("min", None),
            "MAX" => ("max", None),
            _ => return Ok(None),
        };
        let distinct = if list.duplicate_treatment == Some(DuplicateTreatment::Distinct) {
            "DISTINCT "
        } else {
            ""
        };
        let [argument] = &list.args[..] else { return Err(argument_count(name)) };
        if let (FunctionArg::Unnamed(FunctionArgExpr::Wildcard), Some(sql_type)) =
            (argument, counts)
        {
            return Ok(Some(Typed::new("count(*)", sql_type)));
        }
        let argument = self.expression(plain(argument, name)?)?;
        let sql = format!("{sql_name}({distinct}{})", argument.sql);
        let shape = match (counts, name) {
            (Some(sql_type), _) => Shape::Known(sql_type),
            (None, "SUM") => Shape::Sum(Box::new(argument.shape)),
            (None, "AVG") => Shape::Average(Box::new(argument.shape)),
            (None, _) => argument.shape,
        };
        Ok(Some(Typed { sql, shape }))
    }

    fn scalar_function(&mut self, name: &str, arguments: &[&Expr]) -> Result<Typed> {
        let translated: Result<Vec<Typed>> = match name {
            // Its argument must be a constant.
            "OBJECT_ID" => return self.object_id(arguments),
            _ => arguments.iter().map(|argument| self.expression(argument)).collect(),
        };
        let arguments = translated?;
        let list =
            arguments.iter().map(|argument| argument.sql.as_str()).collect::<Vec<_>>().join(", ");
        let known =
            |function: &str, sql_type| Ok(Typed::new(format!("{function}({list})"), sql_type));
        let shaped =
            |function: &str, shape| Ok(Typed { sql: format!("{function}({list})"), shape });
        let first = || first_known(arguments.iter().map(|argument| argument.shape.clone()));
        match (name, arguments.len()) {
            ("GETDATE" | "GETUTCDATE" | "CURRENT_TIMESTAMP", 0) => self.now(System::Now),
            ("SYSDATETIME" | "SYSUTCDATETIME", 0) => self.now(System::NowPrecise),
            ("SYSDATETIMEOFFSET", 0) => self.now(System::NowOffset),
            ("NEWID", 0) if self.in_definition => Ok(Typed::new(NEW_ID, SqlType::UniqueIdentifier)),
            ("NEWID", 0) => known("tsql_newid", SqlType::UniqueIdentifier),
            ("SCOPE_IDENTITY", 0) => Ok(Typed::new(
                self.system(System::ScopeIdentity)?,
                SqlType::Decimal { precision: 38, scale: 0 },
            )),
            ("XACT_STATE", 0) => {
                Ok(Typed::new(self.system(System::TransactionState)?, SqlType::SmallInt))
            }
            ("DB_NAME", 0) => Ok(Typed::new(self.system(System::Database)?, NAME)),
            ("APP_NAME", 0) => Ok(Typed::new(self.system(System::Application)?, NAME)),
            ("HOST_NAME", 0) => Ok(Typed::new(self.system(System::Host)?, NAME)),
            (
                "CURRENT_USER" | "SESSION_USER" | "SYSTEM_USER" | "USER_NAME" | "SUSER_SNAME"
                | "SUSER_NAME" | "ORIGINAL_LOGIN",
                0,
            ) => Ok(Typed::new(self.system(System::User)?, NAME)),
            ("SESSION_CONTEXT", 1) => {
                refuse!("SESSION_CONTEXT in a table's definition": self.in_definition);
                shaped("tsql_session_context", Shape::Values)
            }
            ("LEN", 1) if self.in_definition => {
                Ok(Typed::new(format!("length(rtrim({list}))"), INT))
            }
            ("LEN", 1) => self.call("tsql_len", &list, INT),
            ("DATALENGTH", 1) => self.call("tsql_datalength", &list, INT),
            ("ISNULL", 2) => shaped("ifnull", first()),
            ("COALESCE", 2..) => shaped("coalesce", first()),
            ("NULLIF", 2) => shaped("nullif", first()),
            ("IIF", 3) => shaped(
                "iif",
                first_known(arguments[1..].iter().map(|argument| argument.shape.clone())),
            ),
            ("UPPER" | "LOWER", 1) => known(if name == "UPPER" { "upper" } else { "lower" }, TEXT),
            ("LTRIM" | "RTRIM" | "TRIM", 1) => known(&name.to_ascii_lowercase(), TEXT),
            ("SUBSTRING", 3) => self.call("tsql_substring", &list, TEXT),
            ("LEFT", 2) => self.call("tsql_left", &list, TEXT),
            ("RIGHT", 2) => self.call("tsql_right", &list, TEXT),
            ("REPLACE", 3) => self.call("tsql_replace", &list, TEXT),
            ("CHARINDEX", 2..=3) => self.call("tsql_charindex", &list, INT),
            ("CONCAT", 2..) => self.call("tsql_concat", &list, TEXT),
            ("ROUND", 2) => shaped("round", arguments[0].shape.clone()),
            ("ABS", 1) => shaped("abs", arguments[0].shape.clone()),
            ("CEILING", 1) => shaped("ceil", arguments[0].shape.clone()),
            ("YEAR" | "MONTH" | "DAY", 1) => {
                let format = match name {
                    "YEAR" => "%Y",
                    "MONTH" => "%m",
                    _ => "%d",
                };
                Ok(Typed::new(format!("CAST(strftime('{format}', {list}) AS integer)"), INT))
            }
            _ if KNOWN.contains(&name) => Err(argument_count(name)),
            _ => Err(ServerError::unsupported(format_args!("{name}()"))),
        }
    }

    /// `OBJECT_ID(N'dbo.T', 'U')`: some number, or NULL.
    fn object_id(&mut self, arguments: &[&Expr]) -> Result<Typed> {
        refuse!("OBJECT_ID in a table's definition": self.in_definition);
        let constant = |expression: &Expr| match expression {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) | Value::NationalStringLiteral(text) => {
                    Some(text.clone())
                }
                _ => None,
            },
            _ => None,
        };
        let Some(name) = arguments.first().and_then(|argument| constant(argument)) else {
            return Err(ServerError::unsupported("OBJECT_ID of anything but a constant"));
        };
        if let Some(kind) = arguments.get(1) {
            refuse!("OBJECT_ID of anything but a table": constant(kind).is_none_or(|kind| kind.trim() != "U"));
        }
        // `[dbo].[T]`, `tempdb..#t`: what counts is the last part.
        let name = name.rsplit('.').next().unwrap_or_default().trim_matches(['[', ']', '"']);
        let catalogue = if name.starts_with('#') { "sqlite_temp_master" } else { "sqlite_master" };
        let name = name.replace('\'', "''");
        let sql = format!(
            "(SELECT rowid FROM {catalogue} WHERE type = 'table' AND name = '{name}' COLLATE NOCASE)"
        );
        Ok(Typed::new(sql, INT))
    }
}

/// A random UUID (version 4), by SQLite's own functions.
const NEW_ID: &str = "(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))";

/// For a wrong number of arguments to be told from an unknown function.
const KNOWN: &[&str] = &[
    "ISNULL",
    "COALESCE",
    "NULLIF",
    "IIF",
    "UPPER",
    "LOWER",
    "LTRIM",
    "RTRIM",
    "TRIM",
    "SUBSTRING",
    "LEFT",
    "RIGHT",
    "REPLACE",
    "CHARINDEX",
    "CONCAT",
    "ROUND",
    "ABS",
    "CEILING",
    "LEN",
    "DATALENGTH",
    "NEWID",
    "GETDATE",
    "SESSION_CONTEXT",
    "SCOPE_IDENTITY",
];

fn plain<'e>(argument: &'e FunctionArg, function: &str) -> Result<&'e Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Ok(expression),
        other => Err(ServerError::unsupported(format_args!("{function}({other})"))),
    }
}

fn argument_count(function: &str) -> ServerError {
    ServerError::new(
        174,
        15,
        format!("The {} function has another number of arguments.", function.to_ascii_lowercase()),
    )
}
