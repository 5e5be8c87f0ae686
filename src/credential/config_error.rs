use super::managed_identity::ManagedIdentityHost;

/// A credential cannot be built from its settings. Nothing was requested.
///
/// The message names the setting and what to do, but never a value that may be a secret.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct ConfigError(#[from] pub(super) Problem);

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// A setting has a value that cannot be right.
    #[error("{setting} must be {expected}")]
    Invalid {
        /// The environment variable or the builder's method.
        setting: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A setting is absent that another one needs.
    #[error("{setting} is not set, but {needed_by} needs it")]
    Missing {
        /// The environment variable.
        setting: &'static str,
        /// What needs it.
        needed_by: &'static str,
    },
    /// Two settings exclude each other.
    #[error("{first} and {second} are both set: unset one of them")]
    Conflict {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// `AZURE_TOKEN_CREDENTIALS` names nothing that exists here.
    #[error("AZURE_TOKEN_CREDENTIALS is {value:?}; it must be one of {}", super::default::ALLOWED)]
    UnknownCredential {
        /// What it says.
        value: String,
    },
    /// The host would ignore the selector of a user-assigned identity, and
    /// give the token of another one.
    #[error("{setting} gives the {selector} of an identity, which {host} would ignore: {advice}")]
    IgnoredSelector {
        /// The environment variable or the builder's method.
        setting: &'static str,
        /// What is given: client ID, object ID, resource ID.
        selector: &'static str,
        /// Where this program runs.
        host: ManagedIdentityHost,
        /// What to do.
        advice: &'static str,
    },
    /// The connection string names an identity, but only credentials are allowed
    /// that log in as another one.
    #[error(
        "{selection} allows only {allowed}, but {setting} names {id}: remove {setting}, or change {selection}"
    )]
    OtherIdentity {
        /// What allows only these credentials: `AZURE_TOKEN_CREDENTIALS`.
        selection: &'static str,
        /// What these credentials log in as.
        allowed: String,
        /// What names the identity: `User Id` or `entra_client_id`.
        setting: &'static str,
        /// The identity.
        id: String,
    },
    /// The environment asks for a credential that was not compiled in.
    #[error("{setting} is set, but {credential} needs entra-pool's feature `{feature}`")]
    FeatureDisabled {
        /// The environment variable.
        setting: &'static str,
        /// What it asks for.
        credential: &'static str,
        /// The feature of this crate.
        feature: &'static str,
    },
    /// TLS for an `https://` endpoint cannot be set up, most likely because the machine has no
    /// root certificates.
    #[error("TLS for the managed identity endpoint cannot be set up")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

crate::token::debug_as_text!(ConfigError);

impl ConfigError {
    pub(super) fn invalid(setting: &'static str, expected: &'static str) -> Self {
        Problem::Invalid { setting, expected }.into()
    }

    /// An error if the value is not right.
    pub(super) fn unless(
        is_right: bool,
        setting: &'static str,
        expected: &'static str,
    ) -> Result<(), Self> {
        if is_right { Ok(()) } else { Err(Self::invalid(setting, expected)) }
    }
}

/// Whether the text has only letters, digits and these, and cannot be mistaken for an option.
pub(super) fn is_word(text: &str, others: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

pub(super) fn check_tenant(setting: &'static str, tenant: &str) -> Result<(), ConfigError> {
    let expected = "a tenant's ID or domain: letters, digits and . -, not starting with -";
    ConfigError::unless(is_word(tenant, ".-"), setting, expected)
}
