//! Running a request, and what controls the session in it.

use std::time::Duration;

use rusqlite::types::Value;

use super::{
    convert::{convert, shown},
    error::ServerError,
    moments::Moment,
    requests::{Body, TransactionRequest},
    session::{Session, Variables},
    statements::scope,
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
                    self.row_count = 0;
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
            // Read, and not run.
            return match statement {
                Statement::Set { options, value } if options.iter().any(|o| o == "NOEXEC") => {
                    self.set(options, value).map(|()| Flow::Next)
                }
                Statement::Block(statements) => Ok(self.run(statements, variables, answer, failed)),
                _ => Ok(Flow::Next),
            };
        }
        match statement {
            Statement::Block(statements) => {
                return Ok(self.run(statements, variables, answer, failed));
            }
            Statement::If { condition, then, otherwise } => {
                let holds = self.holds(condition, variables)?;
                self.row_count = 0;
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
                return Ok(Flow::Next);
            }
            Statement::Begin(name) => {
                self.begin(name).iter().for_each(|change| answer.environment(change));
            }
            Statement::Commit => {
                self.commit()?.iter().for_each(|change| answer.environment(change))
            }
            Statement::Rollback(name) => {
                self.rollback(name)?.iter().for_each(|change| answer.environment(change));
            }
            Statement::Save(name) => self.save(name)?,
            Statement::Isolation(level) => self.options.isolation = *level,
            Statement::Set { options, value } => self.set(options, value)?,
            Statement::Assign { variable, value } => {
                let (value, sql_type) = self.scalar(value, variables)?;
                let undeclared = || {
                    let text = format!("Must declare the scalar variable \"{variable}\".");
                    ServerError::new(137, 15, text)
                };
                let held = variables.get_mut(&variable.to_ascii_lowercase());
                let held = held.ok_or_else(undeclared)?;
                held.value = convert(&value, sql_type, held.sql_type.unwrap_or(sql_type))?;
            }
            Statement::SetContext { key, value } => {
                let (key, key_type) = self.scalar(key, variables)?;
                let (value, sql_type) = self.scalar(value, variables)?;
                self.set_context(&shown(&key, key_type)?, value, sql_type);
            }
            Statement::Wait(duration) => {
                let (duration, sql_type) = self.scalar(duration, variables)?;
                let time = convert(&duration, sql_type, SqlType::Time(7))?;
                let ticks = Moment::parse(&shown(&time, SqlType::Time(7))?).map_or(0, |m| m.ticks);
                self.cancel.wait(Duration::from_nanos(ticks.saturating_mul(100)));
                if self.cancel.is_raised() {
                    return Err(ServerError::cancelled());
                }
            }
            Statement::Throw { number, message } => {
                let (number, message) =
                    (self.scalar(number, variables)?, self.scalar(message, variables)?);
                let Value::Integer(number @ 50_000..) = convert(&number.0, number.1, SqlType::Int)?
                else {
                    return Err(ServerError::unsupported("THROW of a number below 50000"));
                };
                return Err(ServerError::new(number as i32, 16, shown(&message.0, message.1)?));
            }
            Statement::Use(database) => self.use_database(database, answer)?,
        }
        self.row_count = 0;
        answer.done(Command::Other, None);
        Ok(Flow::Next)
    }

    fn set(&mut self, options: &[String], value: &str) -> Result<(), ServerError> {
        options.iter().try_for_each(|option| self.set_option(option, value))
    }
}
