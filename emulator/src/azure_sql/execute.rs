//! Running a request, and what controls the session in it.

use std::time::Duration;

use rusqlite::types::Value;

use super::{
    convert::{self as values, convert},
    error::ServerError,
    requests::{Body, TransactionRequest},
    session::{Session, Variable, Variables},
    statements::{assign, scope},
    tokens::{Answer, Change, Command},
    tsql::{
        Translator,
        script::{self, Statement},
    },
    types::SqlType,
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
            Body::Calls(calls) => self.calls(calls, &mut answer),
            Body::Transaction(requests) => self.transaction_requests(&requests, &mut answer),
            Body::Other(kind) => self.fail(
                &ServerError::unsupported(format_args!("a message of type {kind}")),
                &mut answer,
            ),
        };
        answer.finish(failed)
    }

    pub(crate) fn fail(&mut self, error: &ServerError, answer: &mut Answer) -> bool {
        self.last_error = error.number;
        answer.error(error);
        answer.done_with_error();
        true
    }

    fn transaction_requests(
        &mut self,
        requests: &[TransactionRequest],
        answer: &mut Answer,
    ) -> bool {
        for request in requests {
            match self.transaction_request(request) {
                Ok(change) => change.iter().for_each(|change| answer.environment(change)),
                Err(error) => return self.fail(&error, answer),
            }
        }
        answer.done(Command::Other, None);
        false
    }

    fn transaction_request(
        &mut self,
        request: &TransactionRequest,
    ) -> Result<Option<Change>, ServerError> {
        match request {
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
        }
    }

    /// Whether an error went into the answer.
    pub(crate) fn batch(
        &mut self,
        text: &str,
        variables: &mut Variables,
        answer: &mut Answer,
    ) -> bool {
        // The rows would come in a message of their own.
        if text.trim_start().get(..11).is_some_and(|it| it.eq_ignore_ascii_case("INSERT BULK")) {
            return self.fail(&ServerError::unsupported("INSERT BULK"), answer);
        }
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
}

/// A transaction's name may stand in a variable.
fn name_of(name: &str, variables: &Variables) -> String {
    match variables.get(&name.to_ascii_lowercase()) {
        Some(variable) => values::text(&variable.value),
        None => name.to_owned(),
    }
}
