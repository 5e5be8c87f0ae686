//! Compares the token cache with azure_identity's managed identity credential, which
//! has an internal cache. Both use the same endpoint, over App Service's protocol.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use azure_core::credentials::{AccessToken, TokenCredential as _};
use azure_identity::ManagedIdentityCredential;
use entra_pool::{
    credential::{Environment, ManagedIdentity},
    token::{Identity, Scope, Token, TokenCache},
};
use entra_pool_emulator::{
    identity::{Fault, IdentityEndpoint, IdentityOptions},
    jwt::{Issuer, Principal, PrincipalKind},
};
use tokio::runtime::Runtime;

use crate::{
    allocations,
    table::{Row, Wanted, median, on_one_thread, over, time},
};

const SCOPE: &str = "https://database.windows.net/.default";

pub(crate) fn rows(full: bool, wanted: Wanted) -> Vec<Row> {
    // The endpoint has its own threads: it must not wait for its clients.
    let server = Runtime::new().expect("a runtime");
    let endpoint = server.block_on(async {
        let issuer = Arc::new(Issuer::new());
        let system = Some(Principal::new("ratios", PrincipalKind::SystemAssigned));
        let options = IdentityOptions { system_assigned: system, ..Default::default() };
        IdentityEndpoint::start(issuer, options).expect("the endpoint starts")
    });
    let sides = Sides { endpoint, server };
    // SAFETY: no other thread of this process reads or writes the environment
    // now. azure_identity has no other setting for an endpoint.
    unsafe {
        for (name, value) in sides.endpoint.app_service_env() {
            std::env::set_var(name, value);
        }
    }

    type Case = fn(&Sides, bool) -> Vec<Row>;
    let cases: [(&str, Case); 7] = [
        ("hit, one task", |sides, _| sides.hit()),
        ("hit, 64 tasks on 2 threads", |sides, _| sides.hit_from_64()),
        ("cold callers", |sides, _| sides.cold_callers()),
        ("refresh", |sides, _| sides.refresh()),
        ("4 minutes left", Sides::four_minutes_left),
        ("give up", |sides, _| sides.giving_up()),
        ("connection refused", Sides::refused),
    ];
    cases
        .into_iter()
        .filter(|(what, _)| wanted(what))
        .flat_map(|(what, case)| {
            eprintln!("measuring: {what}");
            sides.endpoint.recover();
            sides.endpoint.set_latency(Duration::ZERO);
            sides.endpoint.configure_tokens(|tokens| *tokens = Default::default());
            case(&sides, full)
        })
        .collect()
}

struct Sides {
    endpoint: IdentityEndpoint,
    server: Runtime,
}

async fn peer_call(peer: &ManagedIdentityCredential) -> azure_core::Result<AccessToken> {
    peer.get_token(&[SCOPE], None).await
}

impl Sides {
    fn ours(&self) -> TokenCache {
        let environment = Environment::from_pairs(self.endpoint.app_service_env());
        let credential = ManagedIdentity::system_assigned().environment(environment).build();
        Identity::new(credential.expect("a valid configuration")).tokens(Scope::AZURE_SQL)
    }

    fn peer(&self) -> Arc<ManagedIdentityCredential> {
        ManagedIdentityCredential::new(None).expect("a valid configuration")
    }

    fn requests_during<T>(&self, run: impl FnOnce() -> T) -> (T, u64) {
        let before = self.endpoint.requests();
        let result = run();
        (result, self.endpoint.requests() - before)
    }

    fn hit(&self) -> Vec<Row> {
        const CALLS: u32 = 100_000;
        let (ours, peer) = (self.ours(), self.peer());
        let floor = ArcSwapOption::from_pointee(Token::new("x", SystemTime::now()));
        on_one_thread().block_on(async {
            ours.token().await.expect("a token");
            peer_call(&peer).await.expect("a token");
            let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
            let mut allocated = [0; 2];
            for _ in 0..21 {
                let (start, before) = (Instant::now(), allocations::so_far());
                for _ in 0..CALLS {
                    black_box(ours.token().await.expect("a token"));
                }
                a.push(start.elapsed() / CALLS);
                allocated[0] += allocations::so_far() - before;

                let (start, before) = (Instant::now(), allocations::so_far());
                for _ in 0..CALLS / 10 {
                    black_box(peer_call(&peer).await.expect("a token"));
                }
                b.push(start.elapsed() / (CALLS / 10));
                allocated[1] += allocations::so_far() - before;

                let start = Instant::now();
                for _ in 0..CALLS {
                    black_box((floor.load_full(), SystemTime::now()));
                }
                c.push(start.elapsed() / CALLS);
            }
            let [a, b, c] = [a, b, c].map(median);
            let each = |total: u64, calls: u32| total as f64 / 21.0 / f64::from(calls);
            vec![Row {
                what: "hit, one task".into(),
                ours: format!("{}, {:.0} allocations", time(a), each(allocated[0], CALLS)),
                peer: format!("{}, {:.0} allocations", time(b), each(allocated[1], CALLS / 10)),
                floor: time(c),
                ratio: format!("{:.1} times faster; {:.2} of the floor", over(b, a), over(a, c)),
            }]
        })
    }

