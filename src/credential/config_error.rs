use super::managed_identity::ManagedIdentityHost;

/// The error for invalid settings of a credential. No request was sent.
///
/// The message names the setting and what to do. It never contains a value that may be a secret.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct ConfigError(#[from] pub(super) Problem);

/// The problem of the settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// The value of a setting is invalid.
    #[error("{setting} must be {expected}")]
    Invalid {
        /// The environment variable or the builder's method.
        setting: &'static str,
        /// The valid values, as the end of a sentence.
        expected: &'static str,
    },
    /// Another setting or a credential requires a setting that is missing.
    #[error("{setting} is not set, but {needed_by} needs it")]
    Missing {
        /// The environment variable.
        setting: &'static str,
        /// The setting or credential that requires it.
        needed_by: &'static str,
    },
    /// Two settings exclude each other.
    #[error("{first} and {second} are both set: unset one of them")]
    Conflict {
        /// The first setting.
        first: &'static str,
        /// The second setting.
        second: &'static str,
    },
    /// `AZURE_TOKEN_CREDENTIALS` names an unknown credential.
    #[error("AZURE_TOKEN_CREDENTIALS is {value:?}; it must be one of {}", super::default::ALLOWED)]
    UnknownCredential {
        /// The value of the variable.
        value: String,
    },
    /// The host would ignore the selector of a user-assigned identity and return a token of
    /// another identity.
    #[error("{setting} selects an identity by its {selector}, which {host} would ignore: {advice}")]
    IgnoredSelector {
        /// The environment variable or the builder's method.
        setting: &'static str,
        /// The kind of ID: client ID, object ID, resource ID.
        selector: &'static str,
        /// The host that this program runs on.
        host: ManagedIdentityHost,
        /// What to do.
        advice: &'static str,
    },
    /// The connection string names an identity, but another setting allows only credentials of
    /// other identities.
    #[error(
        "{selection} allows only {allowed}, but {setting} names {id}: remove {setting}, or change {selection}"
    )]
    OtherIdentity {
        /// The setting that allows only these credentials: `AZURE_TOKEN_CREDENTIALS`.
        selection: &'static str,
        /// The identities that these credentials log in as.
        allowed: String,
        /// The setting that names the identity: `User Id` or `entra_client_id`.
        setting: &'static str,
        /// The identity.
        id: String,
    },
    /// The environment selects a credential that was not compiled in.
    #[error("{setting} is set, but {credential} needs entra-pool's feature `{feature}`")]
    FeatureDisabled {
        /// The environment variable.
        setting: &'static str,
        /// The credential that it selects.
        credential: &'static str,
        /// The feature of this crate.
        feature: &'static str,
    },
    /// TLS for an `https://` endpoint cannot be set up, most likely because the machine has no
    /// root certificates.
    #[error("cannot set up TLS for the managed identity endpoint")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

crate::token::debug_as_text!(ConfigError);

impl ConfigError {
    pub(super) fn invalid(setting: &'static str, expected: &'static str) -> Self {
        Problem::Invalid { setting, expected }.into()
    }

    /// Returns an error if the value is invalid.
    pub(super) fn unless(
        is_valid: bool,
        setting: &'static str,
        expected: &'static str,
    ) -> Result<(), Self> {
        if is_valid { Ok(()) } else { Err(Self::invalid(setting, expected)) }
    }
}

/// Returns whether the text consists of letters, digits and `others`, and cannot be mistaken for an
/// option of a command.
pub(super) fn is_word(text: &str, others: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

pub(super) fn check_tenant(setting: &'static str, tenant: &str) -> Result<(), ConfigError> {
    let expected = "a tenant's ID or domain: letters, digits and . -, not starting with -";
    ConfigError::unless(is_word(tenant, ".-"), setting, expected)
}
