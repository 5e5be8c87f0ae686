//! Hosts × failures: which requests are retried, when, and what the errors say.

use std::time::Duration;

use entra_pool::{
    credential::{
        ManagedIdentityHost,
        ManagedIdentityHost::{AppService, AzureArc, AzureMl, CloudShell, Imds, ServiceFabric},
        UserAssignedId,
    },
    token::CredentialErrorKind::{Refused, Transient, Unavailable},
};
use entra_pool_emulator::identity::Fault;

use crate::{
    waiting::{until, with_causes},
    world::{HOSTS, World, assert_asked, assert_says},
};

/// The pauses between attempts, if the host responds with `status` to all of them.
fn pauses(host: ManagedIdentityHost, status: u16) -> &'static [u64] {
    match (host, status) {
        (Imds, 410) => &[1, 2, 4, 8, 16, 16, 16, 7],
        (Imds, 404 | 408 | 429 | 500..=599) => &[1, 2, 4],
        (Imds, _) => &[],
        (AppService, 404 | 408 | 429 | 500 | 503 | 504) => &[1, 1],
        // Retried once, because the host may have just started.
        (AppService, 401) => &[1],
        (AppService, _) => &[],
        (_, 408 | 429 | 500 | 502..=504) => &[1, 1],
        _ => &[],
    }
}

/// The number of requests if every attempt fails. The first attempt with the Azure Arc agent begins
/// with a challenge.
fn requests(host: ManagedIdentityHost, pauses: &[u64]) -> usize {
    pauses.len() + if host == AzureArc { 2 } else { 1 }
}

#[tokio::test]
async fn only_transient_failures_are_retried() {
    let mut world = World::new();
    let body = r#"{"error":"some_error","error_description":"why it is so"}"#;
    for host in HOSTS {
        let identity = world.builder(host, None).build().unwrap();
        for status in [400, 401, 403, 404, 405, 408, 410, 429, 500, 501, 502, 503, 504] {
            let pauses = pauses(host, status);
            world.answer_with(host, Fault::Status(status, body.to_owned()));
            let outcome = world.ask(&identity, pauses).await;
            let what = format!("{host}: {status}");
            let error = outcome.result.expect_err(&what);
            let number = status.to_string();
            if pauses.len() < 2 {
                // A machine without an identity may be a developer's.
                let kind = if host == Imds && status == 400 { Unavailable } else { Refused };
                assert_says(&what, &error, kind, &["why it is so"]);
            } else {
                let words = [number.as_str(), "on every attempt", "why it is so"];
                assert_says(&what, &error, Transient, &words);
            }
            assert_eq!(outcome.requests.len(), requests(host, pauses), "{what}");
            assert_asked(host, &outcome.requests, None);
        }
    }
    world.finish(78);
}

#[tokio::test]
async fn a_request_succeeds_after_its_host_recovers() {
    let mut world = World::new();
    for host in HOSTS {
        // A body that is not JSON may come from a proxy in front of an endpoint, but not from IMDS.
        let busy = if host == Imds { "{}" } else { "<html>busy" };
        for (fault, pause) in [
            (Fault::Status(500, busy.to_owned()), 1),
            (Fault::Status(503, busy.to_owned()), 1),
            (Fault::Throttled(None), 1),
            (Fault::Throttled(Some(0)), 1),
            (Fault::Throttled(Some(7)), 7),
        ] {
            let identity = world.builder(host, None).build().unwrap();
            world.endpoint.fail_next(1, fault.clone());
            let outcome = world.ask(&identity, &[pause]).await;
            let what = format!("{host}: {fault:?}");
            assert_eq!(world.owner(&outcome.result.expect(&what)), world.own_identity(host));
            assert_eq!(outcome.requests.len(), if host == AzureArc { 3 } else { 2 }, "{what}");
            assert_asked(host, &outcome.requests, None);
        }
    }
    world.finish(30);
}

#[tokio::test]
async fn the_pause_that_a_host_asks_for_is_honoured_and_passed_on() {
    let mut world = World::new();
    for host in HOSTS {
        let identity = world.builder(host, None).build().unwrap();
        let attempts = if host == Imds { 4 } else { 3 };
        for (asked, waits) in [(5, true), (600, false)] {
            world.answer_with(host, Fault::Throttled(Some(asked)));
            let pauses = vec![asked; if waits { attempts - 1 } else { 0 }];
            let outcome = world.ask(&identity, &pauses).await;
            let what = format!("{host}: {asked}");
            let error = outcome.result.expect_err(&what);
            assert_says(&what, &error, Transient, &["429", "Slow down"]);
            assert_eq!(error.retry_after(), Some(Duration::from_secs(asked)), "{what}");
            assert_eq!(outcome.requests.len(), requests(host, &pauses), "{what}");
        }
    }
    world.finish(12);
}