    fn hit_from_64(&self) -> Vec<Row> {
        const TASKS: u32 = 64;
        const CALLS: u32 = 5_000;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let (ours, peer) = (self.ours(), self.peer());
        runtime.block_on(async {
            ours.token().await.expect("a token");
            peer_call(&peer).await.expect("a token");
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for _ in 0..11 {
                let start = Instant::now();
                let tasks = (0..TASKS).map(|_| {
                    let ours = ours.clone();
                    tokio::spawn(async move {
                        for _ in 0..CALLS {
                            black_box(ours.token().await.expect("a token"));
                        }
                    })
                });
                join(tasks).await;
                a.push(start.elapsed() / (TASKS * CALLS));

                let start = Instant::now();
                let tasks = (0..TASKS).map(|_| {
                    let peer = peer.clone();
                    tokio::spawn(async move {
                        for _ in 0..CALLS / 10 {
                            black_box(peer_call(&peer).await.expect("a token"));
                        }
                    })
                });
                join(tasks).await;
                b.push(start.elapsed() / (TASKS * (CALLS / 10)));
            }
            let [a, b] = [a, b].map(median);
            vec![Row {
                what: "hit, 64 tasks on 2 threads".into(),
                ours: time(a),
                peer: time(b),
                floor: "".into(),
                ratio: format!("{:.1} times the throughput", over(b, a)),
            }]
        })
    }

    fn cold_callers(&self) -> Vec<Row> {
        let run = |fault: Option<Fault>| {
            self.endpoint.set_latency(Duration::from_millis(50));
            if let Some(fault) = fault {
                self.endpoint.fail(fault);
            }
            let runtime = Runtime::new().expect("a runtime");
            let (ours, peer) = (self.ours(), self.peer());
            let (a, a_requests) = self.requests_during(|| {
                runtime.block_on(async {
                    let start = Instant::now();
                    let calls = (0..1_000).map(|_| {
                        let ours = ours.clone();
                        tokio::spawn(async move { ours.token().await.is_ok() })
                    });
                    (count(join(calls).await), start.elapsed())
                })
            });
            let (b, b_requests) = self.requests_during(|| {
                runtime.block_on(async {
                    let start = Instant::now();
                    let calls = (0..1_000).map(|_| {
                        let peer = peer.clone();
                        tokio::spawn(async move { peer_call(&peer).await.is_ok() })
                    });
                    (count(join(calls).await), start.elapsed())
                })
            });
            let words = |(ok, took): (usize, Duration), requests: u64| {
                format!("{requests} requests, {ok} served, {}", time(took))
            };
            Row {
                what: String::new(),
                ours: words(a, a_requests),
                peer: words(b, b_requests),
                floor: "50 ms".into(),
                ratio: format!("{:.0} times faster", over(b.1, a.1)),
            }
        };
        let well =
            Row { what: "1,000 cold callers, endpoint answers in 50 ms".into(), ..run(None) };
        let ill = Row {
            what: "1,000 cold callers, endpoint answers 400".into(),
            ..run(Some(status(400)))
        };
        vec![well, ill]
    }

