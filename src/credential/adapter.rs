//! Adapters between this crate's `TokenCredential` and that of `azure_core`, in both directions.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use azure_core::{
    credentials::{AccessToken, TokenCredential as AzureCredential, TokenRequestOptions},
    error::{Error as AzureError, ErrorKind},
};

use zeroize::Zeroizing;

use super::{AzureCli, AzureDeveloperCli, Chain, ManagedIdentity};
use crate::{
    excerpt::{excerpt, excerpt_of},
    token::{
        CredentialError,
        CredentialErrorKind::{Refused, Transient},
        Identity, Reason, Scope, Token, TokenCredential, TokenRequest,
    },
};

/// An adapter for a credential from the Azure SDK for Rust (`azure_core`), such as those in
/// `azure_identity`. Created by [`from_azure_core`](super::from_azure_core) or
/// [`from_azure_core_factory`](super::from_azure_core_factory).
///
/// The errors of these credentials do not distinguish 'unavailable' from 'refused', so a
/// [`Chain`](super::Chain) never skips them.
pub struct AzureCoreCredential {
    name: String,
    /// The authority that the credential requests tokens from, if that is known.
    authority: Option<String>,
    factory: Factory,
    /// The last credential that the factory created.
    last: Mutex<Option<Arc<dyn AzureCredential>>>,
    proof: Proof,
}

/// The secret or assertion that proves an application's identity. It is passed to
/// `azure_identity` and removed from the errors that `azure_identity` returns. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Proof(Arc<Mutex<Zeroizing<String>>>);

#[cfg(feature = "azure-identity")]
impl Proof {
    pub(super) fn of(secret: &str) -> Self {
        let proof = Self::default();
        proof.set(secret);
        proof
    }

    pub(super) fn set(&self, secret: &str) {
        let secret = Zeroizing::new(secret.to_owned());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = secret;
    }

    /// Returns a copy for `azure_identity`, which does not overwrite it in memory.
    pub(super) fn secret(&self) -> azure_core::credentials::Secret {
        azure_core::credentials::Secret::new(String::clone(&self.reveal()))
    }
}

impl Proof {
    fn reveal(&self) -> Zeroizing<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Creates the inner credential.
pub(super) type Factory =
    Box<dyn Fn() -> azure_core::Result<Arc<dyn AzureCredential>> + Send + Sync>;

impl AzureCoreCredential {
    pub(super) fn new(
        name: String,
        authority: Option<String>,
        proof: Proof,
        factory: Factory,
    ) -> Self {
        Self { name, authority, factory, last: Mutex::new(None), proof }
    }

    /// Returns the inner credential. Credentials of `azure_identity` cache a token until some
    /// minutes before it expires, so this creates a new credential when the token must be replaced.
    fn credential(&self, reason: Reason) -> azure_core::Result<Arc<dyn AzureCredential>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(credential) if reason == Reason::Missing => Ok(credential.clone()),
            _ => Ok(last.insert((self.factory)()?).clone()),
        }
    }
}

#[async_trait]
impl TokenCredential for AzureCoreCredential {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        let credential = self.credential(request.reason).map_err(|error| self.error(&error))?;
        let token = match credential.get_token(&[request.scope.as_str()], None).await {
            Ok(token) => token,
            Err(error) => {
                // The credential may have cached the cause of the failure, such as the old
                // content of a file.
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return Err(self.error(&error));
            }
        };
        Ok(Token::new(token.token.secret(), token.expires_on.into()))
    }
}

