use std::{
    fmt::Write,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;

use super::managed_identity::warning;
use crate::token::{
    CredentialError, CredentialErrorKind::Unavailable, Token, TokenCredential, TokenRequest,
    with_causes,
};

/// A list of credentials. The first credential that returns a token is used from then on.
///
/// The chain tries its members in order. It skips a member that is
/// [unavailable](crate::token::CredentialErrorKind::Unavailable). Any other error ends the search,
/// because a wrong identity would be worse than an error. The member that returned the first token
/// is pinned: if it fails later, the chain returns its error and does not switch to another
/// identity. If all members are unavailable, the chain returns an error of the same kind that lists
/// every member with its reason. The next call tries all members again.
///
/// The chain logs once, at `info`, which member was pinned and why each member before it was
/// skipped. It also logs a warning if IMDS accepted a connection but did not respond, because the
/// pinned member is then the wrong identity if the program runs in Azure. The same applies if IMDS
/// does not know the identity of `AZURE_CLIENT_ID`.
///
/// ```
/// use std::sync::Arc;
/// use entra_pool::credential::{AzureCli, Chain, ManagedIdentity};
///
/// let chain = Chain::new(vec![
///     Arc::new(ManagedIdentity::system_assigned().probe(true).build()?),
///     Arc::new(AzureCli::new()),
/// ]);
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Chain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    members: Vec<Arc<dyn TokenCredential>>,
    pinned: OnceLock<Arc<dyn TokenCredential>>,
    /// The setting that names the identity, if it excluded members.
    identity_setting: Option<&'static str>,
}

impl Chain {
    /// Creates a chain that tries these members in order.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use entra_pool::credential::{AzureCli, Chain, ManagedIdentity};
    ///
    /// // The probe checks quickly that this is a machine in Azure.
    /// let machine = ManagedIdentity::system_assigned().probe(true).build()?;
    /// let chain = Chain::new(vec![Arc::new(machine), Arc::new(AzureCli::new())]);
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    #[must_use]
    pub fn new(members: Vec<Arc<dyn TokenCredential>>) -> Self {
        Self::for_identity(members, None)
    }

    pub(super) fn for_identity(
        members: Vec<Arc<dyn TokenCredential>>,
        identity_setting: Option<&'static str>,
    ) -> Self {
        Self(Arc::new(Inner { members, pinned: OnceLock::new(), identity_setting }))
    }
}

