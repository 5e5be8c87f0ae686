use crate::{
    cloud,
    pasted::{Mistake, is_same},
    token::{InvalidScope, Scope},
};

/// Why there is no [`Config`](super::Config). Names the keyword, never a secret's value.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The connection string does not parse, has a keyword that is not known, or would be read
    /// otherwise than it is meant.
    #[error("the PostgreSQL connection string {problem}")]
    #[non_exhaustive]
    Syntax {
        /// The end of the sentence: what is wrong with it, and what to do. Never a value: a password
        /// may be in it.
        problem: String,
    },
    /// A keyword that is given twice.
    #[error("{keyword} is given twice")]
    #[non_exhaustive]
    Duplicate {
        /// The keyword.
        keyword: String,
    },
    /// A value that the keyword does not take, or a keyword that is missing.
    #[error("{keyword} {problem}")]
    #[non_exhaustive]
    Value {
        /// The keyword.
        keyword: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The host does not belong to an Azure cloud, so the token scope is unknown.
    #[error(
        "{host} is not a host name of Azure Database for PostgreSQL, so the token scope is unknown: {}",
        cloud::postgresql_advice(.host)
    )]
    #[non_exhaustive]
    UnknownHost {
        /// The host.
        host: String,
    },
    /// The string names an identity, but the identity is passed as an argument.
    #[error(
        "{keyword} names an identity, but the identity is passed as an argument: remove it, or use postgres::pool, connector or Config::parse_with_credential, which read it"
    )]
    #[non_exhaustive]
    ConflictingIdentity {
        /// `entra_client_id`.
        keyword: &'static str,
    },
    /// `entra_scope` is not a scope.
    #[error("entra_scope cannot be used")]
    Scope(#[from] InvalidScope),
    /// The tokens handed in are not those that the configuration wants.
    #[error("the tokens handed in are for {tokens}, but {wanted} is wanted")]
    #[non_exhaustive]
    ScopeMismatch {
        /// What the configuration wants, by its hosts or by `entra_scope`.
        wanted: Scope,
        /// What there is.
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
                Self::value(&first, format!("and {second} set the same thing: keep one of them"))
            }
            Mistake::Value(keyword, problem) => Self::Value { keyword, problem },
        }
    }
}

impl ConfigError {
    /// `problem` must not show a value.
    pub(super) fn syntax(problem: impl Into<String>) -> Self {
        Self::Syntax { problem: format!("cannot be read: {}", problem.into()) }
    }

    pub(crate) fn value(keyword: &str, problem: impl Into<String>) -> Self {
        Self::Value { keyword: keyword.to_owned(), problem: problem.into() }
    }

    /// Returns the first problem whose condition is true, with its keyword.
    pub(super) fn refuse(problems: &[(bool, &str, &str)]) -> Result<(), Self> {
        match problems.iter().find(|(is_so, ..)| *is_so) {
            Some((_, keyword, problem)) => Err(Self::value(keyword, *problem)),
            None => Ok(()),
        }
    }

    pub(super) fn password() -> Self {
        Self::value("password", "must go: the token is the password")
    }

    pub(super) fn ssl_mode(mode: &str) -> Self {
        // Other text may have a password in it.
        let is_word = mode.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
        let shown = if is_word { mode } else { "not known" };
        Self::value(
            "sslmode",
            format!(
                "is {shown}, with which the token might be sent unencrypted: use sslmode=verify-full, or leave it out"
            ),
        )
    }
}
