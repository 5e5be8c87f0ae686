//! Faults: which ones, when, and in which order. A seed determines all of it.

use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use entra_pool_emulator::{
    azure_sql::{Fault as AzureFault, ServerError, Stage},
    front::postgres::LoginError,
    identity::Fault,
    network::Network,
};
use fastrand::Rng;
use tokio::time::sleep;

use crate::world::{ROLE, TOKEN_LIFETIME, World, set_token_lifetime};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Database {
    Azure,
    Postgres,
}

use Database::{Azure, Postgres};

/// A temporary fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    IdentitySlow,
    IdentityThrottles,
    IdentityIsUpdated,
    IdentityFails,
    IdentityIsSilent,
    IdentityReturnsGarbage,
    IdentityIsDown,
    Restart(Database),
    Cut(Database),
    Stall(Database),
    Unreachable(Database),
    RefuseLogins(Database),
    /// Azure SQL sends logins to another server.
    Route,
    /// Azure SQL reports that it is busy.
    Busy,
    /// Azure SQL cuts, stalls or delays connections at any stage.
    Disturb,
    /// The monotonic clock jumps forwards; the wall clock does not.
    Freeze,
    WallFast,
    WallSlow,
}

/// The affected component. Two faults of the same component do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Identity,
    Server(Database),
    Clock,
}

impl Step {
    const ALL: [Self; 23] = [
        Self::IdentitySlow,
        Self::IdentityThrottles,
        Self::IdentityIsUpdated,
        Self::IdentityFails,
        Self::IdentityIsSilent,
        Self::IdentityReturnsGarbage,
        Self::IdentityIsDown,
        Self::Restart(Azure),
        Self::Restart(Postgres),
        Self::Cut(Azure),
        Self::Cut(Postgres),
        Self::Stall(Azure),
        Self::Stall(Postgres),
        Self::Unreachable(Azure),
        Self::Unreachable(Postgres),
        Self::RefuseLogins(Azure),
        Self::RefuseLogins(Postgres),
        Self::Route,
        Self::Busy,
        Self::Disturb,
        Self::Freeze,
        Self::WallFast,
        Self::WallSlow,
    ];

    fn part(self) -> Part {
        match self {
            Self::IdentitySlow
            | Self::IdentityThrottles
            | Self::IdentityIsUpdated
            | Self::IdentityFails
            | Self::IdentityIsSilent
            | Self::IdentityReturnsGarbage
            | Self::IdentityIsDown => Part::Identity,
            Self::Restart(database)
            | Self::Cut(database)
            | Self::Stall(database)
            | Self::Unreachable(database)
            | Self::RefuseLogins(database) => Part::Server(database),
            Self::Route | Self::Busy | Self::Disturb => Part::Server(Azure),
            Self::Freeze | Self::WallFast | Self::WallSlow => Part::Clock,
        }
    }

