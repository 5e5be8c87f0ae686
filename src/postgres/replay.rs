//! Creates errors of tokio-postgres.
//!
//! [`deadpool_postgres::Connect`] must return a [`tokio_postgres::Error`], which has no public
//! constructor. Therefore, tokio-postgres reads from memory a response that causes the intended
//! error. This needs no socket and never waits.

use std::io::{self, Cursor};

use futures_util::{FutureExt, stream};
use tokio::{io::AsyncRead, task::unconstrained};
use tokio_postgres::{
    Client, NoTls,
    config::SslMode,
    error::{DbError, ErrorPosition},
};
use tokio_util::io::StreamReader;

use super::{Error, error::io_kind};
use crate::{connect::SentTokens, token::with_causes};

/// Wraps `error` in a driver's error, in which [`Error::within`] finds it.
pub(super) fn wrapped(error: Error) -> tokio_postgres::Error {
    from_io(io::Error::other(error))
}

/// Returns an error whose source is `error`.
pub(super) fn from_io(error: io::Error) -> tokio_postgres::Error {
    play(Err(error))
}

/// Encodes the server's error, to be [replayed](play).
pub(super) fn record(error: &DbError) -> Vec<u8> {
    error_response(error, &str::to_owned)
}

/// Returns the error without any of the tokens that were `sent`: each of its texts becomes an
/// [`excerpt`](SentTokens::excerpt).
pub(super) fn redacted(error: tokio_postgres::Error, sent: &SentTokens) -> tokio_postgres::Error {
    if let Some(server) = error.as_db_error() {
        return play(Ok(error_response(server, &|text| sent.excerpt(text))));
    }
    let (said, shown) = (with_causes(&error), sent.excerpt_of(&error));
    if said == shown {
        return error;
    }
    let closed = error.is_closed().then_some(io::ErrorKind::UnexpectedEof);
    let kind = io_kind(&error).or(closed).unwrap_or(io::ErrorKind::Other);
    let shown = shown.strip_prefix("error communicating with the server: ").unwrap_or(&shown);
    from_io(io::Error::new(kind, shown))
}

/// Returns a client whose connection is closed.
pub(super) fn closed_client() -> Option<Client> {
    // `AuthenticationOk` and `ReadyForQuery`.
    let answers = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I".as_slice();
    connect_raw(answers).ok()
}

/// Returns the error of a login whose response is `answer`: an error response, or an I/O error.
pub(super) fn play(answer: io::Result<Vec<u8>>) -> tokio_postgres::Error {
    let answers = StreamReader::new(stream::iter([answer.map(Cursor::new)]));
    match connect_raw(answers) {
        Err(error) => error,
        Ok(_) => unreachable!("no answer completes a login"),
    }
}

/// Logs in to a server in memory that sends these responses.
fn connect_raw(answers: impl AsyncRead + Unpin) -> Result<Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.user("").ssl_mode(SslMode::Disable);
    let stream = tokio::io::join(answers, tokio::io::sink());
    match unconstrained(config.connect_raw(stream, NoTls)).now_or_never() {
        Some(connected) => connected.map(|(client, _)| client),
        None => unreachable!("reading from memory and writing to a sink never wait"),
    }
}

/// Encodes an `ErrorResponse` (PostgreSQL documentation, "Message Formats" and "Error and Notice
/// Message Fields"), with its texts converted by `redacted`. A SQLSTATE has five letters or digits.
fn error_response(error: &DbError, redacted: &dyn Fn(&str) -> String) -> Vec<u8> {
    let (position, inner) = match error.position() {
        None => (None, None),
        Some(ErrorPosition::Original(at)) => (Some(at.to_string()), None),
        Some(ErrorPosition::Internal { position, query }) => {
            (None, Some((position.to_string(), query.as_str())))
        }
    };
    let line = error.line().map(|line| line.to_string());
    let severity = error.parsed_severity().map(|severity| severity.to_string());
    let code: String =
        error.code().code().chars().filter(char::is_ascii_alphanumeric).take(5).collect();
    let fields = [
        (b'S', Some(error.severity())),
        (b'V', severity.as_deref()),
        (b'C', Some(code.as_str())),
        (b'M', Some(error.message())),
        (b'D', error.detail()),
        (b'H', error.hint()),
        (b'P', position.as_deref()),
        (b'p', inner.as_ref().map(|(at, _)| at.as_str())),
        (b'q', inner.as_ref().map(|(_, query)| *query)),
        (b'W', error.where_()),
        (b's', error.schema()),
        (b't', error.table()),
        (b'c', error.column()),
        (b'd', error.datatype()),
        (b'n', error.constraint()),
        (b'F', error.file()),
        (b'L', line.as_deref()),
        (b'R', error.routine()),
    ];
    response_of(fields.iter().filter_map(|(kind, value)| Some((*kind, redacted((*value)?)))))
}

/// Encodes an `ErrorResponse` with these fields.
fn response_of(fields: impl Iterator<Item = (u8, String)>) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in fields {
        body.push(kind);
        // A zero terminates the field.
        body.extend(value.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [b"E".as_slice(), &length.to_be_bytes(), &body].concat()
}

/// Returns an error as a server would send it, from its fields' kinds and values.
pub(super) fn server_error(fields: &[(u8, &str)]) -> tokio_postgres::Error {
    play(Ok(response_of(fields.iter().map(|(kind, value)| (*kind, (*value).to_owned())))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_error_keeps_every_field() {
        let every = [
            (b'S', "FATALE"),
            (b'V', "FATAL"),
            (b'C', "28P01"),
            (b'M', "password authentication failed for user \"ü\""),
            (b'D', "detail"),
            (b'H', "Ask."),
            (b'p', "3"),
            (b'q', "select"),
            (b'W', "where"),
            (b's', "schema"),
            (b't', "table"),
            (b'c', "column"),
            (b'd', "type"),
            (b'n', "constraint"),
            (b'F', "auth.c"),
            (b'L', "326"),
            (b'R', "auth_failed"),
        ];
        let error = server_error(&every);
        let before = error.as_db_error().unwrap();
        let repeated = play(Ok(record(before)));
        assert_eq!(repeated.as_db_error(), Some(before));
        let sent = SentTokens::default();
        let shown = redacted(repeated, &sent);
        assert_eq!(shown.as_db_error(), Some(before));
        let long = server_error(&[(b'S', "FATAL"), (b'C', "28P01"), (b'M', &"x".repeat(100_000))]);
        assert_eq!(long.as_db_error().unwrap().message().len(), 100_000);
    }

    #[test]
    fn this_crates_error_is_found_inside_the_drivers_error() {
        let error = wrapped(Error::NoUser { principal: "shop".into() });
        assert!(matches!(Error::within(&error), Some(Error::NoUser { .. })));
        let text = format!("{:?}", std::error::Error::source(&error).unwrap().to_string());
        assert!(text.contains("shop"), "{text}");
        let error = deadpool_postgres::PoolError::Backend(error);
        assert!(matches!(Error::from(error), Error::NoUser { .. }));
    }
}
