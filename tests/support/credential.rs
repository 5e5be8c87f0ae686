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

/// Signs the tokens of all credentials here.
pub fn issuer() -> Arc<Issuer> {
    static ISSUER: LazyLock<Arc<Issuer>> = LazyLock::new(Arc::default);
    Arc::clone(&ISSUER)
}

/// A credential that has its tokens at hand and counts who asks. Clones share.
#[derive(Debug, Clone)]
pub struct TestCredential(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    principal: Principal,
    audience: &'static str,
    length: usize,
    now: Mutex<Option<Token>>,
    never_the_same: AtomicBool,
    never_answering: AtomicBool,
    requests: AtomicU64,
}

impl TestCredential {
    /// Tokens of `length` characters for the user-assigned identity `name`.
    pub fn new(name: &str, length: usize) -> Self {
        Self::for_principal(Principal::new(name, PrincipalKind::UserAssigned), AUDIENCE, length)
    }

    pub fn for_principal(principal: Principal, audience: &'static str, length: usize) -> Self {
        let credential = Self(Arc::new(Inner {
            principal,
            audience,
            length,
            now: Mutex::default(),
            never_the_same: AtomicBool::new(false),
            never_answering: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        }));
        credential.next_token();
        credential
    }

    /// Makes another token, which is given out from now on.
    pub fn next_token(&self) -> String {
        let expires_on = SystemTime::now() + Duration::from_secs(24 * 3600);
        let inner = &self.0;
        let secret = issuer().sign(&inner.principal, inner.audience, expires_on, inner.length);
        *inner.now.lock().unwrap() = Some(Token::new(secret.clone(), expires_on));
        secret
    }

    /// Makes another token, and has servers refuse the one before it as expired.
    pub fn rotate(&self) -> String {
        issuer().expire(&self.secret());
        self.next_token()
    }

    /// From now on every request gets another token.
    pub fn never_the_same(self) -> Self {
        self.0.never_the_same.store(true, SeqCst);
        self
    }

    /// From now on nobody gets an answer.
    pub fn never_answering(self) -> Self {
        self.0.never_answering.store(true, SeqCst);
        self
    }

    /// From now on there is none.
    pub fn fail(&self) {
        *self.0.now.lock().unwrap() = None;
    }

    pub fn secret(&self) -> String {
        self.0.now.lock().unwrap().as_ref().unwrap().secret().to_owned()
    }

    /// When the token that is given out ends.
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
        if self.0.never_answering.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.0.never_the_same.load(SeqCst) {
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

/// All that an error and its sources say, a layer a line.
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

/// The SQLSTATE of an error of tokio-postgres.
pub fn code(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(tokio_postgres::error::SqlState::code)
}
