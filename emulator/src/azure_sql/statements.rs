//! Running one statement in SQLite.

use std::time::SystemTime;

use rusqlite::{params_from_iter, types::Value};
use time::OffsetDateTime;

use super::{
    convert::convert,
    error::ServerError,
    results::{self, Rows},
    session::{Session, Variables},
    tokens::{Answer, Command},
    tsql::{
        Parameter, Scope, System, Target, Translated, Translator, Writes, declared_type,
        names::{Table, quoted},
    },
    types::SqlType,
};

impl Session {
    pub(crate) fn scalar(
        &mut self,
        expression: &sqlparser::ast::Expr,
        condition: bool,
        variables: &Variables,
    ) -> Result<Value, ServerError> {
        let translated = Translator::new(&scope(variables), self).scalar(expression, condition)?;
        self.before_statement(Writes::Nothing)?;
        let parameters = self.bound(&translated.parameters, variables);
        Ok(self
            .connection
            .query_row(&translated.sql, params_from_iter(parameters), |row| row.get(0))?)
    }

    pub(crate) fn run_sql(
        &mut self,
        statement: Translated,
        variables: &mut Variables,
        answer: &mut Answer,
    ) -> Result<(), ServerError> {
        self.before_statement(statement.writes)?;
        let parameters = self.bound(&statement.parameters, variables);
        let Some(probe) = &statement.probe else {
            return self.run_change(&statement, parameters, answer);
        };
        let limit = match (statement.command, self.options.row_count) {
            (Command::Select, 1..) => self.options.row_count,
            _ => u64::MAX,
        };
        let rows = results::query(&self.connection, &statement.sql, probe, parameters, limit)?;
        let count = rows.rows.len() as u64;
        match &statement.target {
            Target::Client => rows.write(answer)?,
            Target::Table(table) => self.create_from(table, &rows)?,
            Target::Variables(names) => {
                // All rows are assigned; the last one stays.
                if let Some(last) = rows.rows.last() {
                    for (name, value) in names.iter().zip(last) {
                        assign(variables, name, value.clone())?;
                    }
                }
            }
        }
        if statement.command == Command::Insert {
            self.inserted(count);
        }
        self.counted(statement.command, count, answer);
        Ok(())
    }

    fn run_change(
        &mut self,
        statement: &Translated,
        parameters: Vec<Value>,
        answer: &mut Answer,
    ) -> Result<(), ServerError> {
        if statement.command == Command::Other {
            if !parameters.is_empty() {
                return Err(ServerError::unsupported("a parameter in a definition"));
            }
            self.all_or_nothing(|session| Ok(session.connection.execute_batch(&statement.sql)?))?;
            self.row_count = 0;
            answer.done(Command::Other, None);
            return Ok(());
        }
        let count = self.connection.execute(&statement.sql, params_from_iter(parameters))? as u64;
        if statement.command == Command::Insert {
            self.inserted(count);
        }
        self.counted(statement.command, count, answer);
        Ok(())
    }

    /// For what is several statements to SQLite.
    fn all_or_nothing(
        &self,
        statements: impl FnOnce(&Self) -> Result<(), ServerError>,
    ) -> Result<(), ServerError> {
        const NAME: &str = "\"one statement\"";
        self.connection.execute_batch(&format!("SAVEPOINT {NAME}"))?;
        match statements(self) {
            Ok(()) => Ok(self.connection.execute_batch(&format!("RELEASE {NAME}"))?),
            Err(error) => {
                // If SQLite has rolled all of it back, there is no savepoint.
                drop(self.connection.execute_batch(&format!("ROLLBACK TO {NAME}; RELEASE {NAME}")));
                Err(error)
            }
        }
    }

    /// `SELECT … INTO`: a table of the result's columns.
    fn create_from(&self, table: &Table, rows: &Rows) -> Result<(), ServerError> {
        let columns: Vec<String> = rows
            .columns
            .iter()
            .map(|column| format!("{} {}", quoted(&column.name), declared_type(column.sql_type)))
            .collect();
        if rows.columns.iter().any(|column| column.name.is_empty()) {
            return Err(ServerError::new(
                1038,
                15,
                "An object or column name is missing or empty.",
            ));
        }
        let temp = if table.is_temporary() { "TEMP " } else { "" };
        let create = format!("CREATE {temp}TABLE {} ({})", table.quoted(), columns.join(", "));
        let places = vec!["?"; columns.len()].join(", ");
        self.all_or_nothing(|session| {
            session.connection.execute_batch(&create)?;
            let mut insert = session
                .connection
                .prepare(&format!("INSERT INTO {} VALUES ({places})", table.quoted()))?;
            for row in &rows.rows {
                insert.execute(params_from_iter(row))?;
            }
            Ok(())
        })
    }

    fn inserted(&mut self, count: u64) {
        if count > 0 {
            let number = Some(self.connection.last_insert_rowid());
            (self.last_identity, self.scope_identity) = (number, number);
        }
    }

    fn counted(&mut self, command: Command, count: u64, answer: &mut Answer) {
        self.row_count = count as i64;
        answer.done(command, (!self.options.no_count).then_some(count));
    }

    fn bound(&self, parameters: &[Parameter], variables: &Variables) -> Vec<Value> {
        parameters
            .iter()
            .map(|parameter| match parameter {
                Parameter::Variable(name) => {
                    variables.get(name).map_or(Value::Null, |variable| variable.value.clone())
                }
                Parameter::System(system) => self.system(*system),
            })
            .collect()
    }

    fn system(&self, system: System) -> Value {
        let text = |text: &str| Value::Text(text.to_owned());
        let number = |number: Option<i64>| number.map_or(Value::Null, Value::Integer);
        match system {
            System::TransactionCount => Value::Integer(self.transaction_count.into()),
            System::TransactionState => Value::Integer((self.transaction_count > 0).into()),
            System::RowCount => Value::Integer(self.row_count),
            System::Error => Value::Integer(self.last_error.into()),
            System::Identity => number(self.last_identity),
            System::ScopeIdentity => number(self.scope_identity),
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
            System::DateFormat => text(&self.options.date_format),
            System::LockTimeout => Value::Integer(self.options.lock_timeout),
            System::Now => now("datetime"),
            System::NowPrecise => now("datetime2"),
            System::NowOffset => now("datetimeoffset"),
        }
    }
}

/// Azure SQL's clocks show UTC.
fn now(declared: &str) -> Value {
    let now = OffsetDateTime::from(SystemTime::now());
    let (hour, minute, second, nanosecond) = now.to_hms_nano();
    let text = format!("{} {hour:02}:{minute:02}:{second:02}.{nanosecond:09}", now.date());
    SqlType::parse(declared)
        .and_then(|sql_type| convert(&Value::Text(text), sql_type).ok())
        .unwrap_or(Value::Null)
}

pub(crate) fn scope(variables: &Variables) -> Scope {
    variables.iter().map(|(name, variable)| (name.clone(), variable.sql_type)).collect()
}

pub(crate) fn assign(
    variables: &mut Variables,
    name: &str,
    value: Value,
) -> Result<(), ServerError> {
    let Some(variable) = variables.get_mut(&name.to_ascii_lowercase()) else {
        return Err(ServerError::new(
            137,
            15,
            format!("Must declare the scalar variable \"{name}\"."),
        ));
    };
    variable.value = match variable.sql_type {
        Some(sql_type) => convert(&value, sql_type)?,
        None => value,
    };
    Ok(())
}
