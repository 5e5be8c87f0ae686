use crate::{
    cloud,
    pasted::{Mistake, is_same},
    token::Scope,
};

/// The error of a configuration that is refused. No variant contains a value that may be a secret.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The connection string cannot be parsed, or it has an unknown keyword.
    #[error("{problem}")]
    #[non_exhaustive]
    Syntax {
        /// What is wrong, and where. Never contains a value, which may be a misplaced secret.
        problem: String,
    },
    /// A keyword occurs twice.
    #[error("'{keyword}' is given twice")]
    #[non_exhaustive]
    Duplicate {
        /// The keyword of the second occurrence, as written.
        keyword: String,
    },
    /// Two settings exclude each other, or two keywords set the same setting.
    #[error("'{first}' and '{second}' exclude each other: keep one of them")]
    #[non_exhaustive]
    Conflict {
        /// A keyword as written, with its value if both set the same setting (`Timeout=30`).
        first: String,
        /// The other keyword, like `first`.
        second: String,
    },
    /// A keyword does not accept its value, or the keyword is not supported.
    #[error("'{keyword}' {problem}")]
    #[non_exhaustive]
    Value {
        /// The keyword, as written.
        keyword: String,
        /// What is wrong, and what to write instead.
        problem: String,
    },
    /// The host does not belong to an Azure cloud, so the token scope is unknown.
    #[error(
        "'{host}' is not an Azure SQL host name, so the token scope is unknown: {}",
        cloud::azure_sql_advice(.host)
    )]
    #[non_exhaustive]
    UnknownHost {
        /// The host, as written.
        host: String,
    },
    /// The string selects an identity, but the identity is passed as an argument.
    #[error(
        "'{keyword}' names an identity, but the identity is passed as an argument: remove it, or use azure_sql::pool, connector or Config::parse_with_credential, which read it"
    )]
    #[non_exhaustive]
    ConflictingIdentity {
        /// `Authentication` or `User Id`.
        keyword: &'static str,
    },
    /// The tokens that were passed have another scope.
    #[error("this server needs tokens for {wanted}, but those passed are for {tokens}")]
    #[non_exhaustive]
    ScopeMismatch {
        /// The configured scope, or the scope of the host.
        wanted: Scope,
        /// The scope of the tokens that were passed.
        tokens: Scope,
    },
}

crate::token::debug_as_text!(ConfigError);

impl From<Mistake> for ConfigError {
    fn from(mistake: Mistake) -> Self {
        match mistake {
            Mistake::Syntax(problem) => {
                Self::Syntax { problem: format!("the connection string {problem}") }
            }
            Mistake::Twice(first, keyword) if is_same(&first, &keyword) => {
                Self::Duplicate { keyword }
            }
            Mistake::Twice(first, second) => Self::Conflict { first, second },
            Mistake::Value(keyword, problem) => Self::Value { keyword, problem },
        }
    }
}

impl ConfigError {
    /// Creates the error of a connection URL. `problem` must not contain a value.
    pub(super) fn url(problem: &str) -> Self {
        Self::Syntax { problem: format!("the connection URL {problem}") }
    }

    pub(crate) fn value(keyword: &str, problem: impl Into<String>) -> Self {
        Self::Value { keyword: keyword.to_owned(), problem: problem.into() }
    }
}