    async fn run(self, world: &World, random: &mut Rng) {
        let length = Duration::from_millis(random.u64(1_000..3_500));
        let endpoint = &world.endpoint;
        let network = |database| match database {
            Azure => &world.to_azure,
            Postgres => &world.to_postgres,
        };
        if self.part() == Part::Identity && random.bool() {
            // So that the cached token expires during the fault.
            world.clock.jump(TOKEN_LIFETIME);
        }
        match self {
            Self::IdentitySlow => {
                endpoint.set_latency(Duration::from_millis(random.u64(200..3_000)));
                sleep(length).await;
                endpoint.set_latency(Duration::ZERO);
            }
            Self::IdentityThrottles => {
                endpoint.fail(Fault::Throttled(Some(random.u64(1..4))));
                sleep(length).await;
                endpoint.recover();
            }
            Self::IdentityIsUpdated => {
                endpoint.fail(Fault::Status(410, String::new()));
                sleep(length).await;
                endpoint.recover();
            }
            Self::IdentityFails => {
                endpoint.fail(Fault::Status(*random.choice(&[500, 503]).unwrap(), String::new()));
                sleep(length).await;
                endpoint.recover();
            }
            Self::IdentityIsSilent => {
                endpoint.fail(Fault::Silence);
                sleep(length).await;
                endpoint.recover();
                if random.bool() {
                    // A restart ends the pending requests; otherwise they keep waiting.
                    endpoint.go_away().await.unwrap();
                    endpoint.come_back().unwrap();
                }
            }
            Self::IdentityReturnsGarbage => {
                let garbage = [
                    Fault::Status(200, "<!doctype html>".to_owned()),
                    Fault::Status(200, r#"{"token_type":"Bear"#.to_owned()),
                    Fault::Status(200, String::new()),
                ];
                endpoint.fail(random.choice(garbage).unwrap());
                sleep(length).await;
                endpoint.recover();
            }
            Self::IdentityIsDown => {
                endpoint.go_away().await.unwrap();
                sleep(length).await;
                endpoint.come_back().unwrap();
            }
            Self::Restart(Azure) => {
                world.azure.go_away().await.unwrap();
                sleep(length).await;
                world.azure.come_back().unwrap();
            }
            Self::Restart(Postgres) => world.postgres.restart().await,
            Self::Cut(database) => cut(network(database), length, random).await,
            Self::Stall(database) => {
                network(database).hold();
                sleep(length).await;
                network(database).release();
            }
            Self::Unreachable(database) => {
                network(database).go_away().await.unwrap();
                sleep(length).await;
                network(database).come_back().unwrap();
            }
            Self::RefuseLogins(Azure) => {
                let text = "Login failed for user '<token-identified principal>'.";
                world.azure.behaviour().fail_logins(usize::MAX, ServerError::new(18456, 14, text));
                sleep(length).await;
                world.azure.behaviour().calm();
                sleep(REFUSAL_LASTS).await;
            }
            Self::RefuseLogins(Postgres) => {
                let text = format!("password authentication failed for user \"{ROLE}\"");
                let control = world.postgres.front().behaviour();
                control.fail_logins(usize::MAX, LoginError::new("28P01", text));
                sleep(length).await;
                control.calm();
                sleep(REFUSAL_LASTS).await;
            }
            Self::Route => {
                let port = world.elsewhere.addr().port();
                world.azure.behaviour().route_logins(usize::MAX, "localhost", port);
                sleep(length).await;
                world.azure.behaviour().calm();
            }
            Self::Busy => {
                let behaviour = world.azure.behaviour();
                behaviour.fail_logins(random.usize(1..10), ServerError::new(40613, 17, "Not now."));
                behaviour.fail_requests(random.usize(1..10), ServerError::new(40501, 20, "Busy."));
                sleep(length).await;
                behaviour.calm();
            }
            Self::Disturb => {
                let delay = Duration::from_millis(random.u64(10..1_000));
                let faults = [AzureFault::Cut, AzureFault::Stall, AzureFault::Delay(delay)];
                for _ in 0..3 {
                    let stage = *random.choice(&Stage::ALL).unwrap();
                    let fault = random.choice(faults).unwrap();
                    world.azure.behaviour().disturb(random.usize(1..8), stage, fault);
                }
                sleep(length).await;
                world.azure.behaviour().calm();
            }
            Self::Freeze => {
                world.clock.jump(Duration::from_millis(random.u64(500..600_000)));
                sleep(length).await;
            }
            Self::WallFast => {
                // New tokens seem to have expired, and are used for a minute, so their
                // lifetime must be longer than that.
                set_token_lifetime(endpoint, Duration::from_secs(90));
                world.clock.wall_fast(Duration::from_secs(random.u64(5..100_000)));
                sleep(length).await;
                world.clock.set_wall_right();
                set_token_lifetime(endpoint, TOKEN_LIFETIME);
            }
            Self::WallSlow => {
                world.clock.wall_slow(Duration::from_secs(random.u64(5..100_000)));
                sleep(length).await;
                world.clock.set_wall_right();
            }
        }
    }
}

/// A connector returns its last refusal for 1 s.
const REFUSAL_LASTS: Duration = Duration::from_millis(1_500);

async fn cut(network: &Network, length: Duration, random: &mut Rng) {
    let until = Instant::now() + length;
    while Instant::now() < until {
        network.cut_connections().await;
        sleep(Duration::from_millis(random.u64(50..500))).await;
    }
}

/// The current and the past faults.
#[derive(Default)]
pub struct Script(Mutex<Vec<(Step, Instant, Option<Instant>)>>);

impl Script {
    /// Runs all steps in random order, one or more at a time, and starts over until `length` has
    /// passed.
    pub async fn play(&self, world: &World, seed: u64, length: Duration) {
        let mut random = Rng::with_seed(seed);
        let until = Instant::now() + length;
        let mut steps: Vec<Step> = Vec::new();
        while Instant::now() < until {
            let mut together = Vec::new();
            for _ in 0..*random.choice(&[1, 1, 2, 3]).unwrap() {
                if steps.is_empty() {
                    steps = Step::ALL.into();
                    random.shuffle(&mut steps);
                }
                let fits =
                    |step: &Step| together.iter().all(|other: &Step| other.part() != step.part());
                match steps.iter().rposition(fits) {
                    Some(place) => together.push(steps.remove(place)),
                    None => break,
                }
            }
            let happening = together.into_iter().map(|step| {
                let mut random = random.fork();
                async move {
                    let place = self.begin(step);
                    step.run(world, &mut random).await;
                    self.end(place);
                }
            });
            futures_util::future::join_all(happening).await;
            sleep(Duration::from_millis(random.u64(0..1_000))).await;
        }
    }

    /// Returns the steps that were active at any time since then.
    pub fn since(&self, began: Instant) -> BTreeSet<Step> {
        let steps = self.0.lock().unwrap();
        let was_active =
            |(_, _, ended): &&(_, _, Option<Instant>)| ended.is_none_or(|end| end >= began);
        // The steps are in the order of their start; no step lasts longer than the next hundred.
        steps.iter().rev().take(100).filter(was_active).map(|(step, ..)| *step).collect()
    }

    /// Returns how often this step has run.
    pub fn times(&self, step: Step) -> usize {
        self.0.lock().unwrap().iter().filter(|(taken, ..)| *taken == step).count()
    }

    fn begin(&self, step: Step) -> usize {
        let mut steps = self.0.lock().unwrap();
        steps.push((step, Instant::now(), None));
        steps.len() - 1
    }

    fn end(&self, place: usize) {
        self.0.lock().unwrap()[place].2 = Some(Instant::now());
    }
}
