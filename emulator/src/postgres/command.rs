//! Statements that concern the session and its transaction, not the data.

use sqlparser::ast::{Expr, Set, Statement, Value};

use super::error::SqlError;

/// A statement that SQLite does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Begin,
    Commit,
    Rollback,
    /// Has no effect here.
    Nothing,
}

/// In upper case, and their tags.
const COMMANDS: [(&str, Command, &str); 11] = [
    ("BEGIN", Command::Begin, "BEGIN"),
    ("START TRANSACTION", Command::Begin, "START TRANSACTION"),
    ("COMMIT", Command::Commit, "COMMIT"),
    ("ROLLBACK", Command::Rollback, "ROLLBACK"),
    // They reset parts of a session that do not exist here.
    ("CLOSE ALL", Command::Nothing, "CLOSE CURSOR ALL"),
    ("SET SESSION AUTHORIZATION DEFAULT", Command::Nothing, "SET"),
    ("RESET ROLE", Command::Nothing, "RESET"),
    ("RESET ALL", Command::Nothing, "RESET"),
    ("UNLISTEN *", Command::Nothing, "UNLISTEN"),
    ("DISCARD TEMP", Command::Nothing, "DISCARD TEMP"),
    ("DISCARD SEQUENCES", Command::Nothing, "DISCARD SEQUENCES"),
];

/// The settings that clients change, and the values that match this engine's behaviour. A
/// setting without a list accepts every value, because no value changes an answer here.
const SETTINGS: [(&str, &[&str]); 10] = [
    ("application_name", &[]),
    ("client_encoding", &["utf8"]),
    ("client_min_messages", &[]),
    ("datestyle", &["iso,mdy"]),
    // More digits than the shortest exact ones are never printed.
    ("extra_float_digits", &["1", "2", "3"]),
    ("standard_conforming_strings", &["on"]),
    ("tcp_keepalives_count", &[]),
    ("tcp_keepalives_idle", &[]),
    ("tcp_keepalives_interval", &[]),
    ("timezone", &["utc"]),
];

/// Refuses a setting that would have to change an answer.
pub(super) fn check_setting(name: &str, value: &str) -> Result<(), SqlError> {
    let name = name.to_ascii_lowercase();
    let value = value.replace(['-', ' '], "").to_ascii_lowercase();
    let known = SETTINGS.iter().find(|(known, _)| *known == name);
    match known {
        Some((_, only)) if only.is_empty() || only.contains(&value.as_str()) => Ok(()),
        _ => Err(SqlError::unsupported(format!("{name} = {value}"))),
    }
}

/// The command and its tag; `None` for a statement that SQLite runs.
pub(super) fn read(statement: &Statement) -> Result<Option<(Command, &'static str)>, SqlError> {
    let (name, value) = match statement {
        Statement::Query(_)
        | Statement::Insert(_)
        | Statement::CreateTable(_)
        | Statement::CreateIndex(_) => return Ok(None),
        Statement::Set(Set::SingleAssignment { scope: None, hivevar: false, variable, values }) => {
            let values: Option<Vec<&str>> = values.iter().map(word).collect();
            (variable.to_string(), values.map(|values| values.join(",")))
        }
        Statement::Set(Set::SetTimeZone { local: false, value }) => {
            ("timezone".to_owned(), word(value).map(str::to_owned))
        }
        other => {
            let text = other.to_string();
            let command = COMMANDS.iter().find(|(it, ..)| it.eq_ignore_ascii_case(&text));
            let (_, command, tag) = command.ok_or_else(|| SqlError::unsupported(text))?;
            return Ok(Some((*command, tag)));
        }
    };
    let value = value.ok_or_else(|| SqlError::unsupported(statement.to_string()))?;
    check_setting(&name, &value)?;
    Ok(Some((Command::Nothing, "SET")))
}

fn word(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Identifier(word) => Some(&word.value),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::Number(text, _) => Some(text),
            _ => None,
        },
        _ => None,
    }
}
