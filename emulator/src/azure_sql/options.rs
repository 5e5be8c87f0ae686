//! SET options.

use std::time::Duration;

use super::{error::ServerError, session::Session};

/// SET options; `Default` has those of a new login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) no_count: bool,
    pub(crate) no_exec: bool,
    pub(crate) xact_abort: bool,
    pub(crate) lock_timeout: i64,
    pub(crate) language: String,
    pub(crate) isolation: u8,
}

pub(crate) const READ_COMMITTED: u8 = 2;

impl Default for Options {
    fn default() -> Self {
        Self {
            no_count: false,
            no_exec: false,
            xact_abort: false,
            lock_timeout: -1,
            language: "us_english".to_owned(),
            isolation: READ_COMMITTED,
        }
    }
}

/// SQL Server waits for a lock without a limit.
const LONGEST_LOCK_WAIT: Duration = Duration::from_secs(5);

impl Session {
    pub(crate) fn apply_lock_timeout(&self) -> Result<(), ServerError> {
        let timeout = match u64::try_from(self.options.lock_timeout) {
            Ok(milliseconds) => Duration::from_millis(milliseconds).min(LONGEST_LOCK_WAIT),
            Err(_) => LONGEST_LOCK_WAIT,
        };
        Ok(self.connection.busy_timeout(timeout)?)
    }

    /// Sets one option. Options without an effect here are also accepted.
    pub(crate) fn set_option(&mut self, option: &str, value: &str) -> Result<(), ServerError> {
        let invalid = || ServerError::unsupported(format_args!("SET {option} {value}"));
        let switch = || match value.to_ascii_uppercase().as_str() {
            "ON" => Ok(true),
            "OFF" => Ok(false),
            _ => Err(invalid()),
        };
        match option {
            "NOCOUNT" => self.options.no_count = switch()?,
            "NOEXEC" => self.options.no_exec = switch()?,
            "XACT_ABORT" => self.options.xact_abort = switch()?,
            "LOCK_TIMEOUT" => {
                self.options.lock_timeout = value.parse().map_err(|_| invalid())?;
                self.apply_lock_timeout()?;
            }
            "LANGUAGE" => value.clone_into(&mut self.options.language),
            // On in every session. Turned off, they would change the results of statements.
            "ANSI_NULLS"
            | "ANSI_PADDING"
            | "ANSI_WARNINGS"
            | "ANSI_NULL_DFLT_ON"
            | "CONCAT_NULL_YIELDS_NULL"
            | "QUOTED_IDENTIFIER"
                if switch()? => {}
            "DATEFORMAT" if value.eq_ignore_ascii_case("mdy") => {}
            "ROWCOUNT" if value == "0" => {}
            // Nothing that the emulator supports depends on them.
            "ARITHABORT" | "CURSOR_CLOSE_ON_COMMIT" => drop(switch()?),
            "TEXTSIZE" | "DATEFIRST" => drop(value.parse::<i64>().map_err(|_| invalid())?),
            "DEADLOCK_PRIORITY" => {}
            // Turned on, they would change the effects of statements.
            "IMPLICIT_TRANSACTIONS" | "FMTONLY" | "PARSEONLY" | "NUMERIC_ROUNDABORT"
                if !switch()? => {}
            _ => return Err(invalid()),
        }
        Ok(())
    }
}
