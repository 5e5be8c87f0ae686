//! Running one statement in SQLite.

use rusqlite::{params_from_iter, types::Value};
use sqlparser::ast::Expr;

use super::{
    error::ServerError,
    results,
    session::{Session, Variable, Variables},
    tokens::{Answer, Command},
    tsql::{Parameter, Scope, System, Translated, Translator, Writes},
    types::SqlType,
};

impl Session {
    /// An expression's value and its type.
    pub(crate) fn scalar(
        &mut self,
        expression: &Expr,
        variables: &Variables,
    ) -> Result<(Value, SqlType), ServerError> {
        let translated = Translator::new(&scope(variables), self).scalar(expression)?;
        let sql_type = translated.columns.first().map_or(SqlType::Int, |column| column.sql_type);
        Ok((self.value(&translated, variables)?, sql_type))
    }

    /// Whether a condition is true; else it is false or unknown.
    pub(crate) fn holds(
        &mut self,
        condition: &Expr,
        variables: &Variables,
    ) -> Result<bool, ServerError> {
        let translated = Translator::new(&scope(variables), self).condition(condition)?;
        Ok(self.value(&translated, variables)? == Value::Integer(1))
    }

    fn value(&self, query: &Translated, variables: &Variables) -> Result<Value, ServerError> {
        self.before_statement(Writes::Nothing)?;
        let parameters = params_from_iter(self.bound(query, variables)?);
        Ok(self.connection.query_row(&query.sql, parameters, |row| row.get(0))?)
    }

    pub(crate) fn run_sql(
        &mut self,
        statement: Translated,
        variables: &Variables,
        answer: &mut Answer,
    ) -> Result<(), ServerError> {
        let limit = match self.options.row_count {
            0 => u64::MAX,
            limit => limit,
        };
        let changes_many = match statement.command {
            Command::Insert => statement.inserts.0 > limit,
            command => matches!(command, Command::Update | Command::Delete) && limit != u64::MAX,
        };
        if changes_many {
            return Err(ServerError::unsupported("a change of rows under SET ROWCOUNT"));
        }
        self.before_statement(statement.writes)?;
        let parameters = self.bound(&statement, variables)?;
        let count = if statement.columns.is_empty() {
            self.connection.execute(&statement.sql, params_from_iter(parameters))? as u64
        } else {
            let rows = results::rows(&self.connection, &statement.sql, parameters, limit)?;
            results::write(&statement.columns, &rows, answer)?;
            rows.len() as u64
        };
        if statement.inserts.1 && count > 0 {
            self.scope_identity = Some(self.connection.last_insert_rowid());
        }
        let counts = statement.command != Command::Other;
        self.row_count = if counts { count as i64 } else { 0 };
        answer.done(statement.command, (counts && !self.options.no_count).then_some(count));
        Ok(())
    }

    /// The values of a statement's parameters.
    fn bound(
        &self,
        statement: &Translated,
        variables: &Variables,
    ) -> Result<Vec<Value>, ServerError> {
        // In other languages, '2024-02-03' is of March; that of datetime2 is not.
        if self.options.language != "us_english" && statement.sql.contains("datetime'") {
            return Err(ServerError::unsupported("datetime after SET LANGUAGE"));
        }
        let value = |parameter: &Parameter| match parameter {
            Parameter::System(system) => Ok(self.system(*system)),
            Parameter::Variable(name) => match variables.get(name) {
                Some(Variable {
                    sql_type: Some(SqlType::Decimal { .. }),
                    value: Value::Blob(_),
                }) => Err(ServerError::unsupported("a decimal of more than 18 digits")),
                variable => Ok(variable.map_or(Value::Null, |variable| variable.value.clone())),
            },
        };
        statement.parameters.iter().map(value).collect()
    }

    fn system(&self, system: System) -> Value {
        let text = |text: &str| Value::Text(text.to_owned());
        match system {
            System::TransactionCount => Value::Integer(self.transaction_count.into()),
            System::RowCount => Value::Integer(self.row_count),
            System::ScopeIdentity => self.scope_identity.map_or(Value::Null, Value::Integer),
            System::Spid => Value::Integer(self.identity.spid.into()),
            System::Version => {
                text("Microsoft SQL Azure (RTM) - 12.0.2000.8, as an emulator over SQLite has it")
            }
            System::Database => text(&self.identity.database),
            System::User => text(&self.identity.user),
            System::Application => text(&self.identity.application),
            System::Host => text(&self.identity.host),
            System::Isolation => Value::Integer(self.options.isolation.into()),
            System::Language => text(&self.options.language),
            System::LockTimeout => Value::Integer(self.options.lock_timeout),
        }
    }
}

pub(crate) fn scope(variables: &Variables) -> Scope {
    variables.iter().map(|(name, variable)| (name.clone(), variable.sql_type)).collect()
}
