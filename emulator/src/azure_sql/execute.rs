//! Running a request in a session.

use std::time::{Duration, SystemTime};

use rusqlite::{params_from_iter, types::Value};
use time::OffsetDateTime;

use super::{
    error::ServerError,
    functions::convert,
    requests::{Body, Parameter as RpcParameter, Procedure, TransactionRequest},
    results::{self, Rows},
    session::{Session, Variable, Variables},
    tokens::{Answer, Command},
    tsql::{
        Parameter, Scope, System, Target, Translated, Translator, Writes, declared_type,
        names::{Table, quoted},
        script::{self, Statement},
    },
    types::SqlType,
    values,
};

/// How a statement list went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    /// The rest of the batch is not run.
    End,
}

impl Session {
    /// The answer to a request that is in the right transaction.
    pub(crate) fn answer(&mut self, request: Body, mut answer: Answer) -> Vec<u8> {
        let failed = match request {
            Body::Batch(text) => self.batch(&text, &mut Variables::new(), &mut answer),
            Body::Rpc(Procedure::ExecuteSql, parameters) => {
                self.execute_sql(parameters, &mut answer)
            }
            Body::Rpc(Procedure::Named(name), _) => {
                let text = format!("Could not find stored procedure '{name}'.");
                self.fail(&ServerError::new(2812, 16, text), &mut answer)
            }
            Body::Transaction(request) => self.transaction_request(&request, &mut answer),
            Body::Other(kind) => self.fail(
                &ServerError::unsupported(format_args!("a message of type {kind}")),
                &mut answer,
            ),
        };
        answer.finish(failed)
    }

    fn fail(&mut self, error: &ServerError, answer: &mut Answer) -> bool {
        self.last_error = error.number;
        answer.error(error);
        answer.done_with_error();
        true
    }

    fn transaction_request(&mut self, request: &TransactionRequest, answer: &mut Answer) -> bool {
        let change = match request {
            TransactionRequest::Begin(level, _) if *level > 5 => {
                Err(ServerError::unsupported("this isolation level"))
            }
            TransactionRequest::Begin(level, name) => {
                if *level > 0 {
                    self.options.isolation = *level;
                }
                Ok(self.begin(name))
            }
            TransactionRequest::Commit(_) => self.commit(),
            TransactionRequest::Rollback(name) => self.rollback(name),
            TransactionRequest::Save(name) => self.save(name).map(|()| None),
            TransactionRequest::Other(number) => {
                Err(ServerError::unsupported(format_args!("transaction-manager request {number}")))
            }
        };
        match change {
            Ok(change) => {
                change.iter().for_each(|change| answer.environment(change));
                answer.done(Command::Other, None);
                false
            }
            Err(error) => self.fail(&error, answer),
        }
    }

    /// `sp_executesql`: a batch of its own scope. What it sets holds in it,
    /// and the tables that it makes for itself go at its end.
    fn execute_sql(&mut self, parameters: Vec<RpcParameter>, answer: &mut Answer) -> bool {
        let (text, mut variables) = match bind(parameters) {
            Ok(bound) => bound,
            Err(error) => return self.fail(&error, answer),
        };
        let (options, transactions) = (self.options.clone(), self.transaction_count);
        let tables = self.temporary_tables().unwrap_or_default();
        let mut failed = self.batch(&text, &mut variables, answer);
        self.options = options;
        let restored =
            self.apply_lock_timeout().and_then(|()| self.temporary_tables()).and_then(|now| {
                let own: Vec<String> =
                    now.into_iter().filter(|table| !tables.contains(table)).collect();
                own.iter().try_for_each(|table| self.drop_temporary(table))
            });
        if let Err(error) = restored {
            failed = self.fail(&error, answer);
        }
        if !failed && self.transaction_count != transactions {
            let text = format!(
                "Transaction count after EXECUTE indicates a mismatching number of BEGIN and COMMIT statements. Previous count = {transactions}, current count = {}.",
                self.transaction_count
            );
            failed = self.fail(&ServerError::new(266, 16, text), answer);
        }
        failed
    }

    /// Whether an error went into the answer.
    fn batch(&mut self, text: &str, variables: &mut Variables, answer: &mut Answer) -> bool {
        let statements = match script::parse(text) {
            Ok(statements) => statements,
            Err(error) => return self.fail(&error, answer),
        };
        self.scope_identity = None;
        let mut failed = false;
        self.run(&statements, variables, answer, &mut failed);
        failed
    }

