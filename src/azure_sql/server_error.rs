use std::{error::Error, fmt};

use tiberius::error::Error as DriverError;

use super::{
    LoginRefused,
    error::{self, LOGIN_FAILED},
};
use crate::{connect::SentTokens, token::debug_as_text};

/// An error that the server returned during a login. If the server returned several errors, this is
/// the most useful one, and its [`source`](std::error::Error::source) is the next one.
///
/// The server has just received the token and may repeat it. Therefore, the message is reduced to
/// one line of at most 400 characters, without control characters, and parts of the token are
/// replaced by `[redacted]`. Errors of queries come from the driver and are not filtered.
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
    /// Parses an ERROR token (MS-TDS 2.2.7.10) that starts with the error's number. Returns `None`
    /// if it is truncated.
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
        let mut all: Vec<_> = errors.take(MAX_ERRORS).collect();
        all.sort_by_key(|error| error::rank(error.code));
        let chain = |next, error| Some(Self { next: Option::map(next, Box::new), ..error });
        all.into_iter().rev().fold(None, chain)
    }

    /// Whether the server refused the identity and returned none of the known errors.
    pub(crate) fn is_refusal(&self) -> bool {
        error::known(self.code).is_none() && self.each().any(|error| error.code == LOGIN_FAILED)
    }

    /// Iterates over this error and the other errors of the login.
    pub(super) fn each(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |error| error.next.as_deref())
    }

    /// Returns the error's number.
    #[must_use]
    pub fn code(&self) -> u32 {
        self.code
    }

    /// Returns the error's state, which distinguishes different causes of the same number.
    #[must_use]
    pub fn state(&self) -> u8 {
        self.state
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The maximum number of server errors that a login's error contains.
const MAX_ERRORS: usize = 8;

/// Returns the same error if its text is safe to be shown, otherwise a safe excerpt. The names in a
/// certificate are text of the server, which may have received the tokens that were `sent`.
pub(super) fn redacted(error: rustls::Error, sent: &SentTokens) -> rustls::Error {
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
    /// Creates an error without any of the tokens that were `sent`. A routing is not changed.
    /// `errors` are all errors of the server. `error` contains only the first one.
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
