use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use entra_pool::{
    credential::{Environment, ManagedIdentity, UserAssignedId},
    token::{Reason, Scope, TokenCredential, TokenRequest},
};
use entra_pool_emulator::certificates::ServerCertificate;

use crate::{
    Ends::{self, AtLimit, Early, InTime},
    FastClock,
    azure_sql::handshake_floods,
    emulator,
    peer::{Flood, Pace, Peer, Tls},
    run_all, timed,
};

/// Where the flood begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Instead of the response of App Service.
    AppService,
    /// Instead of the response to the probe of IMDS.
    Probe,
    /// Instead of the challenge of the Azure Arc agent.
    ArcChallenge,
    /// Instead of the agent's response to the key.
    ArcAnswer,
    /// Instead of the TLS handshake of Service Fabric.
    FabricTls,
    /// Instead of the response of Service Fabric.
    FabricAnswer,
}

#[derive(Debug, Clone)]
struct Case(Place, Flood, Ends);

fn cases() -> Vec<Case> {
    use Place::{AppService, ArcAnswer, ArcChallenge, FabricAnswer, FabricTls, Probe};
    let slow = |flood: Flood| flood.at(Pace::Slow);
    let head = "HTTP/1.1 200 OK\r\n";
    let body = format!("{head}content-length: 1000000000000\r\n\r\n");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let interim = || Flood::of("1xx", "HTTP/1.1 100 Continue\r\n\r\n");
    let long = format!("HTTP/1.1 103 Early Hints\r\nlink: {}\r\n\r\n", "x".repeat(8_000));
    let headers = || Flood::of("headers", "a: b\r\n").after(head);
    let endless = || Flood::of("a body", "x").after(body.clone());
    let chunks = || Flood::of("one-byte chunks", "1\r\nx\r\n").after(chunked.clone());
    let mut cases = vec![
        Case(AppService, interim(), Early),
        Case(AppService, interim().at(Pace::Bytes), InTime),
        Case(AppService, Flood::of("long 1xx", long), Early),
        Case(AppService, headers(), Early),
        Case(AppService, headers().at(Pace::Bytes), InTime),
        Case(AppService, Flood::of("a long header", "x").after(format!("{head}a: ")), Early),
        Case(AppService, Flood::of("empty lines", "\r\n"), Early),
        Case(AppService, endless(), Early),
        Case(AppService, chunks(), InTime),
        Case(AppService, Flood::of("a chunk's length", "0").after(chunked.clone()), Early),
        Case(AppService, slow(interim()), AtLimit),
        Case(AppService, slow(headers()), AtLimit),
        Case(AppService, slow(endless()), AtLimit),
    ];
    for place in [Probe, ArcChallenge, ArcAnswer, FabricAnswer] {
        cases.extend([
            Case(place, interim(), InTime),
            Case(place, headers().at(Pace::Bytes), InTime),
            Case(place, endless(), Early),
            Case(place, slow(interim()), AtLimit),
            Case(place, slow(endless()), AtLimit),
        ]);
    }
    // A failed handshake is not retried; a handshake that times out is.
    cases.extend(handshake_floods().map(|(flood, ends)| Case(FabricTls, flood, ends)));
    cases
}

/// A token for a server whose certificate the emulator does not have.
const TOKEN: &str = r#"{"access_token":"t","expires_on":"4000000000"}"#;

fn read_head(from: &mut impl Read) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 1];
        from.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(())
}

/// Writes `answer`, then waits for the end of the connection.
fn respond(mut stream: impl Read + Write, answer: &str) -> io::Result<()> {
    stream.write_all(answer.as_bytes())?;
    stream.flush()?;
    stream.read_exact(&mut [0; 1])
}