#[async_trait]
impl TokenCredential for Chain {
    /// Returns the name of the pinned member; before that, the names of all members.
    fn name(&self) -> String {
        if let Some(pinned) = self.0.pinned.get() {
            return pinned.name();
        }
        let names: Vec<_> = self.0.members.iter().map(TokenCredential::name).collect();
        format!("the first available of: {}", names.join(", "))
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        let mut failures = Vec::new();
        for member in &self.0.members {
            // Another call may have pinned a member in the meantime.
            if let Some(pinned) = self.0.pinned.get() {
                return pinned.get_token(request).await;
            }
            match member.get_token(request.clone()).await {
                Ok(token) => {
                    let pinned = self.0.pinned.get_or_init(|| {
                        report(&member.name(), &token, &failures);
                        member.clone()
                    });
                    if Arc::ptr_eq(pinned, member) {
                        return Ok(token);
                    }
                    return pinned.get_token(request).await;
                }
                Err(error) if error.kind() == Unavailable => {
                    failures.push((member.name(), error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(self.exhausted(&request, &failures))
    }
}

impl Chain {
    fn exhausted(
        &self,
        request: &TokenRequest,
        failures: &[(String, CredentialError)],
    ) -> CredentialError {
        let mut message = format!("no credential is available for {}:", request.scope);
        for (name, error) in failures {
            // Writing to a string does not fail.
            let _ = write!(message, "\n- {name}: {}", in_a_line(error));
        }
        let _ = match self.0.identity_setting {
            None => write!(
                message,
                "\nOn a developer's machine, run `az login` (or `azd auth login`); in Azure, give \
                 the machine or app a managed identity; elsewhere, set AZURE_TENANT_ID, \
                 AZURE_CLIENT_ID and AZURE_CLIENT_SECRET."
            ),
            Some(setting) => write!(
                message,
                "\n{setting} names the identity: in Azure, assign it to the machine or app. To log \
                 in as a developer, remove {setting}; AZURE_CLIENT_ID selects the identity in \
                 Azure and still allows a developer's login elsewhere."
            ),
        };
        CredentialError::new(Unavailable, message)
    }
}

fn report(credential: &str, token: &Token, failures: &[(String, CredentialError)]) {
    let reasons = failures.iter().map(|(name, error)| format!("{name}: {}", in_a_line(error)));
    let passed_over = reasons.collect::<Vec<_>>().join("; ");
    tracing::info!(
        credential,
        passed_over,
        "credential selected; it is kept for the lifetime of the chain"
    );
    let claims = token.claims().unwrap_or_default();
    let principal = claims.principal_name().or(claims.object_id.as_deref()).unwrap_or("unknown");
    for (instead_of, error) in failures {
        if let Some(warning) = warning(error) {
            tracing::warn!(credential, principal, instead_of, "{warning}");
        }
    }
}

fn in_a_line(error: &CredentialError) -> String {
    with_causes(error).replace(['\r', '\n'], " ")
}

/// An unavailable member of the default chain. It returns this reason as its error.
#[derive(Debug)]
pub(super) struct NotConfigured {
    pub(super) name: String,
    pub(super) reason: String,
}

#[async_trait]
impl TokenCredential for NotConfigured {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        Err(CredentialError::new(Unavailable, self.reason.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::token::{
        CredentialErrorKind::{self, Refused, Transient},
        Reason, Scope,
    };

    /// Returns the results of a list, in order. A token's secret is the name of its credential.
    #[derive(Debug)]
    struct Scripted(&'static str, Mutex<VecDeque<Option<CredentialErrorKind>>>);

    fn scripted(
        name: &'static str,
        answers: impl Into<VecDeque<Option<CredentialErrorKind>>>,
    ) -> Arc<dyn TokenCredential> {
        Arc::new(Scripted(name, Mutex::new(answers.into())))
    }

    #[async_trait]
    impl TokenCredential for Scripted {
        fn name(&self) -> String {
            self.0.into()
        }

        async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
            match self.1.lock().unwrap().pop_front().expect("a scripted answer") {
                None => Ok(Token::new(self.0, SystemTime::UNIX_EPOCH + Duration::from_secs(1))),
                Some(kind) => Err(CredentialError::new(kind, format!("{} is\n{kind:?}", self.0))
                    .with_source("its cause")),
            }
        }
    }

    async fn ask(chain: &Chain) -> Result<String, CredentialError> {
        let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
        chain.get_token(request).await.map(|token| token.secret().to_owned())
    }

    #[tokio::test]
    async fn the_first_member_that_returns_a_token_is_pinned() {
        let chain = Chain::new(vec![
            scripted("a", [Some(Unavailable)]),
            scripted("b", [None, Some(Unavailable), None]),
            scripted("c", []),
        ]);
        assert_eq!(chain.name(), "the first available of: a, b, c");
        assert_eq!(ask(&chain).await.unwrap(), "b");
        assert_eq!(chain.name(), "b");
        // While the pinned member is unavailable, no other member is used.
        assert_eq!(ask(&chain).await.unwrap_err().to_string(), "b is\nUnavailable");
        assert_eq!(ask(&chain.clone()).await.unwrap(), "b");
    }

    /// The first call returns when `gate` is opened. The second call returns at once. One of them
    /// returns a token, and the other fails.
    #[derive(Debug)]
    struct Gated {
        gate: tokio::sync::Semaphore,
        first_has_a_token: bool,
        calls: AtomicUsize,
    }

    #[async_trait]
    impl TokenCredential for Gated {
        fn name(&self) -> String {
            "a".into()
        }

        async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
            let call = self.calls.fetch_add(1, Relaxed);
            if call == 0 {
                self.gate.acquire().await.unwrap().forget();
            }
            if (call == 0) != self.first_has_a_token {
                return Err(CredentialError::new(Unavailable, "a is unavailable"));
            }
            Ok(Token::new("a", SystemTime::UNIX_EPOCH + Duration::from_secs(1)))
        }
    }

    #[tokio::test]
    async fn calls_at_the_same_time_get_the_same_identity() {
        for first_has_a_token in [false, true] {
            let gate = tokio::sync::Semaphore::new(0);
            let a = Arc::new(Gated { gate, first_has_a_token, calls: AtomicUsize::new(0) });
            let b = if first_has_a_token { vec![None, None] } else { vec![] };
            let chain = Chain::new(vec![a.clone(), scripted("b", b)]);
            let second = async {
                let token = ask(&chain).await;
                a.gate.add_permits(1);
                token.unwrap()
            };
            let (first, second) = tokio::join!(ask(&chain), second);
            let pinned = chain.name();
            assert_eq!((first.unwrap(), second), (pinned.clone(), pinned));
        }
    }

    #[tokio::test]
    async fn an_available_member_that_fails_ends_the_search() {
        for kind in [Refused, Transient] {
            let chain = Chain::new(vec![scripted("a", [Some(kind), None]), scripted("b", [])]);
            assert_eq!(ask(&chain).await.unwrap_err().kind(), kind);
            assert_eq!(ask(&chain).await.unwrap(), "a");
        }
    }

    #[tokio::test]
    async fn an_exhausted_chain_lists_every_member_and_is_tried_again() {
        let chain = Chain::new(vec![
            scripted("a", [Some(Unavailable), None]),
            scripted("b", [Some(Unavailable)]),
        ]);
        let error = ask(&chain).await.unwrap_err();
        assert_eq!(error.kind(), Unavailable);
        let message = error.to_string();
        let lines: Vec<_> = message.lines().collect();
        assert_eq!(lines[1], "- a: a is Unavailable: its cause");
        assert_eq!(lines[2], "- b: b is Unavailable: its cause");
        assert!(lines[3].contains("az login") && lines.len() == 4, "{message}");
        assert_eq!(ask(&chain).await.unwrap(), "a");
    }
}
