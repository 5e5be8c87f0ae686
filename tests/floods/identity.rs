use std::{io::Read, net::SocketAddr};

use entra_pool::{
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::{Reason, Scope, TokenCredential, TokenRequest},
};

use crate::{
    Ends::{self, AtLimit, Early, InTime},
    FastClock, emulator,
    peer::{Flood, Pace, Peer},
    run_all, timed,
};

#[derive(Debug, Clone)]
struct Case(Flood, Ends);

fn cases() -> Vec<Case> {
    let slow = |flood: Flood| flood.at(Pace::Slow);
    let head = "HTTP/1.1 200 OK\r\n";
    let body = format!("{head}content-length: 1000000000000\r\n\r\n");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let interim = || Flood::of("1xx", "HTTP/1.1 100 Continue\r\n\r\n");
    let long = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "x".repeat(8_000));
    let headers = || Flood::of("headers", "a: b\r\n").after(head);
    vec![
        Case(interim(), Early),
        Case(interim().at(Pace::Bytes), InTime),
        Case(Flood::of("long 1xx", long), Early),
        Case(headers(), Early),
        Case(headers().at(Pace::Bytes), InTime),
        Case(Flood::of("a long header", "x").after(format!("{head}a: ")), Early),
        Case(Flood::of("empty lines", "\r\n"), Early),
        Case(Flood::of("a body", "x").after(body.clone()), Early),
        Case(Flood::of("chunks of a byte", "1\r\nx\r\n").after(chunked.clone()), InTime),
        Case(Flood::of("a chunk's length", "0").after(chunked.clone()), Early),
        Case(slow(interim()), AtLimit),
        Case(slow(headers()), AtLimit),
        Case(slow(Flood::of("a body", "x").after(body)), AtLimit),
    ]
}

async fn run(Case(flood, ends): Case) -> String {
    let [(_, url), (_, header)] = emulator().identity().app_service_env();
    let behind: SocketAddr = url["http://".len()..].split('/').next().unwrap().parse().unwrap();
    let peer = Peer::start(1, behind, move |mut tcp| {
        let _ = tcp.read(&mut [0; 4096])?;
        flood.pour(tcp)
    });
    let url = url.replace(&behind.to_string(), &peer.addr.to_string());
    let environment =
        Environment::from_pairs([("IDENTITY_ENDPOINT", url), ("IDENTITY_HEADER", header)]);
    let id = UserAssignedId::ClientId(emulator().user_assigned().client_id.clone());
    // A try takes 20 s, and the one after it, a second later, succeeds.
    let credential = ManagedIdentity::user_assigned(id).environment(environment);
    let credential = credential.clock(FastClock::new(21)).build().unwrap();
    let request = TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
    let (token, said) = timed(ends, None, credential.get_token(request)).await;
    if let Err(error) = token {
        // What cannot be a token is not asked for again.
        assert!(ends == Early && format!("{error:?}").contains("TooLong"), "{error:?}");
    }
    peer.let_go().await;
    said
}

#[test]
fn a_flood_of_an_identity_endpoint_ends_in_time() {
    run_all(cases(), |case| case.0.is_slow(), |case| Box::pin(run(case)));
}
