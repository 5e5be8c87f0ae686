//! Simulates a thousand processes that start within one minute, for two days.
//!
//! The caches are the actual ones, on one clock that advances from one refresh to the next. The
//! random numbers are seeded, so that each run is the same.

#[cfg(any(feature = "azure-sql", feature = "postgres"))]
use std::fmt::Write as _;
use std::{cmp::Reverse, collections::BinaryHeap, iter, ops::Range};

use super::*;
use crate::token::policy::Verdict;

const CACHES: usize = 1_000;
const MINUTE: Duration = Duration::from_secs(60);

/// The number of events in each minute.
#[derive(Debug, Clone)]
struct Minutes(Vec<u32>);

impl Minutes {
    fn of(hours: usize) -> Self {
        Self(vec![0; hours * 60])
    }

    fn count(&mut self, at: Duration) {
        if let Some(minute) = self.0.get_mut(usize::try_from(at.as_secs() / 60).unwrap()) {
            *minute += 1;
        }
    }

    /// Returns the most and the average events per window of minutes, from the third hour on.
    fn load(&self, window: usize) -> (u32, f64) {
        let steady = &self.0[3 * 60..];
        let busiest = steady.windows(window).map(|minutes| minutes.iter().sum()).max().unwrap();
        let windows = f64::from(u32::try_from(steady.len() / window).unwrap());
        (busiest, f64::from(steady.iter().sum::<u32>()) / windows)
    }

    fn assert_even(&self, what: &str, window: usize) {
        let (busiest, average) = self.load(window);
        let times = f64::from(busiest) / average;
        println!(
            "{what}: {busiest} in the busiest {window} min, {average:.1} on average, {times:.2} times"
        );
        assert!(times <= 3.0, "{what}: {busiest} in the busiest {window} min, average {average}");
    }
}

/// The state that all providers of a fleet share.
#[derive(Debug)]
struct World {
    clock: ManualClock,
    lifetime: Duration,
    outages: Vec<Range<Duration>>,
    requests: Mutex<Minutes>,
}

/// Issues tokens of the same lifetime. With `repeats`, it returns the same token until 5 minutes
/// before its expiry.
#[derive(Debug)]
struct Issuer {
    world: Arc<World>,
    repeats: bool,
    /// The last token, the number of issued tokens, and the number of requests for the last token.
    issued: Mutex<(Option<Token>, usize, usize)>,
    most_requests: Arc<AtomicUsize>,
}

#[async_trait]
impl TokenCredential for Issuer {
    fn name(&self) -> String {
        "the test".into()
    }

    async fn get_token(&self, _: TokenRequest) -> Answer {
        let World { clock, lifetime, outages, requests } = &*self.world;
        requests.lock().unwrap().count(clock.monotonic());
        if outages.iter().any(|outage| outage.contains(&clock.monotonic())) {
            return Setting::failure(CredentialErrorKind::Transient);
        }
        let (token, number, asked) = &mut *self.issued.lock().unwrap();
        let kept =
            token.take().filter(|token| self.repeats && token.remaining(clock.wall()) > 5 * MINUTE);
        *asked = if kept.is_some() { *asked + 1 } else { 1 };
        self.most_requests.fetch_max(*asked, Ordering::Relaxed);
        let kept = kept.unwrap_or_else(|| {
            *number += 1;
            Token::new(number.to_string(), clock.wall() + *lifetime)
        });
        Ok(token.insert(kept).clone())
    }
}

struct Fleet {
    caches: usize,
    hours: usize,
    lifetime: Duration,
    repeats: bool,
    /// Whether there are outages of 12 minutes, 2 to 5 hours apart.
    outages: bool,
}

