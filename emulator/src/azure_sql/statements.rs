//! Runs one statement in SQLite.

use rusqlite::{params_from_iter, types::Value};
use sqlparser::ast::Expr;

use super::{
    error::ServerError,
    session::{Session, Variables},
    tokens::{Answer, Command},
    tsql::{Translated, Translator, Writes},
    types::SqlType,
    values,
};

impl Session {
    /// An expression's value and its type.
    pub(crate) fn scalar(
        &self,
        expression: &Expr,
        variables: &Variables,
    ) -> Result<(Value, SqlType), ServerError> {
        let translated = Translator::new(self, variables).scalar(expression)?;
        let sql_type = translated.columns.first().map_or(SqlType::Int, |column| column.sql_type);
        Ok((self.value(translated)?, sql_type))
    }

    /// Whether a condition is true, as opposed to false or unknown.
    pub(crate) fn holds(
        &self,
        condition: &Expr,
        variables: &Variables,
    ) -> Result<bool, ServerError> {
        let translated = Translator::new(self, variables).condition(condition)?;
        Ok(self.value(translated)? == Value::Integer(1))
    }

    fn value(&self, query: Translated) -> Result<Value, ServerError> {
        self.before_statement(Writes::Nothing)?;
        let parameters = params_from_iter(query.parameters);
        Ok(self.connection.query_row(&query.sql, parameters, |row| row.get(0))?)
    }

    pub(crate) fn run_sql(
        &mut self,
        statement: Translated,
        answer: &mut Answer,
    ) -> Result<(), ServerError> {
        self.before_statement(statement.writes)?;
        let command = statement.command;
        let count = if statement.columns.is_empty() {
            let parameters = params_from_iter(statement.parameters);
            self.connection.execute(&statement.sql, parameters)? as u64
        } else {
            self.run_query(statement, answer)?
        };
        let counts = command != Command::Other;
        self.row_count = if counts { count as i64 } else { 0 };
        answer.done(command, (counts && !self.options.no_count).then_some(count));
        Ok(())
    }

    /// Writes columns and rows, or nothing if one of the values cannot be written.
    fn run_query(&self, query: Translated, answer: &mut Answer) -> Result<u64, ServerError> {
        let mut prepared = self.connection.prepare(&query.sql)?;
        let mut found = prepared.query(params_from_iter(query.parameters))?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let mut bytes = Vec::new();
            for (index, column) in query.columns.iter().enumerate() {
                values::write(&row.get(index)?, column.sql_type, &mut bytes)?;
            }
            rows.push(bytes);
        }
        answer.columns(&query.columns);
        rows.iter().for_each(|row| answer.row(row));
        Ok(rows.len() as u64)
    }
}