#[tokio::test]
async fn a_host_that_never_responds_times_out() {
    for host in HOSTS {
        let mut world = World::new();
        let identity = world.builder(host, None).build().unwrap();
        world.answer_with(host, Fault::Silence);
        let endpoint = world.endpoint.clone();
        let clock = world.clock.clone();
        let (attempts, pauses): (u64, &[u64]) =
            if host == Imds { (4, &[1, 2, 4]) } else { (3, &[1, 1]) };
        let challenges = u64::from(host == AzureArc);
        let moves = async {
            for number in 1..=attempts {
                endpoint.wait_for_requests(number + challenges).await;
                let limit = Duration::from_secs(20);
                until(|| clock.next_wake() == Some(limit)).await;
                clock.advance(limit);
                if let Some(pause) = pauses.get(number as usize - 1) {
                    let pause = Duration::from_secs(*pause);
                    until(|| clock.next_wake() == Some(pause)).await;
                    clock.advance(pause);
                }
            }
        };
        let (outcome, ()) = tokio::join!(world.ask(&identity, &[]), moves);
        let what = host.to_string();
        let error = outcome.result.expect_err(&what);
        assert_says(
            &what,
            &error,
            Transient,
            &["cannot get a token from", "no response within 20s"],
        );
        assert_eq!(outcome.requests.len() as u64, attempts + challenges, "{what}");
        world.finish(1);
    }
}

#[tokio::test]
async fn refused_connections_are_retried_for_10_seconds_and_not_cached() {
    let mut world = World::new();
    let identities = HOSTS.map(|host| world.builder(host, None).build().unwrap());
    world.endpoint.go_away().await.unwrap();
    for identity in &identities {
        let (kind, pauses) = match identity.host() {
            Imds => (Unavailable, &[][..]),
            _ => (Transient, &[1; 10][..]),
        };
        let error = world.ask(identity, pauses).await.result.unwrap_err();
        assert_says(&identity.host().to_string(), &error, kind, &["cannot connect", "127.0.0.1"]);
    }
    world.endpoint.come_back().unwrap();
    for identity in &identities {
        world.ask(identity, &[]).await.result.unwrap();
    }
    world.finish(12);
}

#[tokio::test]
async fn an_outage_of_imds_is_transient_once_it_has_responded() {
    let mut world = World::new();
    let identity = world.builder(Imds, None).build().unwrap();
    world.ask(&identity, &[]).await.result.unwrap();
    world.endpoint.go_away().await.unwrap();
    let error = world.ask(&identity, &[]).await.result.unwrap_err();
    assert_says("gone", &error, Transient, &["cannot be reached", "has responded before"]);
    world.endpoint.come_back().unwrap();
    for fault in [
        Fault::Status(200, "<!doctype html>".to_owned()),
        Fault::Status(403, "connection refused".to_owned()),
    ] {
        let what = format!("{fault:?}");
        world.answer_with(Imds, fault);
        let error = world.ask(&identity, &[]).await.result.unwrap_err();
        assert_says(&what, &error, Transient, &["is not IMDS", "has responded before"]);
    }
    // The identity was removed from the machine, and must be assigned again.
    world.endpoint.recover();
    world.endpoint.set_system_assigned(None);
    world.endpoint.unassign("shop-identity");
    let error = world.ask(&identity, &[]).await.result.unwrap_err();
    assert_says("no identity", &error, Unavailable, &["no system-assigned identity"]);
    world.finish(4);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut world = World::new();
    for host in HOSTS {
        let identity = world.builder(host, None).build().unwrap();
        for status in [301, 302, 307, 308] {
            let target = world.endpoint.imds_endpoint();
            world.answer_with(host, Fault::Redirect(status, target));
            let outcome = world.ask(&identity, &[]).await;
            let what = format!("{host}: {status}");
            let kind = if host == Imds { Unavailable } else { Refused };
            assert_says(&what, &outcome.result.unwrap_err(), kind, &[&status.to_string()]);
            assert_eq!(outcome.requests.len(), requests(host, &[]), "{what}");
        }
    }
    world.finish(24);
}