impl AzureCoreCredential {
    fn error(&self, mut error: &AzureError) -> CredentialError {
        let (is_transient, retry_after) = classify(error);
        let kind = if is_transient { Transient } else { Refused };
        // `azure_identity` and its HTTP pipeline wrap the cause in errors with these words.
        let around = ["Credential authentication failed.", "will not be retried", "no longer be"];
        while let Some(cause) = error.source().and_then(|cause| cause.downcast_ref::<AzureError>())
            && around.iter().any(|words| error.to_string().contains(words))
        {
            error = cause;
        }
        let proof = self.proof.reveal();
        let said = excerpt(&error.to_string(), Some(proof.as_str()));
        let failed = CredentialError::new(kind, format!("{}: {said}", self.name))
            .with_retry_after(retry_after);
        let cause = error.source();
        match cause.filter(|cause| !error.to_string().contains(&cause.to_string())) {
            // The source is text, because the `Debug` output of `azure_core`'s errors contains the
            // raw response.
            Some(cause) => failed.with_source(excerpt_of(cause, Some(proof.as_str()))),
            None => failed,
        }
    }
}

/// Returns whether the failure is transient, and the pause that the server asked for. The HTTP
/// status decides, if the error has one. Otherwise, only I/O errors are transient.
fn classify(error: &AzureError) -> (bool, Option<Duration>) {
    let first: &(dyn StdError + 'static) = error;
    let causes = std::iter::successors(Some(first), |&error| error.source());
    let mut io = false;
    for error in causes.filter_map(|cause| cause.downcast_ref::<AzureError>()) {
        match error.kind() {
            ErrorKind::HttpResponse { status, raw_response, .. } => {
                let is_transient = matches!(u16::from(*status), 408 | 410 | 429 | 500..=599);
                let retry_after = raw_response.as_ref().and_then(|response| {
                    let name = azure_core::http::headers::RETRY_AFTER;
                    response.headers().get_optional_str(&name)?.trim().parse().ok()
                });
                return (is_transient, retry_after.map(Duration::from_secs));
            }
            ErrorKind::Io | ErrorKind::Connection => io = true,
            _ => {}
        }
    }
    (io, None)
}

impl fmt::Debug for AzureCoreCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureCoreCredential")
            .field("name", &self.name)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// Requests a token from one of this crate's credentials for another Azure crate, which has its own
/// cache.
async fn serve(
    credential: &dyn TokenCredential,
    scopes: &[&str],
) -> azure_core::Result<AccessToken> {
    let request = TokenRequest::new(single_scope(scopes)?, Reason::Missing);
    let token = credential.get_token(request).await.map_err(|error| {
        let message = format!("{}: {error}", credential.name());
        AzureError::with_error(ErrorKind::Credential, error, message)
    })?;
    Ok(access_token(&token))
}

fn single_scope(scopes: &[&str]) -> azure_core::Result<Scope> {
    match scopes {
        [scope] => Scope::new(*scope).map_err(|error| azure_error(error.to_string())),
        _ => Err(azure_error(format!("exactly one scope is required, not {}", scopes.len()))),
    }
}

/// Returns an error that is not transient, unlike I/O errors.
pub(super) fn azure_error(message: String) -> AzureError {
    AzureError::with_message(ErrorKind::Credential, message)
}

fn access_token(token: &Token) -> AccessToken {
    // The latest time that azure_core supports. Converting a later one would panic.
    let year_9999 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let expires_on = token.expires_on().min(year_9999);
    AccessToken::new(token.secret().to_owned(), expires_on.into())
}

macro_rules! serves_azure_core {
    ($($credential:ty),*) => {$(
        #[async_trait]
        impl AzureCredential for $credential {
            async fn get_token(
                &self,
                scopes: &[&str],
                _: Option<TokenRequestOptions<'_>>,
            ) -> azure_core::Result<AccessToken> {
                serve(self, scopes).await
            }
        }
    )*};
}

serves_azure_core!(ManagedIdentity, AzureCli, AzureDeveloperCli, Chain);

/// Returns tokens from the caches of the identity, which its pools share.
#[async_trait]
impl AzureCredential for Identity {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let token = self.tokens(single_scope(scopes)?).token().await.map_err(|error| {
            let message = error.to_string();
            AzureError::with_error(ErrorKind::Credential, error, message)
        })?;
        Ok(access_token(&token))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use azure_core::http::{RawResponse, StatusCode, headers::Headers};

    use super::*;
    use crate::credential::{from_azure_core, from_azure_core_factory};

    /// Always returns the same token, like a cache.
    #[derive(Debug)]
    struct Caching(u64);

    #[async_trait]
    impl AzureCredential for Caching {
        async fn get_token(
            &self,
            _: &[&str],
            _: Option<TokenRequestOptions<'_>>,
        ) -> azure_core::Result<AccessToken> {
            let expiry = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
            Ok(AccessToken::new(format!("token {}", self.0), expiry.into()))
        }
    }

    async fn ask(credential: &AzureCoreCredential, reason: Reason) -> String {
        let token =
            credential.get_token(TokenRequest::new(Scope::AZURE_SQL, reason)).await.unwrap();
        token.secret().to_owned()
    }

    #[tokio::test]
    async fn an_inner_cache_does_not_return_a_rejected_token() {
        let made = AtomicU64::new(0);
        let factory = move || -> azure_core::Result<Arc<dyn AzureCredential>> {
            Ok(Arc::new(Caching(made.fetch_add(1, Ordering::Relaxed))))
        };
        let credential = from_azure_core_factory("theirs", factory);
        assert_eq!(ask(&credential, Reason::Missing).await, "token 0");
        assert_eq!(ask(&credential, Reason::Missing).await, "token 0");
        assert_eq!(ask(&credential, Reason::Rejected).await, "token 1");
        assert_eq!(ask(&credential, Reason::Missing).await, "token 1");
        assert_eq!(ask(&credential, Reason::Expiring).await, "token 2");
        assert!(!format!("{credential:?}").contains("token"));

        let given = from_azure_core("theirs", Arc::new(Caching(7)));
        assert_eq!(ask(&given, Reason::Rejected).await, "token 7");
    }

    #[test]
    fn an_expiry_after_the_year_9999_can_be_converted() {
        let never = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 39);
        let token = access_token(&Token::new("t", never));
        assert_eq!(token.expires_on.year(), 9999);
        let hour = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
        assert_eq!(SystemTime::from(access_token(&Token::new("t", hour)).expires_on), hour);
    }

    fn response(status: StatusCode, retry_after: &'static str) -> AzureError {
        let mut headers = Headers::new();
        headers.insert("retry-after", retry_after);
        let body = r#"{"error_description":"AADSTS: raw eyJraw"}"#;
        let raw_response = RawResponse::from_bytes(status, headers, body);
        let kind = ErrorKind::HttpResponse {
            status,
            error_code: None,
            raw_response: Some(Box::new(raw_response)),
        };
        let error = AzureError::with_message(kind, "AADSTS: says no");
        AzureError::with_error(ErrorKind::Credential, error, "ClientSecretCredential failed.\nSee")
    }

    #[test]
    fn the_status_in_an_error_decides_whether_it_is_transient() {
        let adapter = from_azure_core("theirs", Arc::new(Caching(0)));
        for (status, kind) in [
            (StatusCode::BadRequest, Refused),
            (StatusCode::Unauthorized, Refused),
            (StatusCode::TooManyRequests, Transient),
            (StatusCode::ServiceUnavailable, Transient),
        ] {
            let error = adapter.error(&response(status, "17"));
            assert_eq!(error.kind(), kind, "{status:?}");
            assert_eq!(error.retry_after(), Some(Duration::from_secs(17)));
            assert_eq!(error.to_string(), "theirs: ClientSecretCredential failed. See");
            assert_eq!(error.source().unwrap().to_string(), "AADSTS: says no");
            assert!(!format!("{error:?}").contains("eyJ"), "{error:?}");
        }
        let connection = AzureError::with_message(ErrorKind::Connection, "refused");
        assert_eq!(adapter.error(&connection).kind(), Transient);
        let other = AzureError::with_message(ErrorKind::Credential, "no");
        assert_eq!(adapter.error(&other).kind(), Refused);
    }
}
