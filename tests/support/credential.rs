use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use entra_pool::{
    postgres::tokio_postgres,
    token::{CredentialError, CredentialErrorKind, Token, TokenCredential, TokenRequest},
};
use entra_pool_emulator::jwt::{Issuer, Principal, PrincipalKind};

/// The audience of tokens for PostgreSQL.
pub const AUDIENCE: &str = "https://ossrdbms-aad.database.windows.net";

/// The issuer of all tokens in this module.
pub fn issuer() -> Arc<Issuer> {
    static ISSUER: LazyLock<Arc<Issuer>> = LazyLock::new(Arc::default);
    Arc::clone(&ISSUER)
}

/// A credential that returns prepared tokens and counts the requests. Clones share one state.
#[derive(Debug, Clone)]
pub struct TestCredential(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    principal: Principal,
    audience: &'static str,
    length: usize,
    now: Mutex<Option<Token>>,
    with_new_token_per_request: AtomicBool,
    without_responses: AtomicBool,
    requests: AtomicU64,
}

impl TestCredential {
    /// A credential with tokens of `length` characters for the user-assigned identity `name`.
    pub fn new(name: &str, length: usize) -> Self {
        Self::for_principal(Principal::new(name, PrincipalKind::UserAssigned), AUDIENCE, length)
    }

    pub fn for_principal(principal: Principal, audience: &'static str, length: usize) -> Self {
        let credential = Self(Arc::new(Inner {
            principal,
            audience,
            length,
            now: Mutex::default(),
            with_new_token_per_request: AtomicBool::new(false),
            without_responses: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        }));
        credential.next_token();
        credential
    }

    /// Creates another token, which is returned from now on.
    pub fn next_token(&self) -> String {
        let expires_on = SystemTime::now() + Duration::from_secs(24 * 3600);
        let inner = &self.0;
        let secret = issuer().sign(&inner.principal, inner.audience, expires_on, inner.length);
        *inner.now.lock().unwrap() = Some(Token::new(secret.clone(), expires_on));
        secret
    }

    /// Creates another token, and has servers refuse the previous one as expired.
    pub fn rotate(&self) -> String {
        issuer().expire(&self.secret());
        self.next_token()
    }

    /// From now on, every request gets another token.
    pub fn with_new_token_per_request(self) -> Self {
        self.0.with_new_token_per_request.store(true, SeqCst);
        self
    }

    /// From now on, requests get no response.
    pub fn without_responses(self) -> Self {
        self.0.without_responses.store(true, SeqCst);
        self
    }

    /// From now on, requests fail.
    pub fn fail(&self) {
        *self.0.now.lock().unwrap() = None;
    }

    pub fn secret(&self) -> String {
        self.0.now.lock().unwrap().as_ref().unwrap().secret().to_owned()
    }

    /// When the current token expires.
    pub fn expires_on(&self) -> SystemTime {
        self.0.now.lock().unwrap().as_ref().unwrap().expires_on()
    }

    pub fn requests(&self) -> u64 {
        self.0.requests.load(SeqCst)
    }

    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }
}

#[async_trait::async_trait]
impl TokenCredential for TestCredential {
    fn name(&self) -> String {
        "test credential".into()
    }

    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        self.0.requests.fetch_add(1, SeqCst);
        if self.0.without_responses.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.0.with_new_token_per_request.load(SeqCst) {
            self.next_token();
        }
        self.0.now.lock().unwrap().clone().ok_or_else(|| {
            CredentialError::new(
                CredentialErrorKind::Refused,
                "the tool is not logged in: run `az login`",
            )
        })
    }
}

/// The texts of an error and its sources, one per line, and the error's `Debug` text.
pub fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let mut lines = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        lines.push(error.to_string());
        next = error.source();
    }
    lines.push(format!("{error:?}"));
    lines.join("\n")
}

/// The SQLSTATE of a tokio-postgres error.
pub fn code(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(tokio_postgres::error::SqlState::code)
}
