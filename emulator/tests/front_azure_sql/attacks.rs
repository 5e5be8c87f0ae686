//! Invalid tokens, and clients that disconnect, stall, or connect all at once.

use std::time::{Duration, SystemTime};

use entra_pool_emulator::{
    azure_sql::{Fault, Stage},
    certificates::Authority,
    front::azure_sql::EngineTrust,
    jwt::{Issuer, Principal, PrincipalKind},
    network::{self, Act, After, Network, Towards},
};
use futures::{StreamExt, stream};

use crate::{
    AUDIENCE, Setup,
    borders::packet_borders,
    one,
    raw::{self, Raw},
    shop_login, until,
};

/// The same header and claims without a signature.
fn unsigned(token: &str) -> String {
    let (claims, _) = token.rsplit_once('.').unwrap();
    format!("{claims}.")
}

#[tokio::test]
async fn nothing_reaches_the_engine_before_the_token_is_checked() {
    let setup = Setup::new().await;
    let network = Network::to(setup.engine.addr()).unwrap();
    network.record(true);
    let front = Setup::with(|options| {
        options.engine.1 = network.addr().port();
        options.engine_logins.insert("stranger".into(), shop_login());
        let admin = Principal::new("no-login", PrincipalKind::UserAssigned);
        options.endpoint.directory.add(admin);
    })
    .await;
    let now = SystemTime::now();
    let (later, past) = (now + Duration::from_secs(60), now - Duration::from_secs(60));
    let sign = |principal: &Principal, audience: &str, until: SystemTime| {
        front.issuer.sign(principal, audience, until, 0)
    };
    let stranger = Principal::new("stranger", PrincipalKind::UserAssigned);
    let no_login = Principal::new("no-login", PrincipalKind::UserAssigned);
    let failed = "Login failed for user '<token-identified principal>'.";
    let long = front.issuer.sign(&front.shop, AUDIENCE, later, 64 << 10);
    for (token, why) in [
        (sign(&front.shop, AUDIENCE, past), " Token is expired."),
        (sign(&front.shop, "https://management.azure.com/", later), ""),
        (sign(&stranger, AUDIENCE, later), ""),
        (
            sign(&no_login, AUDIENCE, later),
            " No engine login is configured for principal 'no-login'.",
        ),
        (Issuer::new().sign(&front.shop, AUDIENCE, later, 0), ""),
        (unsigned(&front.token(0)), ""),
        ("no token".into(), ""),
        (long, " Token is too long."),
    ] {
        let mut raw = Raw::hello(&front).await;
        let answer = raw.ask(raw::LOGIN7, &raw::login7(&raw::security_token(&token))).await;
        assert_eq!(raw::error(&answer), (18456, format!("{failed}{why}")));
        let mut raw = Raw::hello(&front).await;
        raw.ask(raw::LOGIN7, &raw::login7(&[0x05, 2])).await;
        let answer = raw.ask(raw::FED_AUTH_TOKEN, &raw::token_message(&token)).await;
        assert_eq!(raw::error(&answer), (18456, format!("{failed}{why}")));
    }
    // A FEDAUTH feature without content.
    let mut raw = Raw::hello(&front).await;
    assert!(raw.ask(raw::LOGIN7, &raw::login7(&[])).await.is_empty());
    until(|| network.counters().open == 0).await;
    let recordings = network.take_recordings();
    assert_eq!(recordings.len(), 17);
    for recording in recordings {
        // One packet of type PRELOGIN, which the front itself creates.
        assert_eq!(recording.to_server[0], 18);
        assert_eq!(packet_borders(&recording.to_server), [recording.to_server.len()]);
    }
    let counters = front.front.counters();
    assert_eq!((counters.logins, counters.refused_logins), (0, 16));
}

#[tokio::test]
async fn a_handshake_cut_or_stalled_at_any_border_leaves_no_connection_open() {
    let setup =
        Setup::with(|options| options.endpoint.login_timeout = Duration::from_millis(700)).await;
    let to_front = Network::to(setup.front.addr()).unwrap();
    let token = setup.token(2200);
    to_front.record(true);
    drop(setup.login_at(to_front.addr().port(), &token).await.unwrap());
    until(|| to_front.counters().open == 0).await;
    let recording = to_front.take_recordings().pop().unwrap();
    let borders = [
        (Towards::Server, packet_borders(&recording.to_server).len()),
        (Towards::Client, packet_borders(&recording.to_client).len()),
    ];
    assert!(borders.iter().all(|(_, count)| *count >= 4), "{borders:?}");
    let faults = borders.into_iter().flat_map(|(towards, count)| {
        (0..count).flat_map(move |packet| {
            let after = After::Packets(packet, packet_borders);
            [Act::Close, Act::Reset, Act::Stall].map(|act| network::Fault { towards, after, act })
        })
    });
    let (setup, token) = (&setup, &token);
    stream::iter(faults)
        .for_each_concurrent(8, async |fault| {
            let network = Network::to(setup.front.addr()).unwrap();
            network.disturb(1, fault);
            let login = setup.login_at(network.addr().port(), token);
            // A client without an answer waits; the front has given up by then.
            let _ = tokio::time::timeout(Duration::from_secs(3), login).await;
        })
        .await;
    until(|| {
        setup.front.counters().open_connections == 0
            && setup.engine.counters().open_connections == 0
    })
    .await;
    let mut client = setup.login(token).await.unwrap();
    assert_eq!(one::<i32>(&mut client, "SELECT 1").await, Some(1));
}

