use crate::{
    cloud,
    pasted::{Mistake, is_same},
    token::Scope,
};

/// Why a configuration is refused. None shows a value that may be a secret.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The connection string does not parse, or has a keyword that is not known.
    #[error("{problem}")]
    #[non_exhaustive]
    Syntax {
        /// What is wrong, and where. Never a value: it may be a secret that got into the wrong
        /// place.
        problem: String,
    },
    /// A keyword that is given twice.
    #[error("'{keyword}' is given twice")]
    #[non_exhaustive]
    Duplicate {
        /// As written the second time.
        keyword: String,
    },
    /// Two settings of which each excludes the other, or two names of one setting.
    #[error("'{first}' and '{second}' exclude each other: keep one of them")]
    #[non_exhaustive]
    Conflict {
        /// The keyword as written, for two names of one setting with its value (`Timeout=30`).
        first: String,
        /// As `first`.
        second: String,
    },
    /// A value that the keyword does not take, or a keyword that has no place here.
    #[error("'{keyword}' {problem}")]
    #[non_exhaustive]
    Value {
        /// As written.
        keyword: String,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// The host does not belong to an Azure cloud, so the token scope is unknown.
    #[error(
        "'{host}' is not an Azure SQL host name, so the token scope is unknown: {}",
        cloud::azure_sql_advice(.host)
    )]
    #[non_exhaustive]
    UnknownHost {
        /// The host.
        host: String,
    },
    /// The string names an identity, but the identity is passed as an argument.
    #[error(
        "'{keyword}' names an identity, but the identity is passed as an argument: remove it, or use azure_sql::pool, connector or Config::parse_with_credential, which read it"
    )]
    #[non_exhaustive]
    ConflictingIdentity {
        /// `Authentication` or `User Id`.
        keyword: &'static str,
    },
    /// The tokens that were passed are for another scope.
    #[error(
        "this server wants tokens for {wanted}, but the tokens that were passed are for {tokens}"
    )]
    #[non_exhaustive]
    ScopeMismatch {
        /// What the string or its host says.
        wanted: Scope,
        /// What the tokens are for.
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
    /// `problem` must not show a value.
    pub(super) fn url(problem: &str) -> Self {
        Self::Syntax { problem: format!("the connection URL {problem}") }
    }

    pub(crate) fn value(keyword: &str, problem: impl Into<String>) -> Self {
        Self::Value { keyword: keyword.to_owned(), problem: problem.into() }
    }
}