    fn run(
        &mut self,
        statements: &[Statement],
        variables: &mut Variables,
        answer: &mut Answer,
        failed: &mut bool,
    ) -> Flow {
        for statement in statements {
            if self.cancel.is_raised() {
                return Flow::End;
            }
            let had_transaction = self.had_transaction();
            match self.statement(statement, variables, answer, failed) {
                Ok(Flow::Next) => {}
                Ok(Flow::End) => return Flow::End,
                Err(error) => {
                    *failed = true;
                    let change = self.after_error(&error, had_transaction);
                    answer.error(&error);
                    change.iter().for_each(|change| answer.environment(change));
                    answer.done_with_error();
                    if error.ends_batch() || self.options.xact_abort || change.is_some() {
                        return Flow::End;
                    }
                }
            }
        }
        Flow::Next
    }

    fn statement(
        &mut self,
        statement: &Statement,
        variables: &mut Variables,
        answer: &mut Answer,
        failed: &mut bool,
    ) -> Result<Flow, ServerError> {
        if self.options.no_exec {
            return self.compile_only(statement, variables);
        }
        match statement {
            Statement::Block(statements) => {
                return Ok(self.run(statements, variables, answer, failed));
            }
            Statement::If { condition, then, otherwise } => {
                let holds = self.scalar(condition, true, variables)? == Value::Integer(1);
                return Ok(self.run(
                    if holds { then } else { otherwise },
                    variables,
                    answer,
                    failed,
                ));
            }
            Statement::Sql(statement) => {
                let translated = Translator::new(&scope(variables), self).statement(statement)?;
                self.run_sql(translated, variables, answer)?;
                self.last_error = 0;
                return Ok(Flow::Next);
            }
            Statement::Begin { name } => self
                .begin(&name_of(name, variables))
                .iter()
                .for_each(|change| answer.environment(change)),
            Statement::Commit => {
                self.commit()?.iter().for_each(|change| answer.environment(change))
            }
            Statement::Rollback { name } => {
                self.rollback(&name_of(name, variables))?
                    .iter()
                    .for_each(|change| answer.environment(change));
            }
            Statement::Save { name } => self.save(&name_of(name, variables))?,
            Statement::Isolation(level) => self.options.isolation = *level,
            Statement::Set { options, value } => self.set(options, value)?,
            Statement::Declare { variable, data_type, value } => {
                let sql_type =
                    SqlType::parse(data_type).ok_or_else(|| ServerError::unsupported(data_type))?;
                let value = match value {
                    Some(value) => convert(&self.scalar(value, false, variables)?, sql_type)?,
                    None => Value::Null,
                };
                let variable = variable.to_ascii_lowercase();
                if variables.contains_key(&variable) {
                    let text = format!("The variable name '{variable}' has already been declared.");
                    return Err(ServerError::new(134, 15, text));
                }
                variables.insert(variable, Variable { sql_type: Some(sql_type), value });
            }
            Statement::Assign { variable, value } => {
                let value = self.scalar(value, false, variables)?;
                assign(variables, variable, value)?;
            }
            Statement::SetContext { key, value, read_only } => {
                let key = values::text(&self.scalar(key, false, variables)?);
                let value = self.scalar(value, false, variables)?;
                let read_only = match read_only {
                    Some(read_only) => {
                        self.scalar(read_only, false, variables)? == Value::Integer(1)
                    }
                    None => false,
                };
                self.set_context(&key, value, read_only)?;
            }
            Statement::Wait(duration) => {
                let duration = values::moment(&self.scalar(duration, false, variables)?)?.ticks;
                self.cancel.wait(Duration::from_nanos(duration.saturating_mul(100)));
                if self.cancel.is_raised() {
                    return Err(ServerError::cancelled());
                }
            }
            Statement::Print(value) => {
                let text = values::text(&self.scalar(value, false, variables)?);
                answer.information(0, &text);
            }
            Statement::Throw { number, message } => {
                let number =
                    values::integer(&self.scalar(number, false, variables)?, SqlType::Int)?;
                let message = values::text(&self.scalar(message, false, variables)?);
                return Err(ServerError::new(i32::try_from(number).unwrap_or(50000), 16, message));
            }
            Statement::Use { database } => self.use_database(database, answer)?,
        }
        answer.done(Command::Other, None);
        Ok(Flow::Next)
    }