#[tokio::test]
async fn an_endpoint_that_does_not_respond_like_imds_is_not_imds() {
    let mut world = World::new();
    let identity = world.builder(Imds, None).build().unwrap();
    for (status, body, pauses) in [
        (403, "connection refused", &[][..]),
        (400, "<html>", &[]),
        (400, "no JSON", &[]),
        (404, "<html>", &[]),
        (404, "", &[]),
        (500, "", &[]),
        (503, "<html>", &[]),
        (429, "slow down", &[]),
    ] {
        world.answer_with(Imds, Fault::Status(status, body.to_owned()));
        let outcome = world.ask(&identity, pauses).await;
        let error = outcome.result.unwrap_err();
        assert_says(body, &error, Unavailable, &["is not IMDS", &status.to_string(), "az login"]);
        assert_eq!(outcome.requests.len(), 1 + pauses.len());
    }
    world.finish(8);
}

#[tokio::test]
async fn a_wrong_secret_is_rejected_and_not_shown() {
    let mut world = World::new();
    for (host, setting) in [
        (AppService, "IDENTITY_HEADER"),
        (ServiceFabric, "IDENTITY_HEADER"),
        (AzureMl, "MSI_SECRET"),
    ] {
        let wrong = format!("wr0ng-secret-of-{host}");
        world.secret(&wrong);
        let mut variables = world.variables(host);
        variables.push((setting, wrong));
        let identity = world.builder_with(variables, None).build().unwrap();
        let outcome = world.ask(&identity, pauses(host, 401)).await;
        let what = host.to_string();
        assert_says(&what, &outcome.result.unwrap_err(), Refused, &["rejected the", setting]);
        let asked = 1 + pauses(host, 401).len();
        assert_eq!(outcome.requests.len(), asked, "{what}");
        let request = &outcome.requests[0];
        let right = request.identity_header_is_right.or(request.secret_is_right);
        assert_eq!(right, Some(false), "{what}");
    }
    world.finish(3);
}

#[tokio::test]
async fn secrets_that_an_endpoint_echoes_are_redacted() {
    let mut world = World::new();
    let [_, (_, secret)] = world.endpoint.app_service_env();
    // This test chooses the agent's key, so it knows it.
    let key = "kn0wn-key-of-this-test";
    std::fs::write(world.arc_keys().join("known.key"), key).unwrap();
    let challenge = format!("Basic realm={}", world.arc_keys().join("known.key").display());
    world.endpoint.set_azure_arc_challenge(Some(challenge));
    world.secret(key);
    let id = UserAssignedId::ClientId(world.user.client_id.clone());
    for host in HOSTS {
        let sent = match host {
            AzureArc => key,
            CloudShell | Imds => "nothing secret",
            _ => &secret,
        };
        let token = world.endpoint.issue(&world.system, crate::world::RESOURCE);
        world.secret(&token);
        let id = matches!(host, AppService | AzureMl | Imds).then_some(&id);
        let identity = world.builder(host, id).build().unwrap();
        for (field, status) in
            [("error_description", 400), ("message", 403), ("Message", 418), ("message", 500)]
        {
            let body = format!(r#"{{"{field}":"got {sent} for {token} here"}}"#);
            world.answer_with(host, Fault::Status(status, body.clone()));
            let outcome = world.ask(&identity, pauses(host, status)).await;
            let text = with_causes(&outcome.result.unwrap_err());
            assert_eq!(text.contains("got [redacted]"), sent != "nothing secret");
            // Also as the body of a successful response, which has no token.
            world.answer_with(host, Fault::Status(200, body));
            world.ask(&identity, &[]).await.result.unwrap_err();
        }
    }
    world.finish(48);
}

#[tokio::test]
async fn a_server_with_another_certificate_is_sent_no_request() {
    let mut world = World::new();
    let mut variables = world.variables(ServiceFabric);
    variables.push(("IDENTITY_SERVER_THUMBPRINT", "0123456789abcdef".repeat(3)[..40].to_owned()));
    let identity = world.builder_with(variables, None).build().unwrap();
    let outcome = world.ask(&identity, &[]).await;
    let words = ["the certificate of", "IDENTITY_SERVER_THUMBPRINT"];
    assert_says("wrong thumbprint", &outcome.result.unwrap_err(), Refused, &words);
    assert!(outcome.requests.is_empty());
    // The right thumbprint is accepted in any notation.
    let [_, _, (_, thumbprint)] = world.endpoint.service_fabric_env();
    for thumbprint in [thumbprint.to_lowercase(), format!(" {thumbprint} ")] {
        let mut variables = world.variables(ServiceFabric);
        variables.push(("IDENTITY_SERVER_THUMBPRINT", thumbprint));
        let identity = world.builder_with(variables, None).build().unwrap();
        world.ask(&identity, &[]).await.result.unwrap();
    }
    world.finish(3);
}