#[tokio::test]
async fn an_engine_cut_or_stalled_at_any_border_causes_error_40613() {
    let authority = Authority::new().unwrap();
    let engine = crate::engine(&authority).await;
    let network = Network::to(engine.addr()).unwrap();
    let setup = Setup::with(|options| {
        options.engine.1 = network.addr().port();
        options.engine_trust = EngineTrust::CaFile(authority.path());
        options.endpoint.login_timeout = Duration::from_millis(700);
    })
    .await;
    network.record(true);
    drop(setup.login(&setup.token(0)).await.unwrap());
    until(|| network.counters().open == 0).await;
    let recording = network.take_recordings().pop().unwrap();
    network.record(false);
    let borders = packet_borders(&recording.to_client).len();
    assert!(borders >= 4, "{borders}");
    // The last one is the end of TLS.
    for packet in 0..borders - 1 {
        for act in [Act::Close, Act::Stall] {
            let after = After::Packets(packet, packet_borders);
            network.disturb(1, network::Fault { towards: Towards::Client, after, act });
            match setup.login(&setup.token(0)).await {
                // The last packets are tickets of TLS 1.3, which the login does not need.
                Ok(_) => assert!(packet + 3 >= borders, "{act:?} after {packet} of {borders}"),
                Err(tiberius::error::Error::Server(error)) => assert_eq!(error.code(), 40613),
                Err(other) => panic!("{act:?} after {packet} of {borders}: {other}"),
            }
            network.calm();
        }
    }
    until(|| {
        setup.front.counters().open_connections == 0 && engine.counters().open_connections == 0
    })
    .await;
}

#[tokio::test]
async fn faults_happen_at_every_stage() {
    let setup = Setup::new().await;
    let log_in_and_query = async || {
        let mut client = setup.login(&setup.token(0)).await?;
        client.simple_query("SELECT 1 UNION ALL SELECT 2").await?.into_results().await
    };
    for stage in Stage::ALL {
        for fault in [Fault::Cut, Fault::Delay(Duration::from_millis(2)), Fault::Stall] {
            let before = setup.front.counters().faults;
            setup.front.behaviour().disturb(1, stage, fault);
            match fault {
                Fault::Stall => tokio::select! {
                    ended = log_in_and_query() => panic!("{stage:?}: {ended:?}"),
                    () = until(|| setup.front.counters().faults > before) => {}
                },
                Fault::Cut => drop(log_in_and_query().await.expect_err(&format!("{stage:?}"))),
                _ => drop(log_in_and_query().await.unwrap()),
            }
            assert_eq!(setup.front.counters().faults, before + 1, "{stage:?} {fault:?}");
            until(|| {
                setup.front.counters().open_connections + setup.engine.counters().open_connections
                    == 0
            })
            .await;
        }
    }
    log_in_and_query().await.unwrap();
}

#[tokio::test]
async fn five_hundred_logins_at_once_all_succeed() {
    let setup = Setup::new().await;
    let logins = stream::iter(0..500).map(|_| Raw::session(&setup)).buffer_unordered(500);
    let sessions: Vec<_> = logins.collect().await;
    assert_eq!(sessions.len(), 500);
    let (front, engine) = (setup.front.counters(), setup.engine.counters());
    assert_eq!((front.logins, engine.logins, engine.open_connections), (500, 500, 500));
    drop(sessions);
    until(|| {
        setup.front.counters().open_connections + setup.engine.counters().open_connections == 0
    })
    .await;
}

#[tokio::test]
async fn a_front_that_stops_closes_its_connections() {
    let setup = Setup::new().await;
    let sessions = [Raw::session(&setup).await, Raw::session(&setup).await];
    let Setup { front, engine, .. } = setup;
    front.go_away().await.unwrap();
    for mut session in sessions {
        assert!(session.answer().await.is_empty());
    }
    until(|| engine.counters().open_connections == 0).await;
}