    /// SET NOEXEC ON: names and syntax are checked, nothing is run.
    fn compile_only(
        &mut self,
        statement: &Statement,
        variables: &mut Variables,
    ) -> Result<Flow, ServerError> {
        match statement {
            Statement::Set { options, value }
                if options.iter().any(|option| option == "NOEXEC") =>
            {
                self.set(options, value)?
            }
            Statement::Block(statements) => {
                for statement in statements {
                    self.compile_only(statement, variables)?;
                }
            }
            Statement::Declare { variable, data_type, .. } => {
                let declared = Variable { sql_type: SqlType::parse(data_type), value: Value::Null };
                variables.insert(variable.to_ascii_lowercase(), declared);
            }
            Statement::Sql(statement) => {
                let translated = Translator::new(&scope(variables), self).statement(statement)?;
                // Of several statements, the first may be what the next needs.
                if !translated.sql.contains("; ") {
                    self.connection.prepare(&translated.sql)?;
                }
            }
            _ => {}
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, options: &[String], value: &str) -> Result<(), ServerError> {
        if let [option, table] = options
            && option == "IDENTITY_INSERT"
        {
            self.options.identity_insert = (value == "ON").then(|| table.clone());
            return Ok(());
        }
        options.iter().try_for_each(|option| self.set_option(option, value))
    }

    fn scalar(
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

    fn run_sql(
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

fn scope(variables: &Variables) -> Scope {
    variables.iter().map(|(name, variable)| (name.clone(), variable.sql_type)).collect()
}

fn assign(variables: &mut Variables, name: &str, value: Value) -> Result<(), ServerError> {
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

/// A transaction's name may stand in a variable.
fn name_of(name: &str, variables: &Variables) -> String {
    match variables.get(&name.to_ascii_lowercase()) {
        Some(variable) => values::text(&variable.value),
        None => name.to_owned(),
    }
}

/// The text and the variables of `sp_executesql @stmt, @params, @P1, …`.
fn bind(parameters: Vec<RpcParameter>) -> Result<(String, Variables), ServerError> {
    let mut parameters = parameters.into_iter();
    let mut text = |name: &str| match parameters.next().map(|parameter| parameter.value) {
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Null) | None if name == "@params" => Ok(String::new()),
        _ => Err(ServerError::new(
            214,
            16,
            format!("Procedure expects parameter '{name}' of type 'ntext/nchar/nvarchar'."),
        )),
    };
    let (statement, declarations) = (text("@statement")?, text("@params")?);
    let mut variables = Variables::new();
    for (name, declared) in split_declarations(&declarations) {
        let Some(sql_type) = SqlType::parse(declared) else {
            return Err(ServerError::unsupported(format_args!("a parameter of type {declared}")));
        };
        variables.insert(
            name.to_ascii_lowercase(),
            Variable { sql_type: Some(sql_type), value: Value::Null },
        );
    }
    let in_order: Vec<String> =
        split_declarations(&declarations).map(|(name, _)| name.to_ascii_lowercase()).collect();
    for (index, parameter) in parameters.enumerate() {
        let name = match parameter.name.to_ascii_lowercase() {
            name if name.is_empty() => in_order.get(index).cloned().unwrap_or_default(),
            name => name,
        };
        let Some(variable) = variables.get_mut(&name) else {
            let text =
                format!("Procedure or function has a parameter {name} that is not declared.");
            return Err(ServerError::new(8144, 16, text));
        };
        // As declared, whatever it was sent as.
        variable.value = match (parameter.sql_type, variable.sql_type) {
            (sent, declared) if sent == declared => parameter.value,
            (_, Some(declared)) => convert(&parameter.value, declared)?,
            (_, None) => parameter.value,
        };
    }
    Ok((statement, variables))
}

/// `@a int,@b decimal(10,2)`, split at the commas outside of parentheses.
fn split_declarations(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .filter_map(|declaration| declaration.trim().split_once(char::is_whitespace))
    .map(|(name, declared)| {
        (name, declared.trim().trim_end_matches(" OUTPUT").trim_end_matches(" output"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_split_outside_of_parentheses() {
        let declarations: Vec<_> =
            split_declarations("@P1 int,@P2 decimal(10,2), @P3  nvarchar(max)").collect();
        assert_eq!(
            declarations,
            [("@P1", "int"), ("@P2", "decimal(10,2)"), ("@P3", "nvarchar(max)")]
        );
        assert_eq!(split_declarations("").count(), 0);
    }
}