    /// A call every millisecond for 3 s, in which a refresh takes 2 s.
    fn refresh(&self) -> Vec<Row> {
        let call_every_millisecond = |ours: &TokenCache| {
            on_one_thread().block_on(async {
                let mut ticks = tokio::time::interval(Duration::from_millis(1));
                let mut took = Vec::new();
                for _ in 0..3_000 {
                    ticks.tick().await;
                    let start = Instant::now();
                    ours.token().await.expect("a token is usable");
                    took.push(start.elapsed());
                }
                took
            })
        };
        // The refresh runs in a runtime that continues: the callers' runtime ends with them.
        let with_refresh = |refresh: bool| {
            let ours = self.ours();
            self.endpoint.set_latency(Duration::ZERO);
            self.endpoint.configure_tokens(|tokens| {
                *tokens = Default::default();
                if refresh {
                    // The hint is one second away.
                    tokens.refresh_in = Some(1);
                }
            });
            self.server.block_on(ours.token()).expect("a token");
            self.endpoint.set_latency(Duration::from_secs(2));
            let (took, requests) = self.requests_during(|| call_every_millisecond(&ours));
            assert_eq!(requests, u64::from(refresh), "one refresh, or none");
            took
        };
        let (quiet, refreshing) = (with_refresh(false), with_refresh(true));
        let at = |took: &[Duration], share: f64| {
            let mut took = took.to_vec();
            took.sort_unstable();
            took[((took.len() - 1) as f64 * share) as usize]
        };
        let (p99, max) = (at(&refreshing, 0.99), at(&refreshing, 1.0));
        let (quiet_p99, quiet_max) = (at(&quiet, 0.99), at(&quiet, 1.0));
        let peer = self.peer_refresh();
        vec![Row {
            what: "refresh with an endpoint that takes 2 s, a call every ms".into(),
            ours: format!("p99 {}, max {}", time(p99), time(max)),
            peer: format!("p50 {}, p99 {}", time(at(&peer, 0.5)), time(at(&peer, 0.99))),
            floor: format!("without a refresh: p99 {}, max {}", time(quiet_p99), time(quiet_max)),
            ratio: format!("p99 {:.2} of that without a refresh", over(p99, quiet_p99)),
        }]
    }

    /// The peer replaces a token 300 s before its expiry, while its callers wait.
    fn peer_refresh(&self) -> Vec<Duration> {
        let peer = self.peer();
        self.endpoint.set_latency(Duration::ZERO);
        self.endpoint.configure_tokens(|tokens| tokens.lifetime_seconds = 301);
        self.server.block_on(peer_call(&peer)).expect("a token");
        self.endpoint.configure_tokens(|tokens| *tokens = Default::default());
        self.endpoint.set_latency(Duration::from_secs(2));
        on_one_thread().block_on(async {
            let mut ticks = tokio::time::interval(Duration::from_millis(1));
            let start = Instant::now();
            let mut calls = Vec::new();
            while start.elapsed() < Duration::from_secs(4) {
                ticks.tick().await;
                let peer = peer.clone();
                calls.push(tokio::spawn(async move {
                    let start = Instant::now();
                    peer_call(&peer).await.map(|_| start.elapsed())
                }));
            }
            join(calls).await.into_iter().filter_map(Result::ok).collect()
        })
    }

    fn four_minutes_left(&self, full: bool) -> Vec<Row> {
        let faults = [
            ("400", status(400), true),
            ("404", status(404), true),
            ("500", status(500), full),
            ("black hole", Fault::Silence, full),
        ];
        faults
            .into_iter()
            .map(|(name, fault, ask_peer)| {
                self.endpoint.recover();
                self.endpoint.configure_tokens(|tokens| tokens.lifetime_seconds = 240);
                let (ours, peer) = (self.ours(), self.peer());
                self.server.block_on(async {
                    ours.token().await.expect("a token");
                    peer_call(&peer).await.expect("a token");
                });
                // The cache refreshes at four fifths of this lifetime; `renew` forces it now.
                self.endpoint.fail(fault);
                let a = self.server.block_on(calls_for(Duration::from_secs(3), || async {
                    let token = ours.token().await.map_err(|_| ())?;
                    // Reports a refused login, so that the cache requests another token at once.
                    drop(tokio::time::timeout(Duration::from_millis(1), ours.renew(&token)).await);
                    Ok(())
                }));
                let b = ask_peer.then(|| {
                    let limit = Duration::from_secs(if full { 90 } else { 3 });
                    self.server.block_on(calls_for(limit, || async {
                        peer_call(&peer).await.map(drop).map_err(drop)
                    }))
                });
                let words = |calls: Calls| {
                    format!(
                        "{} of {} calls fail{}",
                        calls.failed,
                        calls.total,
                        calls
                            .first
                            .map(|at| format!(", the first after {}", time(at)))
                            .unwrap_or_default()
                    )
                };
                Row {
                    what: format!("4 minutes left, endpoint fails ({name})"),
                    ours: words(a),
                    peer: b.map_or("(with --full)".into(), words),
                    floor: String::new(),
                    ratio: String::new(),
                }
            })
            .collect()
    }

