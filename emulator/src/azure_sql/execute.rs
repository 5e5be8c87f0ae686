//! Runs requests, and the statements that control the session.

use sqlparser::ast::{Expr, ObjectName, Set, SetSessionParamKind, Statement, TransactionMode, Use};
use time::{Time, macros::format_description};

use super::{
    convert::convert,
    error::ServerError,
    requests::{Body, TransactionRequest},
    session::{Session, Variables},
    tokens::{Answer, Change, Command},
    tsql::{Translator, names::simple, script},
    types::SqlType,
};

/// SQL Server's levels, in the order of their numbers from 1.
const ISOLATION_LEVELS: [&str; 5] =
    ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "SNAPSHOT"];

/// The outcome of a statement list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    /// The rest of the batch is not run.
    End,
}

impl Session {
    /// The answer to a request that names the session's transaction.
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

    /// Runs a batch. Returns whether the answer contains an error.
    pub(crate) fn batch(
        &mut self,
        text: &str,
        variables: &mut Variables,
        answer: &mut Answer,
    ) -> bool {
        // The client would send the rows in another message.
        if text.trim_start().get(..11).is_some_and(|it| it.eq_ignore_ascii_case("INSERT BULK")) {
            return self.fail(&ServerError::unsupported("INSERT BULK"), answer);
        }
        let statements = match script::parse(text) {
            Ok(statements) => statements,
            Err(error) => return self.fail(&error, answer),
        };
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
            let had_transaction = self.in_sqlite_transaction();
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
        let mut change = None;
        match statement {
            Statement::StartTransaction {
                statements,
                exception: None,
                has_end_keyword: true,
                ..
            } => return Ok(self.run(statements, variables, answer, failed)),
            Statement::Set(set) => self.set(set, variables)?,
            // Parsed, but not run.
            _ if self.options.no_exec => return Ok(Flow::Next),
            Statement::If(it) => {
                let Some(condition) = &it.if_block.condition else {
                    return Err(ServerError::unsupported(it));
                };
                let holds = self.holds(condition, variables)?;
                self.row_count = 0;
                let block = if holds { Some(&it.if_block) } else { it.else_block.as_ref() };
                let statements = block.map_or(&[][..], |block| block.statements());
                return Ok(self.run(statements, variables, answer, failed));
            }
            Statement::StartTransaction {
                begin: true,
                transaction: Some(_),
                modes,
                modifier: None,
                ..
            } if modes.is_empty() => {
                change = self.begin("");
            }
            Statement::Commit { chain: false, end: false, .. } => change = self.commit()?,
            Statement::Rollback { chain: false, savepoint } => {
                change = self.rollback(savepoint.as_ref().map_or("", |name| &name.value))?;
            }
            Statement::Savepoint { name } => self.save(&name.value)?,
            Statement::Execute { name: Some(name), parameters, .. } => {
                self.execute(name, parameters, statement, variables)?;
            }
            Statement::WaitFor(_) => self.wait(statement)?,
            Statement::Use(Use::Object(name)) => {
                self.use_database(&simple(name)?.value, answer)?;
            }
            other => {
                let translated = Translator::new(self, variables).statement(other)?;
                self.run_sql(translated, answer)?;
                return Ok(Flow::Next);
            }
        }
        change.iter().for_each(|change| answer.environment(change));
        self.row_count = 0;
        answer.done(Command::Other, None);
        Ok(Flow::Next)
    }

    fn set(&mut self, set: &Set, variables: &mut Variables) -> Result<(), ServerError> {
        match set {
            Set::SetSessionParam(SetSessionParamKind::Generic(set)) => {
                let value = set.value.strip_suffix('\'').map_or(&*set.value, |text| {
                    text.trim_start_matches('N').trim_start_matches('\'')
                });
                let mut names = set.names.iter().map(|name| name.to_ascii_uppercase());
                names.try_for_each(|name| match &*name {
                    "NOEXEC" => self.set_option(&name, value),
                    _ if self.options.no_exec => Ok(()),
                    _ => self.set_option(&name, value),
                })
            }
            _ if self.options.no_exec => Ok(()),
            Set::SetTransaction { modes, snapshot: None, session: false } => {
                let level = match &modes[..] {
                    [TransactionMode::IsolationLevel(level)] => level.to_string(),
                    _ => return Err(ServerError::unsupported(set)),
                };
                let index = ISOLATION_LEVELS.iter().position(|known| *known == level);
                self.options.isolation =
                    index.ok_or_else(|| ServerError::unsupported(set))? as u8 + 1;
                Ok(())
            }
            Set::SingleAssignment { scope: None, hivevar: false, variable, values } => {
                let [value] = &values[..] else { return Err(ServerError::unsupported(set)) };
                let (value, sql_type) = self.scalar(value, variables)?;
                let name = variable.to_string();
                let Some(held) = variables.get_mut(&name.to_ascii_lowercase()) else {
                    let text = format!("Must declare the scalar variable \"{name}\".");
                    return Err(ServerError::new(137, 15, text));
                };
                held.value = convert(&value, sql_type, held.sql_type.unwrap_or(sql_type))?;
                Ok(())
            }
            other => Err(ServerError::unsupported(other)),
        }
    }

    /// `EXEC sp_set_session_context N'key', value`.
    fn execute(
        &mut self,
        name: &ObjectName,
        parameters: &[Expr],
        statement: &Statement,
        variables: &Variables,
    ) -> Result<(), ServerError> {
        let plain = name.to_string().to_ascii_lowercase();
        if plain.trim_start_matches("sys.") != "sp_set_session_context" {
            let text = format!("Could not find stored procedure '{name}'.");
            return Err(ServerError::new(2812, 16, text));
        }
        let [key, value] = parameters else { return Err(ServerError::unsupported(statement)) };
        if statement.to_string() != format!("EXECUTE {name} {key}, {value}") {
            return Err(ServerError::unsupported(statement));
        }
        let (key, key_type) = self.scalar(key, variables)?;
        let rusqlite::types::Value::Text(key) =
            convert(&key, key_type, SqlType::NVarChar(Some(128)))?
        else {
            return Err(ServerError::unsupported("a session context key that is NULL"));
        };
        let value = self.scalar(value, variables)?;
        self.context.insert(key.to_lowercase(), value);
        Ok(())
    }

    /// `WAITFOR DELAY '01:02:03'`.
    fn wait(&mut self, statement: &Statement) -> Result<(), ServerError> {
        let shown = statement.to_string();
        let delay = shown.strip_prefix("WAITFOR DELAY '").and_then(|rest| rest.strip_suffix('\''));
        let format = format_description!("[hour]:[minute]:[second]");
        let delay = delay.and_then(|text| Time::parse(text, format).ok());
        let delay = delay.ok_or_else(|| ServerError::unsupported(statement))? - Time::MIDNIGHT;
        self.cancel.wait(delay.unsigned_abs());
        if self.cancel.is_raised() {
            return Err(ServerError::cancelled());
        }
        Ok(())
    }
}
