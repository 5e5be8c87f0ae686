use std::fmt;

use super::RetireReason;
use crate::token::TokenReport;

/// The current status of a connector. Counts start when the connector is created.
///
/// `Display` writes the counts and the last error on one line, for a log or a health page.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectorReport {
    /// Successful logins.
    pub logins: u64,
    /// Connects that failed because the login was refused, including the `damped` ones.
    pub refused: u64,
    /// Refused logins that were retried with another token.
    pub renewed: u64,
    /// Connects that returned the last refusal instead of logging in again.
    pub damped: u64,
    /// Logins that were completed for another caller, after their own caller gave up.
    pub adopted: u64,
    /// Retries after a transient error. One connect may retry several times.
    pub retried: u64,
    /// The error of the last attempt to connect, with its causes. `None` if the last attempt
    /// succeeded. It is set before the connect itself fails, because transient errors are retried.
    pub last_error: Option<String>,
    /// Connections that were retired, by reason. Contains only reasons that occurred.
    pub retired: Vec<(RetireReason, u64)>,
    /// The status of the tokens.
    pub token: TokenReport,
}

impl fmt::Display for ConnectorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { logins, refused, renewed, damped, adopted, retried, .. } = self;
        write!(f, "logins={logins} refused={refused} renewed={renewed} damped={damped} ")?;
        write!(f, "adopted={adopted} retried={retried}")?;
        for (reason, count) in &self.retired {
            write!(f, " retired.{}={count}", reason.label())?;
        }
        match &self.last_error {
            Some(error) => write!(f, " last_error={error:?}"),
            None => Ok(()),
        }
    }
}