/// Acts as the host up to `place`, then floods the client; `turn` counts the connections.
fn play(
    mut tcp: TcpStream,
    turn: usize,
    place: Place,
    flood: &Flood,
    certificate: &ServerCertificate,
) -> io::Result<()> {
    match (place, turn) {
        (Place::FabricTls, 0) => flood.pour(tcp),
        (Place::FabricTls | Place::FabricAnswer, _) => {
            let mut tls = Tls::accept(tcp, &certificate.server_config()?, false)?;
            read_head(&mut tls)?;
            if place == Place::FabricAnswer && turn == 0 {
                return flood.pour(tls);
            }
            let length = TOKEN.len();
            respond(tls, &format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{TOKEN}"))
        }
        (Place::ArcAnswer, 0) => {
            read_head(&mut tcp)?;
            let realm = arc_key(tcp.local_addr()?);
            fs::write(&realm, "key")?;
            let challenge = format!("Basic realm={}", realm.display());
            respond(
                tcp,
                &format!(
                    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\n\r\n"
                ),
            )
        }
        _ => {
            // The probe first checks that the endpoint is listening.
            read_head(&mut tcp)?;
            flood.pour(tcp)
        }
    }
}

/// This peer's key file, in the folder of the agent.
fn arc_key(peer: SocketAddr) -> std::path::PathBuf {
    let root = emulator().identity().azure_arc_root();
    root.join(format!("var/opt/azcmagent/tokens/{}.key", peer.port()))
}

async fn run(Case(place, flood, ends): Case) -> String {
    let identity = emulator().identity();
    let target = identity.addr();
    let certificate = Arc::new(ServerCertificate::self_signed(&["127.0.0.1"]).unwrap());
    let thumbprint = certificate.thumbprint();
    // The number of connections that are not relayed.
    let floods = match place {
        Place::AppService | Place::ArcChallenge => 1,
        Place::ArcAnswer => 2,
        _ => usize::MAX,
    };
    let turns = AtomicUsize::new(0);
    let peer = Peer::start(floods, target, move |tcp| {
        play(tcp, turns.fetch_add(1, SeqCst), place, &flood, &certificate)
    });
    let url = |url: String| url.replace(&target.to_string(), &peer.addr.to_string());
    let mut environment = match place {
        Place::AppService => identity.app_service_env().to_vec(),
        Place::Probe => {
            vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", format!("http://{}", peer.addr))]
        }
        Place::ArcChallenge | Place::ArcAnswer => identity.azure_arc_env().to_vec(),
        Place::FabricTls | Place::FabricAnswer => identity.service_fabric_env().to_vec(),
    };
    for (name, value) in &mut environment {
        match *name {
            "IDENTITY_ENDPOINT" if value.starts_with("https") => {
                *value = format!("https://{}/metadata/identity/oauth2/token", peer.addr);
            }
            "IDENTITY_ENDPOINT" => *value = url(value.clone()),
            "IDENTITY_SERVER_THUMBPRINT" => value.clone_from(&thumbprint),
            _ => {}
        }
    }
    // An attempt takes 20 s. Its retry, a second later, succeeds. The probe takes 3 s.
    let factor = if place == Place::Probe { 3 } else { 21 };
    let credential = if place == Place::AppService {
        let id = UserAssignedId::ClientId(emulator().user_assigned().client_id.clone());
        ManagedIdentity::user_assigned(id)
    } else {
        ManagedIdentity::system_assigned()
    };
    let credential = credential
        .environment(Environment::from_pairs(environment))
        .azure_arc_root(identity.azure_arc_root())
        .probe(place == Place::Probe)
        .clock(FastClock::new(factor))
        .build()
        .unwrap();
    let request = || TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
    let (token, report) = timed(ends, None, credential.get_token(request())).await;
    match token {
        Ok(_) => assert!(place != Place::Probe, "a token"),
        Err(error) if place == Place::Probe => {
            assert!(ends != AtLimit || error.to_string().contains("within 3s"), "{error:?}");
            peer.stop_flooding();
            credential.get_token(request()).await.unwrap();
        }
        Err(error) => {
            // A response that cannot be a token, or that is not TLS, is not retried.
            let expected =
                if place == Place::FabricTls { "cannot connect" } else { "is longer than" };
            assert!(ends == Early && format!("{error:?}").contains(expected), "{error:?}");
        }
    }
    peer.wait_until_ended().await;
    report
}

#[test]
fn a_flooded_identity_request_ends_in_time() {
    run_all(cases(), |case| case.1.is_slow(), |case| Box::pin(run(case)));
}
