use std::{error::Error, fmt};

use tiberius::error::Error as DriverError;

use super::{
    LoginRefused,
    error::{self, LOGIN_FAILED},
};
use crate::{connect::SentTokens, token::debug_as_text};

/// The server's error of a login. If there are several, this is the most useful one, and the next
/// one is its [`source`](std::error::Error::source).
///
/// The server has just seen the token. Therefore its message is reduced to one line of up to 400
/// characters, without control characters, and parts of the token are `[redacted]`. Errors of
/// queries come from the driver and are not filtered.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerError {
    code: u32,
    state: u8,
    message: String,
    next: Option<Box<ServerError>>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (error {}, state {})", self.message, self.code, self.state)
    }
}

impl Error for ServerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.next.as_deref().map(|next| next as _)
    }
}

impl ServerError {
    /// Parses an error of a response (MS-TDS 2.2.7.10), from its number on. Returns `None` if it is
    /// truncated.
    fn read(error: &[u8], sent: &SentTokens) -> Option<Self> {
        let (code, error) = error.split_first_chunk()?;
        let ([state, _class, low, high], error) = error.split_first_chunk()?;
        let units = error.get(..2 * usize::from(u16::from_le_bytes([*low, *high])))?;
        let units = units.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        let message: String =
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Some(Self::new(u32::from_le_bytes(*code), *state, &message, sent))
    }

    pub(crate) fn new(code: u32, state: u8, message: &str, sent: &SentTokens) -> Self {
        Self { code, state, message: sent.excerpt(message), next: None }
    }

    /// Returns the errors of one login, the most useful one first.
    pub(crate) fn all(errors: impl Iterator<Item = Self>) -> Option<Self> {
        let mut all: Vec<_> = errors.take(MOST_ERRORS).collect();
        all.sort_by_key(|error| error::rank(error.code));
        let chain = |next, error| Some(Self { next: Option::map(next, Box::new), ..error });
        all.into_iter().rev().fold(None, chain)
    }

    /// Whether the server refused the identity, and returned no other error with specific advice.
    pub(crate) fn is_refusal(&self) -> bool {
        error::known(self.code).is_none() && self.each().any(|error| error.code == LOGIN_FAILED)
    }

    /// Iterates over this error and the others of the login.
    pub(super) fn each(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |error| error.next.as_deref())
    }

    /// The error's number.
    #[must_use]
    pub fn code(&self) -> u32 {
        self.code
    }

    /// The error's state, which distinguishes the reasons for one number.
    #[must_use]
    pub fn state(&self) -> u8 {
        self.state
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The maximum number of server errors that a login's error contains.
const MOST_ERRORS: usize = 8;

/// Returns the same error, if its text is safe to be shown: the names in a certificate are text of
/// its owner, who may have seen the tokens that were `sent`.
pub(super) fn fit(error: rustls::Error, sent: &SentTokens) -> rustls::Error {
    match sent.excerpt_of(&error) {
        text if text == error.to_string() => error,
        text => rustls::Error::General(text),
    }
}

/// Why a login failed: the source of [`Error::Login`](super::Error::Login).
#[derive(Clone, thiserror::Error)]
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
    /// Creates an error without any of the tokens that were `sent`. A routing stays as it is.
    /// `errors` are all errors of the server; the driver has the first one.
    pub(super) fn new(error: DriverError, errors: &[Vec<u8>], sent: &SentTokens) -> Self {
        let errors = errors.iter().filter_map(|error| ServerError::read(error, sent));
        if let Some(errors) = ServerError::all(errors) {
            return Self::Server(errors);
        }
        Self::Driver(match error {
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

debug_as_text!(ServerError, LoginError, LoginRefused);