/// Returns the requests in each minute, and the most requests for one token.
///
/// Each cache is called when its next request is due. If no caller waits or fails then, no caller
/// does so at any time between two requests.
async fn run(fleet: Fleet) -> (Minutes, usize) {
    let Fleet { caches, hours, lifetime, repeats, outages } = fleet;
    fastrand::seed(19);
    let mut random = fastrand::Rng::with_seed(19);
    let end = HOUR * u32::try_from(hours).unwrap();
    let outages =
        iter::successors(Some(3 * HOUR), |_| Some(Duration::from_secs(random.u64(7_200..18_000))))
            .scan(Duration::ZERO, |at, pause| {
                *at += pause;
                Some(*at..*at + 12 * MINUTE)
            })
            .take_while(|outage| outages && outage.end < end)
            .collect();
    let (clock, requests) = (ManualClock::new(), Mutex::new(Minutes::of(hours)));
    let world = Arc::new(World { clock: clock.clone(), lifetime, outages, requests });
    let most_requests = Arc::new(AtomicUsize::new(0));
    let caches: Vec<_> = (0..caches)
        .map(|_| {
            let (issued, most_requests) = (Mutex::default(), most_requests.clone());
            let credential = Issuer { world: world.clone(), repeats, issued, most_requests };
            Identity::builder(credential).clock(clock.clone()).build().tokens(Scope::AZURE_SQL)
        })
        .collect();
    let mut due: BinaryHeap<_> = (0..caches.len())
        .map(|cache| Reverse((Duration::from_millis(random.u64(..60_000)), cache, true)))
        .collect();
    while let Some(Reverse((at, index, is_first))) = due.pop().filter(|Reverse(next)| next.0 < end)
    {
        clock.advance(at.saturating_sub(clock.monotonic()));
        let inner = &caches[index].0;
        let verdict = inner.core.peek(|held| held.map(|held| held.verdict(inner.now())));
        let expected = (!is_first).then_some(Verdict::UseAndRefresh);
        assert_eq!(verdict, expected, "after {at:?}");
        caches[index].token().await.unwrap();
        // Waits for the request that the call started.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let pause = inner.core.next_refresh(inner.now());
        assert!(!pause.is_zero(), "the request is still running");
        due.push(Reverse((at + pause, index, false)));
    }
    let requests = world.requests.lock().unwrap().clone();
    (requests, most_requests.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_fleet_spreads_its_requests_and_survives_outages_of_12_minutes() {
    for outages in [false, true] {
        let fleet = Fleet { caches: CACHES, hours: 48, lifetime: HOUR, repeats: false, outages };
        run(fleet).await.0.assert_even(&format!("tokens of 1 h, outages: {outages}"), 1);
    }
}

/// With about one request a minute, single minutes vary too much, so hours are compared. An hour
/// with an outage has a fifth more requests.
#[tokio::test]
async fn a_fleet_with_tokens_of_24_hours_spreads_its_requests() {
    for outages in [false, true] {
        let fleet =
            Fleet { caches: CACHES, hours: 48, lifetime: 24 * HOUR, repeats: false, outages };
        let (requests, _) = run(fleet).await;
        let (busiest, average) = requests.load(1);
        println!("outages: {outages}: {busiest} in the busiest minute, {average:.2} on average");
        assert!(busiest <= 15, "{busiest} of {CACHES} in one minute");
        if !outages {
            requests.assert_even("tokens of 24 h", 60);
        }
    }
}

#[tokio::test]
async fn a_provider_that_repeats_its_token_gets_at_most_12_requests_for_it() {
    for (lifetime, caches) in [(HOUR, 50), (24 * HOUR, CACHES)] {
        let fleet = Fleet { caches, hours: 48, lifetime, repeats: true, outages: false };
        let (_, most_requests) = run(fleet).await;
        println!("lifetime {lifetime:?}: {most_requests} requests for one token");
        assert!(most_requests <= 12, "{most_requests}");
    }
}

/// Counts events that each process starts with `each` times, and repeats after random pauses.
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
fn repeated(each: usize, hours: usize, pause: impl Fn(f64) -> Duration) -> Minutes {
    let mut random = fastrand::Rng::with_seed(19);
    let mut minutes = Minutes::of(hours);
    let end = HOUR * u32::try_from(hours).unwrap();
    for _ in 0..CACHES {
        let start = Duration::from_millis(random.u64(..60_000));
        for _ in 0..each {
            let mut at = start;
            while at < end {
                minutes.count(at);
                at += pause(random.f64());
            }
        }
    }
    minutes
}

/// Counts the logins of pools with 4 connections and a maximum lifetime of an hour.
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
fn logins(hours: usize) -> Minutes {
    repeated(4, hours, |jitter| crate::connect::jittered(HOUR, jitter))
}

/// Counts the logins with the rule of version 0.1, which shortened lifetimes by up to a tenth.
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
fn logins_of_0_1(hours: usize) -> Minutes {
    repeated(4, hours, |jitter| HOUR - (HOUR / 10).mul_f64(jitter))
}

#[cfg(any(feature = "azure-sql", feature = "postgres"))]
#[test]
fn a_fleet_of_pools_spreads_its_logins() {
    logins(48).assert_even("logins", 1);
    // The rule of version 0.1 failed this test.
    let (busiest, average) = logins_of_0_1(48).load(1);
    println!(
        "logins with up to a tenth off: {busiest} in the busiest minute, {average:.1} on average"
    );
    assert!(f64::from(busiest) > 6.0 * average);
}

/// Draws `src/manual/fleet.svg`:
/// `cargo test -p entra-pool --lib -- --ignored draws_the_picture_of_a_fleet`.
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
#[tokio::test]
#[ignore = "it writes a file of the manual"]
async fn draws_the_picture_of_a_fleet() {
    const HOURS: usize = 12;
    let fleet =
        Fleet { caches: CACHES, hours: HOURS, lifetime: HOUR, repeats: false, outages: false };
    let (tokens, _) = run(fleet).await;
    // The rule of version 0.1: 5 minutes before the expiry.
    let before = repeated(1, HOURS, |_| 55 * MINUTE);
    let mut svg = String::from(include_str!("fleet_head.svg"));
    panel(&mut svg, 40, "token requests per minute, tokens of 1 h", &before, &tokens);
    panel(
        &mut svg,
        260,
        "logins per minute, 4 connections each, lifetime of 1 h (4,000 at the start)",
        &logins_of_0_1(HOURS),
        &logins(HOURS),
    );
    svg.push_str("</svg>\n");
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/fleet.svg"), svg).unwrap();
}

/// Draws a panel in which each minute is one unit wide, with a height of 160.
#[cfg(any(feature = "azure-sql", feature = "postgres"))]
fn panel(svg: &mut String, top: usize, title: &str, before: &Minutes, after: &Minutes) {
    // The first minute, in which all processes start, would dwarf the others.
    let most = before.0.iter().skip(1).chain(after.0.iter().skip(1)).max().unwrap();
    let most = most.next_multiple_of(100);
    let bottom = top + 160;
    writeln!(svg, r#"<text class="title" x="64" y="{}">{title}</text>"#, top - 12).unwrap();
    for (count, y) in [(most, top), (most / 2, top + 80), (0, bottom)] {
        writeln!(svg, r#"<text class="dim end" x="56" y="{}">{count}</text>"#, y + 4).unwrap();
        writeln!(svg, r#"<path class="rule" d="M64 {y}h720"/>"#).unwrap();
    }
    for hour in (0..=12).step_by(2) {
        let (x, y) = (64 + hour * 60, bottom + 18);
        writeln!(svg, r#"<text class="dim mid" x="{x}" y="{y}">{hour} h</text>"#).unwrap();
    }
    for (class, minutes) in [("before", before), ("after", after)] {
        let mut path = format!("M64 {bottom}");
        let (mut level, mut run) = (0, 0);
        for count in &minutes.0 {
            let next = (count.min(&most) * 160 + most / 2) / most;
            if next != level {
                if run > 0 {
                    write!(path, "h{run}").unwrap();
                }
                write!(path, "v{}", i64::from(level) - i64::from(next)).unwrap();
                (level, run) = (next, 0);
            }
            run += 1;
        }
        writeln!(svg, r#"<path class="{class}" d="{path}h{run}"/>"#).unwrap();
    }
}
