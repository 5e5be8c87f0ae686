use crate::{
    cloud,
    pasted::{Mistake, is_same},
    token::{InvalidScope, Scope},
};

/// An error in a [`Config`](super::Config). It names the keyword, but never contains a secret.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The connection string does not parse, has an unknown keyword, or is ambiguous.
    #[error("the PostgreSQL connection string {problem}")]
    #[non_exhaustive]
    Syntax {
        /// The rest of the sentence: what is wrong, and what to do. Never contains a value, because
        /// it may be a password.
        problem: String,
    },
    /// A keyword occurs twice.
    #[error("{keyword} is given twice")]
    #[non_exhaustive]
    Duplicate {
        /// The keyword.
        keyword: String,
    },
    /// The keyword does not accept its value, or a required keyword is missing.
    #[error("{keyword} {problem}")]
    #[non_exhaustive]
    Value {
        /// The keyword.
        keyword: String,
        /// The rest of the sentence: what is wrong, and what to do.
        problem: String,
    },
    /// The host does not belong to an Azure cloud, so the token scope is unknown.
    #[error(
        "{host} is not a host name of Azure Database for PostgreSQL, so the token scope is unknown: {}",
        cloud::postgresql_advice(.host)
    )]
    #[non_exhaustive]
    UnknownHost {
        /// The host, as written.
        host: String,
    },
    /// The string selects an identity, but the identity is passed as an argument.
    #[error(
        "{keyword} names an identity, but the identity is passed as an argument: remove it, or use postgres::pool, connector or Config::parse_with_credential, which read it"
    )]
    #[non_exhaustive]
    ConflictingIdentity {
        /// `entra_client_id`.
        keyword: &'static str,
    },
    /// `entra_scope` is not a scope.
    #[error("entra_scope is not a valid scope")]
    Scope(#[from] InvalidScope),
    /// The token cache that was passed is for another scope.
    #[error("this server needs tokens for {wanted}, but those passed are for {tokens}")]
    #[non_exhaustive]
    ScopeMismatch {
        /// The scope from the hosts or from `entra_scope`.
        wanted: Scope,
        /// The scope of the tokens.
        tokens: Scope,
    },
}

crate::token::debug_as_text!(ConfigError);

impl From<Mistake> for ConfigError {
    fn from(mistake: Mistake) -> Self {
        match mistake {
            Mistake::Syntax(problem) => Self::Syntax { problem },
            Mistake::Twice(first, keyword) if is_same(&first, &keyword) => {
                Self::Duplicate { keyword }
            }
            Mistake::Twice(first, second) => {
                Self::value(&first, format!("and {second} are the same setting: keep one of them"))
            }
            Mistake::Value(keyword, problem) => Self::Value { keyword, problem },
        }
    }
}

impl ConfigError {
    /// Returns a syntax error. `problem` must not contain a value.
    pub(super) fn syntax(problem: impl Into<String>) -> Self {
        Self::Syntax { problem: format!("cannot be read: {}", problem.into()) }
    }

    pub(crate) fn value(keyword: &str, problem: impl Into<String>) -> Self {
        Self::Value { keyword: keyword.to_owned(), problem: problem.into() }
    }

    /// Returns an error for the first problem whose condition is true.
    pub(super) fn refuse(problems: &[(bool, &str, &str)]) -> Result<(), Self> {
        match problems.iter().find(|(is_so, ..)| *is_so) {
            Some((_, keyword, problem)) => Err(Self::value(keyword, *problem)),
            None => Ok(()),
        }
    }

    pub(super) fn password() -> Self {
        Self::value("password", "must be removed: the token replaces it")
    }

    pub(super) fn ssl_mode(mode: &str) -> Self {
        // A value that is not a single word may contain a password.
        let is_word = mode.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
        let shown = if is_word { mode } else { "not known" };
        Self::value(
            "sslmode",
            format!(
                "is {shown}, which could send the token unencrypted: use sslmode=verify-full, or leave it out"
            ),
        )
    }
}
