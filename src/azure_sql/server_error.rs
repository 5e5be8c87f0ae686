use tiberius::error::Error as DriverError;

use crate::connect::Sent;

/// The server's own error of a login.
///
/// The server has just seen the token. So its message is on one line and cut to 400
/// characters, without control characters, and parts of the token are `[redacted]`.
/// Errors of queries come from the driver and are not filtered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (error {code}, state {state})")]
pub struct ServerError {
    code: u32,
    state: u8,
    class: u8,
    message: String,
}

impl ServerError {
    /// The error's number.
    #[must_use]
    pub fn code(&self) -> u32 {
        self.code
    }

    /// The state, which identifies the place in the server that raised the error.
    #[must_use]
    pub fn state(&self) -> u8 {
        self.state
    }

    /// The class (severity).
    #[must_use]
    pub fn class(&self) -> u8 {
        self.class
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The same error, if its text is fit to be shown: the names in a certificate are its
/// owner's text, who may have seen the tokens that were `sent`.
pub(super) fn fit(error: rustls::Error, sent: &Sent) -> rustls::Error {
    match sent.excerpt_of(&error) {
        text if text == error.to_string() => error,
        text => rustls::Error::General(text),
    }
}

/// Why a login failed: the source of [`Error::Login`](super::Error::Login).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The server returned an error.
    #[error(transparent)]
    Server(ServerError),
    /// The connection failed, or the driver could not parse the response.
    #[error(transparent)]
    Driver(DriverError),
}

impl LoginError {
    /// Without what must not be shown of the tokens that were `sent`. Where a login is routed
    /// stays as it is.
    pub(super) fn new(error: DriverError, sent: &Sent) -> Self {
        Self::Driver(match error {
            DriverError::Server(error) => {
                return Self::Server(ServerError {
                    code: error.code(),
                    state: error.state(),
                    class: error.class(),
                    message: sent.excerpt(error.message()),
                });
            }
            DriverError::Io { kind, message } => {
                DriverError::Io { kind, message: sent.excerpt(&message) }
            }
            DriverError::Routing { .. } => error,
            error => match sent.excerpt_of(&error) {
                text if text == error.to_string() => error,
                text => DriverError::Protocol(text.into()),
            },
        })
    }
}
