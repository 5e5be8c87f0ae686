//! Statements that concern the session and its transaction, not the data.

use pgwire::api::Type;
use rusqlite::types::Value;
use sqlparser::ast::{
    CloseCursor, ContextModifier, DiscardObject, Expr, Ident, Reset, Set,
    SetSessionAuthorizationParamKind, Statement,
};

use super::{
    error::SqlError,
    infer::{folded, last_name},
    session::{Outcome, Session, Status},
};

/// A statement that SQLite does not see, or not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Begin(&'static str),
    Commit,
    Rollback,
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    Set {
        name: String,
        value: Option<String>,
        local: bool,
    },
    Reset(String),
    ResetAll,
    ResetSessionAuthorization(&'static str),
    SetRole(Option<String>),
    Show(String),
    DiscardAll,
    DiscardTemp,
    DiscardSequences,
    /// Nothing to do, for nothing of the kind exists here.
    Nothing(&'static str),
    /// Named statements: `None` for all. The handler of the protocol has them.
    Deallocate(Option<String>),
    /// Something about each statement that SQL has prepared, which none can be here.
    PreparedBySql,
}

impl Command {
    /// `None`: a statement for SQLite.
    pub(super) fn read(statement: &Statement) -> Result<Option<Self>, SqlError> {
        let unsupported = || SqlError::unsupported(statement.to_string());
        Ok(Some(match statement {
            Statement::StartTransaction { statements, begin, .. } if statements.is_empty() => {
                Self::Begin(if *begin { "BEGIN" } else { "START TRANSACTION" })
            }
            Statement::Commit { chain: false, .. } => Self::Commit,
            Statement::Rollback { chain: false, savepoint } => match savepoint {
                Some(name) => Self::RollbackTo(folded(name)),
                None => Self::Rollback,
            },
            Statement::Savepoint { name } => Self::Savepoint(folded(name)),
            Statement::ReleaseSavepoint { name } => Self::Release(folded(name)),
            Statement::Set(set) => Self::read_set(set).ok_or_else(unsupported)?,
            Statement::Reset(reset) => match &reset.reset {
                Reset::ALL => Self::ResetAll,
                Reset::SessionAuthorization => Self::ResetSessionAuthorization("RESET"),
                Reset::ConfigurationParameter(name) => match name.to_string() {
                    role if role.eq_ignore_ascii_case("role") => Self::SetRole(None),
                    name => Self::Reset(name),
                },
            },
            Statement::ShowVariable { variable } => Self::Show(shown(variable)),
            Statement::Discard { object_type } => match object_type {
                DiscardObject::ALL => Self::DiscardAll,
                DiscardObject::TEMP => Self::DiscardTemp,
                DiscardObject::SEQUENCES => Self::DiscardSequences,
                DiscardObject::PLANS => Self::Nothing("DISCARD PLANS"),
            },
            Statement::Close { cursor: CloseCursor::All } => Self::Nothing("CLOSE CURSOR ALL"),
            Statement::UNLISTEN { .. } => Self::Nothing("UNLISTEN"),
            Statement::Deallocate { name, .. } => {
                let all = name.value.eq_ignore_ascii_case("all") && name.quote_style.is_none();
                Self::Deallocate((!all).then(|| folded(name)))
            }
            Statement::Commit { .. } | Statement::Rollback { .. } => return Err(unsupported()),
            Statement::Query(query)
                if query.to_string().ends_with("pg_prepared_statement() WHERE from_sql") =>
            {
                Self::PreparedBySql
            }
            _ => return Ok(None),
        }))
    }

    fn read_set(set: &Set) -> Option<Self> {
        Some(match set {
            Set::SingleAssignment { scope, variable, values, .. } => {
                let value = match values.as_slice() {
                    [Expr::Identifier(word)] if word.value.eq_ignore_ascii_case("default") => None,
                    values => {
                        let words: Option<Vec<String>> = values.iter().map(word).collect();
                        Some(words?.join(", "))
                    }
                };
                let local = *scope == Some(ContextModifier::Local);
                Self::Set { name: variable.to_string(), value, local }
            }
            Set::SetTimeZone { local, value } => {
                Self::Set { name: "timezone".to_owned(), value: Some(word(value)?), local: *local }
            }
            Set::SetNames { charset_name, .. } => Self::Set {
                name: "client_encoding".to_owned(),
                value: Some(charset_name.value.clone()),
                local: false,
            },
            Set::SetRole { context_modifier: None | Some(ContextModifier::Session), role_name } => {
                Self::SetRole(role_name.as_ref().map(folded))
            }
            Set::SetSessionAuthorization(authorization) => match authorization.kind {
                SetSessionAuthorizationParamKind::Default => Self::ResetSessionAuthorization("SET"),
                SetSessionAuthorizationParamKind::User(_) => return None,
            },
            // SQLite's transactions are serializable: stricter than any asked for.
            Set::SetTransaction { .. } => Self::Nothing("SET"),
            _ => return None,
        })
    }

    pub(super) fn ends_transaction(&self) -> bool {
        matches!(self, Self::Commit | Self::Rollback | Self::RollbackTo(_))
    }

    pub(super) fn columns(&self) -> Vec<(String, Type)> {
        match self {
            Self::Show(name) => vec![(name.clone(), Type::TEXT)],
            Self::PreparedBySql => vec![("?column?".to_owned(), Type::TEXT)],
            _ => Vec::new(),
        }
    }
}

fn shown(variable: &[Ident]) -> String {
    let words: Vec<&str> = variable.iter().map(|word| word.value.as_str()).collect();
    match words.join(".").to_ascii_lowercase().as_str() {
        "transaction.isolation.level" => "transaction_isolation".to_owned(),
        "time.zone" => "timezone".to_owned(),
        name => name.to_owned(),
    }
}

fn word(expr: &Expr) -> Option<String> {
    use sqlparser::ast::Value as Literal;
    Some(match expr {
        Expr::Identifier(word) => word.value.clone(),
        Expr::Value(value) => match &value.value {
            Literal::SingleQuotedString(text) | Literal::Number(text, _) => text.clone(),
            Literal::EscapedStringLiteral(text) => text.clone(),
            Literal::Boolean(flag) => if *flag { "on" } else { "off" }.to_owned(),
            _ => return None,
        },
        Expr::UnaryOp { op: sqlparser::ast::UnaryOperator::Minus, expr } => {
            format!("-{}", word(expr)?)
        }
        Expr::CompoundIdentifier(words) => {
            let words: Vec<&str> = words.iter().map(|word| word.value.as_str()).collect();
            words.join(".")
        }
        Expr::Function(function) => last_name(&function.name),
        _ => return None,
    })
}

impl Session {
    pub(super) fn command(&mut self, command: &Command) -> Result<Outcome, SqlError> {
        Ok(match command {
            Command::Begin(tag) => {
                if self.status == Status::Idle {
                    self.sqlite.execute_batch("BEGIN")?;
                    self.status = Status::Transaction;
                    self.variables().settings.begin();
                }
                Outcome::done(tag)
            }
            Command::Commit if self.status == Status::Transaction => {
                if let Err(error) = self.sqlite.execute_batch("COMMIT") {
                    self.roll_back()?;
                    return Err(error.into());
                }
                self.end(true);
                Outcome::done("COMMIT")
            }
            Command::Commit if self.status == Status::Idle => Outcome::done("COMMIT"),
            Command::Commit | Command::Rollback => {
                self.roll_back()?;
                Outcome::done("ROLLBACK")
            }
            Command::Savepoint(name) => self.savepoint("SAVEPOINT", name, "SAVEPOINT")?,
            Command::Release(name) => self.savepoint("RELEASE", name, "RELEASE")?,
            Command::RollbackTo(name) => {
                let outcome = self.savepoint("ROLLBACK TO", name, "ROLLBACK")?;
                self.status = Status::Transaction;
                outcome
            }
            Command::Set { name, value, local } => {
                let settings = &mut self.variables().settings;
                match value {
                    Some(value) => settings.set(name, value, *local)?,
                    None => settings.reset(name)?,
                }
                Outcome::done("SET")
            }
            Command::Reset(name) => {
                self.variables().settings.reset(name)?;
                Outcome::done("RESET")
            }
            Command::ResetAll => {
                self.variables().settings.reset_all();
                Outcome::done("RESET")
            }
            // Takes the role back, too (PostgreSQL's SetSessionAuthorization).
            Command::ResetSessionAuthorization(tag) => {
                self.variables().role = None;
                Outcome::done(tag)
            }
            Command::SetRole(role) => {
                if let Some(role) = role.as_ref()
                    && self.reach.shared.directory.by_name(role).is_none()
                {
                    let message = format!("role \"{role}\" does not exist");
                    return Err(SqlError::new("22023", message));
                }
                self.variables().role.clone_from(role);
                Outcome::done("SET")
            }
            Command::Show(name) => {
                let value = self.variables().settings.get(name)?;
                Outcome { rows: vec![vec![Value::Text(value)]], ..Outcome::done("SHOW") }
            }
            Command::DiscardAll => {
                self.outside_transaction("DISCARD ALL")?;
                self.discard_temp()?;
                let pid = {
                    let mut variables = self.variables();
                    variables.role = None;
                    variables.settings.reset_all();
                    variables.sequences.clear();
                    variables.pid
                };
                self.reach.shared.waiting.unlock_all(pid);
                Outcome::done("DISCARD ALL")
            }
            Command::DiscardTemp => {
                self.discard_temp()?;
                Outcome::done("DISCARD TEMP")
            }
            Command::DiscardSequences => {
                self.variables().sequences.clear();
                Outcome::done("DISCARD SEQUENCES")
            }
            Command::Nothing(tag) => Outcome::done(tag),
            Command::PreparedBySql => Outcome::done("SELECT"),
            Command::Deallocate(None) => Outcome::done("DEALLOCATE ALL"),
            Command::Deallocate(Some(_)) => Outcome::done("DEALLOCATE"),
        })
    }

    fn savepoint(&self, what: &str, name: &str, tag: &'static str) -> Result<Outcome, SqlError> {
        if self.status == Status::Idle {
            let message = format!("{tag} can only be used in transaction blocks");
            return Err(SqlError::new("25P01", message));
        }
        let quoted = name.replace('"', "\"\"");
        self.sqlite.execute_batch(&format!("{what} \"{quoted}\"")).map_err(|error| {
            match SqlError::from(error) {
                error if error.message.starts_with("no such savepoint") => {
                    SqlError::new("3B001", format!("savepoint \"{name}\" does not exist"))
                }
                error => error,
            }
        })?;
        Ok(Outcome::done(tag))
    }

    fn roll_back(&mut self) -> Result<(), SqlError> {
        // Some errors make SQLite roll back by itself.
        if !self.sqlite.is_autocommit() {
            self.sqlite.execute_batch("ROLLBACK")?;
        }
        self.end(false);
        Ok(())
    }

    fn end(&mut self, committed: bool) {
        self.status = Status::Idle;
        self.variables().settings.end(committed);
    }

    fn outside_transaction(&self, what: &str) -> Result<(), SqlError> {
        if self.status == Status::Idle {
            return Ok(());
        }
        let message = format!("{what} cannot run inside a transaction block");
        Err(SqlError::new("25001", message))
    }

    fn discard_temp(&self) -> Result<(), SqlError> {
        let sql = "SELECT type, name FROM sqlite_temp_schema \
                   WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'";
        let mut query = self.sqlite.prepare(sql)?;
        let objects: Vec<(String, String)> = query
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (kind, name) in objects {
            let quoted = name.replace('"', "\"\"");
            self.sqlite.execute_batch(&format!("DROP {kind} IF EXISTS temp.\"{quoted}\""))?;
        }
        Ok(())
    }
}
