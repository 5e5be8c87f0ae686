//! Tokens that expire within seconds, under load.
//!
//! Runs for 30 s; `ENTRA_POOL_ROTATION_SECONDS` sets another duration (`.ci/deep`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use entra_pool::{
    connect::RetireReason,
    postgres::{Config, Connector, Error},
    token::{CredentialError, Identity, Token, TokenCredential, TokenRequest},
};
use entra_pool_emulator::jwt::{Principal, PrincipalKind};

use crate::{
    server,
    support::credential::{AUDIENCE, issuer, said},
};

const ROLE: &str = "rotated";
const TOKEN_LIFETIME: Duration = Duration::from_secs(20);
const CONNECTION_LIFETIME: Duration = Duration::from_secs(10);
const TASKS: usize = 16;

/// The age of the session in seconds.
const AGE: &str = "SELECT extract(epoch FROM clock_timestamp() - backend_start)::float8 \
                   FROM pg_stat_activity WHERE pid = pg_backend_pid()";

/// A credential whose tokens expire after [`TOKEN_LIFETIME`].
#[derive(Debug, Clone)]
struct ShortLived {
    principal: Principal,
    requests: Arc<AtomicU64>,
}

#[async_trait]
impl TokenCredential for ShortLived {
    fn name(&self) -> String {
        "short-lived".into()
    }

    async fn get_token(&self, _: TokenRequest) -> Result<Token, CredentialError> {
        self.requests.fetch_add(1, SeqCst);
        let expires_on = SystemTime::now() + TOKEN_LIFETIME;
        let secret = issuer().sign(&self.principal, AUDIENCE, expires_on, 2_000);
        Ok(Token::new(secret, expires_on))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_replaced_under_load_without_a_failed_checkout() {
    let seconds = std::env::var("ENTRA_POOL_ROTATION_SECONDS");
    let length = Duration::from_secs(seconds.map_or(30, |seconds| seconds.parse().unwrap()));
    let server = server().await;
    let principal = Principal::new(ROLE, PrincipalKind::UserAssigned);
    server.create_principal(&principal).await;
    let credential = ShortLived { principal, requests: Arc::default() };
    let identity = Identity::new(credential.clone());
    let config: Config = server.url(ROLE).parse().unwrap();
    let tokens = identity.tokens(config.token_scope().unwrap());
    let connector = Connector::new(config.max_lifetime(CONNECTION_LIFETIME), tokens).unwrap();
    let pool = connector.pool_builder().max_size(TASKS).build();

    let until = Instant::now() + length;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let (mut checkouts, mut longest, mut oldest) = (0_u64, Duration::ZERO, 0.0_f64);
                while Instant::now() < until {
                    let asked = Instant::now();
                    let client = pool.get().await.map_err(|error| said(&Error::from(error)))?;
                    longest = longest.max(asked.elapsed());
                    let row = client.query_one(AGE, &[]).await.map_err(|error| said(&error))?;
                    oldest = oldest.max(row.get(0));
                    drop(client);
                    checkouts += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok::<_, String>((checkouts, longest, oldest))
            })
        })
        .collect();
    let (mut checkouts, mut longest, mut oldest) = (0, Duration::ZERO, 0.0_f64);
    for task in tasks {
        let (made, slowest, age) = task.await.unwrap().unwrap();
        checkouts += made;
        longest = longest.max(slowest);
        oldest = oldest.max(age);
    }

    let (report, requests) = (connector.report(), credential.requests.load(SeqCst));
    println!(
        "{length:?}: {checkouts} checkouts, the longest {longest:?}, the oldest connection {oldest:.1} s, {requests} tokens, {report:?}"
    );
    assert_eq!((report.refused, report.renewed), (0, 0), "{report:?}");
    assert_eq!(report.token.failures, 0, "{report:?}");
    // The first login after four fifths of a token's lifetime replaces the token.
    let tokens = |every: f64| 1.0 + length.as_secs_f64() / every;
    #[allow(clippy::cast_precision_loss)]
    let requests = requests as f64;
    assert!(requests >= tokens(20.0).floor() && requests <= tokens(16.0), "{requests}");
    let aged = report.retired.iter().find(|(reason, _)| *reason == RetireReason::Age);
    assert!(aged.is_some(), "{report:?}");
    // The age is measured by a query shortly after the checkout.
    assert!(oldest < CONNECTION_LIFETIME.as_secs_f64() + longest.as_secs_f64() + 1.0, "{oldest}");
}
