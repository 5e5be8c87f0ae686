//! Requests at an even rate, for the charts.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::Semaphore, time::sleep};

use crate::App;

/// The limit of concurrent requests: it bounds the queue of a pool that cannot connect.
const MOST: usize = 64;

/// How many milliseconds requests keep their connections, in turn.
const KEEP: [u64; 4] = [20, 60, 100, 140];

pub(crate) async fn run(app: Arc<App>) {
    let allowed = [(); 2].map(|()| Arc::new(Semaphore::new(MOST)));
    for keep in KEEP.into_iter().cycle().map(Duration::from_millis) {
        let pause = match app.load.load(Ordering::Relaxed) {
            0 => Duration::from_millis(100),
            rate => Duration::from_secs(1) / rate,
        };
        sleep(pause).await;
        if app.load.load(Ordering::Relaxed) == 0 {
            continue;
        }
        for (at, allowed) in allowed.iter().enumerate() {
            if let Ok(permit) = Arc::clone(allowed).try_acquire_owned() {
                let app = app.clone();
                tokio::spawn(async move {
                    // The pool counts the outcome.
                    let _ = app.pools[at].session(keep).await;
                    drop(permit);
                });
            }
        }
    }
}
