use crate::{
    cloud,
    pasted::{Mistake, is_same},
    token::Scope,
};

/// Why a configuration is refused. No variant contains a value that may be a secret.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The connection string does not parse, or it has an unknown keyword.
    #[error("{problem}")]
    #[non_exhaustive]
    Syntax {
        /// What is wrong, and where. Never contains a value, because it may be a misplaced secret.
        problem: String,
    },
    /// A keyword that occurs twice.
    #[error("'{keyword}' is given twice")]
    #[non_exhaustive]
    Duplicate {
        /// The second occurrence, as written.
        keyword: String,
    },
    /// Two settings that exclude each other, or two names for one setting.
    #[error("'{first}' and '{second}' exclude each other: keep one of them")]
    #[non_exhaustive]
    Conflict {
        /// The keyword as written; with its value if both are names for one setting (`Timeout=30`).
        first: String,
        /// As `first`.
        second: String,
    },
    /// A value that the keyword does not accept, or a keyword that is not accepted.
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
        /// The scope from the string or its host.
        wanted: Scope,
        /// The scope of the tokens.
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
    /// `problem` must not contain a value.
    pub(super) fn url(problem: &str) -> Self {
        Self::Syntax { problem: format!("the connection URL {problem}") }
    }

    pub(crate) fn value(keyword: &str, problem: impl Into<String>) -> Self {
        Self::Value { keyword: keyword.to_owned(), problem: problem.into() }
    }
}
