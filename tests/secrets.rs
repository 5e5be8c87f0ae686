//! Messages and logs contain no token and no secret. The test runs in a separate process, because
//! it sets the global subscriber.

#[path = "support/waiting.rs"]
mod waiting;

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use entra_pool::{
    clock::{Clock, ManualClock},
    credential::{AzureCli, AzureDeveloperCli, DefaultCredential, Environment, ManagedIdentity},
    token::{CredentialError, TokenCredential},
};
use entra_pool_emulator::{
    azure_cli::{AzureCliMode, AzureCliStandIn},
    identity::{Fault, IdentityEndpoint, IdentityOptions},
    jwt::{Issuer, Principal, PrincipalKind},
};

use waiting::{ask, with_causes};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Formats an error in every way, including its sources.
fn shown(error: &CredentialError) -> String {
    format!("{error:?} {}", with_causes(error))
}

#[tokio::test]
async fn no_secret_is_shown_or_logged() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let issuer = Arc::new(Issuer::new());
    let options = IdentityOptions {
        system_assigned: Some(Principal::new("shop-app", PrincipalKind::SystemAssigned)),
        ..IdentityOptions::default()
    };
    let endpoint = IdentityEndpoint::start(issuer.clone(), options).unwrap();
    let clock = ManualClock::new();
    let developer = Principal::new("dev@contoso.com", PrincipalKind::User);
    let az = AzureCliStandIn::new(issuer.clone(), developer.clone()).unwrap();
    let azd = AzureCliStandIn::azure_developer_cli(issuer, developer).unwrap();

    let environment = endpoint.app_service_env();
    let header = environment[1].1.clone();
    let environment = Environment::from_pairs(environment);
    let identity = ManagedIdentity::system_assigned()
        .environment(environment.clone())
        .clock(clock.clone())
        .build()
        .unwrap();
    let chain =
        DefaultCredential::new().environment(environment).clock(clock.clone()).build().unwrap();
    let az_cli = AzureCli::builder().executable(az.executable()).build().unwrap();
    let azd_cli = AzureDeveloperCli::builder().executable(azd.executable()).build().unwrap();
    let mut text = format!("{identity:?} {chain:?} {az_cli:?} {azd_cli:?}");
    let mut secrets = vec![header.clone()];
    let credentials: [&dyn TokenCredential; 4] = [&identity, &chain, &az_cli, &azd_cli];
    for credential in credentials {
        let token = ask(credential).await.unwrap();
        text += &format!("{token:?} {:?}", token.claims());
        secrets.push(token.secret().to_owned());
    }
    for (tool, credential) in [(&az, &az_cli as &dyn TokenCredential), (&azd, &azd_cli)] {
        for mode in [AzureCliMode::LoggedOut, AzureCliMode::Broken, AzureCliMode::Garbage] {
            tool.set_mode(mode).unwrap();
            text += &shown(&ask(credential).await.unwrap_err());
        }
    }

    // An endpoint that repeats the header it received, and a token.
    let echo = format!(r#"{{"message":"with {header} you get {}"}}"#, secrets[1]);
    endpoint.fail(Fault::Status(400, echo.clone()));
    text += &shown(&ask(&identity).await.unwrap_err());
    endpoint.fail(Fault::Status(500, echo.clone()));
    let time = async {
        for _ in 0..2 {
            while clock.next_wake() != Some(std::time::Duration::from_secs(1)) {
                tokio::task::yield_now().await;
            }
            clock.advance(std::time::Duration::from_secs(1));
        }
    };
    let (failed, ()) = tokio::join!(ask(&identity), time);
    text += &shown(&failed.unwrap_err());
    endpoint.fail(Fault::Status(200, echo));
    text += &shown(&ask(&identity).await.unwrap_err());
    assert_eq!(clock.monotonic().as_secs(), 2);

    let logged = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("retrying the managed identity request"), "{logged}");
    for secret in secrets {
        assert!(!text.contains(&secret) && !logged.contains(&secret), "{text} {logged}");
    }
}