    fn giving_up(&self) -> Vec<Row> {
        self.endpoint.set_latency(Duration::from_secs(2));
        let (ours, peer) = (self.ours(), self.peer());
        let run = async |call: &dyn Fn() -> tokio::task::JoinHandle<bool>| {
            let mut served = 0;
            for _ in 0..6 {
                let mut call = call();
                match tokio::time::timeout(Duration::from_secs(1), &mut call).await {
                    Ok(Ok(true)) => served += 1,
                    Ok(_) => {}
                    Err(_) => call.abort(),
                }
            }
            served
        };
        let (a, a_requests) = self.requests_during(|| {
            self.server.block_on(run(&|| {
                let ours = ours.clone();
                tokio::spawn(async move { ours.token().await.is_ok() })
            }))
        });
        let (b, b_requests) = self.requests_during(|| {
            self.server.block_on(run(&|| {
                let peer = peer.clone();
                tokio::spawn(async move { peer_call(&peer).await.is_ok() })
            }))
        });
        let words =
            |served: u32, requests: u64| format!("{requests} requests, {served} of 6 served");
        vec![Row {
            what: "callers that give up after 1 s, endpoint takes 2 s".into(),
            ours: words(a, a_requests),
            peer: words(b, b_requests),
            floor: "4 of 6".into(),
            ratio: String::new(),
        }]
    }

    fn refused(&self, full: bool) -> Vec<Row> {
        self.server.block_on(self.endpoint.go_away()).expect("the endpoint stops");
        let cold = |cache: TokenCache| {
            let start = Instant::now();
            let failed = self.server.block_on(cache.token()).is_err();
            assert!(failed, "nothing listens");
            start.elapsed()
        };
        // IMDS is used without a chain's probe. App Service's variables announce an
        // endpoint, so the credential tries it up to three times.
        let imds = ManagedIdentity::system_assigned()
            .environment(Environment::default())
            .imds_endpoint(self.endpoint.imds_endpoint())
            .build()
            .expect("a valid configuration");
        let imds = cold(Identity::new(imds).tokens(Scope::AZURE_SQL));
        let app_service = cold(self.ours());
        let peer = full.then(|| {
            let peer = self.peer();
            let start = Instant::now();
            assert!(self.server.block_on(peer_call(&peer)).is_err());
            start.elapsed()
        });
        self.server.block_on(async { self.endpoint.come_back() }).expect("the port is kept");
        let row = |what: &str, ours: Duration, peer: String, ratio: String| Row {
            what: what.into(),
            ours: time(ours),
            peer,
            floor: String::new(),
            ratio,
        };
        vec![
            row(
                "cold, connection refused (IMDS)",
                imds,
                "(has no setting for the endpoint)".into(),
                String::new(),
            ),
            row(
                "cold, connection refused (App Service)",
                app_service,
                peer.map_or("(with --full)".into(), time),
                peer.map(|peer| format!("{:.0} times faster", over(peer, app_service)))
                    .unwrap_or_default(),
            ),
        ]
    }
}

fn status(status: u16) -> Fault {
    Fault::Status(status, r#"{"error":"bench","error_description":"as configured"}"#.into())
}

struct Calls {
    total: u64,
    failed: u64,
    first: Option<Duration>,
}

/// Calls one after the other, 1 ms apart, until the limit.
async fn calls_for<F: Future<Output = Result<(), ()>>>(
    limit: Duration,
    call: impl Fn() -> F,
) -> Calls {
    let start = Instant::now();
    let mut calls = Calls { total: 0, failed: 0, first: None };
    while start.elapsed() < limit {
        // At the limit, a call that has waited for 1 s or more has failed. A call that began
        // later does not count.
        let left = limit.saturating_sub(start.elapsed());
        let answered = tokio::time::timeout(left, call()).await;
        if answered.is_err() && left < Duration::from_secs(1) {
            break;
        }
        calls.total += 1;
        if !matches!(answered, Ok(Ok(()))) {
            calls.failed += 1;
            calls.first.get_or_insert(start.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    calls
}

async fn join<T>(tasks: impl IntoIterator<Item = tokio::task::JoinHandle<T>>) -> Vec<T> {
    // All are spawned before the first is awaited.
    let tasks: Vec<_> = tasks.into_iter().collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.expect("no task panics"));
    }
    results
}

fn count(results: Vec<bool>) -> usize {
    results.into_iter().filter(|ok| *ok).count()
}
