use std::{
    fmt::{self, Write},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;

use crate::token::{
    CredentialError, CredentialErrorKind::Unavailable, Token, TokenCredential, TokenRequest,
    with_causes,
};

/// Several credentials, of which the first that gives a token is used from
/// then on.
///
/// Members are asked in order. One that is
/// [unavailable](crate::token::CredentialErrorKind::Unavailable) makes way for
/// the next; any other error ends the search, as a wrong identity would be
/// worse than none. The member that gave the first token is pinned: later
/// failures are its own, and the identity does not drift. If all are
/// unavailable, the error (unavailable, too) lists every member with its
/// reason, and the next call asks all of them again.
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
    pinned: OnceLock<usize>,
}

impl Chain {
    /// A chain of these, first to last.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use entra_pool::credential::{AzureCli, Chain, ManagedIdentity};
    ///
    /// // The probe tells in a second whether this is a machine in Azure.
    /// let machine = ManagedIdentity::system_assigned().probe(true).build()?;
    /// let chain = Chain::new(vec![Arc::new(machine), Arc::new(AzureCli::new())]);
    /// # Ok::<(), entra_pool::credential::ConfigError>(())
    /// ```
    #[must_use]
    pub fn new(members: Vec<Arc<dyn TokenCredential>>) -> Self {
        Self(Arc::new(Inner { members, pinned: OnceLock::new() }))
    }

    fn pinned(&self) -> Option<&Arc<dyn TokenCredential>> {
        self.0.members.get(*self.0.pinned.get()?)
    }
}

#[async_trait]
impl TokenCredential for Chain {
    /// That of the pinned member, once there is one.
    fn name(&self) -> String {
        if let Some(pinned) = self.pinned() {
            return pinned.name();
        }
        let names: Vec<_> = self.0.members.iter().map(TokenCredential::name).collect();
        format!("the first available of: {}", names.join(", "))
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Token, CredentialError> {
        if let Some(pinned) = self.pinned() {
            return pinned.get_token(request).await;
        }
        let mut failures = Vec::new();
        for (index, member) in self.0.members.iter().enumerate() {
            match member.get_token(request.clone()).await {
                Ok(token) => {
                    let pinned = *self.0.pinned.get_or_init(|| index);
                    if pinned == index {
                        tracing::debug!(credential = member.name(), "the credential is chosen");
                        return Ok(token);
                    }
                    // Another call has settled on another member meanwhile.
                    return self.0.members[pinned].get_token(request).await;
                }
                Err(error) if error.kind() == Unavailable => {
                    failures.push((member.name(), error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(exhausted(&request, &failures))
    }
}

fn exhausted(request: &TokenRequest, failures: &[(String, CredentialError)]) -> CredentialError {
    let mut message = format!("no credential is available for {}:", request.scope);
    for (name, error) in failures {
        // Writing to a string does not fail.
        let _ = write!(message, "\n- {name}: {}", in_a_line(error));
    }
    message.push_str(
        "\nOn a developer's machine, run `az login` (or `azd auth login`); in Azure, give the machine \
         or app a managed identity; elsewhere, set AZURE_TENANT_ID, AZURE_CLIENT_ID and \
         AZURE_CLIENT_SECRET.",
    );
    CredentialError::new(Unavailable, message)
}

fn in_a_line(error: &CredentialError) -> String {
    with_causes(error).replace(['\r', '\n'], " ")
}

/// A member of the default chain that is not there, and why.
pub(super) struct NotConfigured {
    pub(super) name: &'static str,
    pub(super) reason: String,
}

#[async_trait]
impl TokenCredential for NotConfigured {
    fn name(&self) -> String {
        self.name.into()
    }

    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        Err(CredentialError::new(Unavailable, self.reason.clone()))
    }
}

impl fmt::Debug for NotConfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotConfigured").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::Mutex,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::token::{
        CredentialErrorKind::{self, Refused, Transient},
        Reason, Scope,
    };

    /// Answers from a list; a token is named after who gave it.
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
    async fn the_first_member_that_gives_a_token_is_pinned() {
        let chain = Chain::new(vec![
            scripted("a", [Some(Unavailable)]),
            scripted("b", [None, Some(Unavailable), None]),
            scripted("c", []),
        ]);
        assert_eq!(chain.name(), "the first available of: a, b, c");
        assert_eq!(ask(&chain).await.unwrap(), "b");
        assert_eq!(chain.name(), "b");
        // Gone for a moment, its place is not taken by another.
        assert_eq!(ask(&chain).await.unwrap_err().to_string(), "b is\nUnavailable");
        assert_eq!(ask(&chain.clone()).await.unwrap(), "b");
    }

    #[tokio::test]
    async fn a_member_that_is_there_but_fails_ends_the_search() {
        for kind in [Refused, Transient] {
            let chain = Chain::new(vec![scripted("a", [Some(kind), None]), scripted("b", [])]);
            assert_eq!(ask(&chain).await.unwrap_err().kind(), kind);
            assert_eq!(ask(&chain).await.unwrap(), "a");
        }
    }

    #[tokio::test]
    async fn an_exhausted_chain_lists_every_member_and_is_asked_anew() {
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
