use std::sync::Arc;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Metrics, RecyclingMethod,
};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Config, Connector, Error, Recycling, RetireReason,
    connector::{Connecting, Spawned},
    link::pool_task,
    recycling::make_fit,
    replay,
    retire::unfit,
};
use crate::connect::{self, PoolState};

/// The pool of deadpool-postgres, with its sizes, time limits, hooks, `status`, `retain` and
/// `close`. It returns [`deadpool_postgres::Client`]s.
pub type Pool = deadpool_postgres::Pool;

/// Builds a [`Pool`].
pub type PoolBuilder = connect::PoolBuilder<Manager>;

/// A connection that is checked out of a [`Pool`].
pub type PooledConnection = deadpool_postgres::Client;

/// The error of a checkout from a [`Pool`], which converts to [`Error`](super::Error).
pub type PoolError = deadpool_postgres::PoolError;

pub(super) fn builder(connector: &Connector) -> PoolBuilder {
    let config = connector.config();
    let state = Arc::new(PoolState::new(connector.engine()));
    // A hook recycles instead, because it can time out, cancel and report.
    let manager = Manager::from_connect(
        config.session.clone(),
        PoolConnect { connector: connector.clone(), state: state.clone() },
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    let Config { connect_timeout, max_size, min_size, .. } = *config;
    let following = connector.clone();
    let builder = PoolBuilder::new(manager, &state, connect_timeout, max_size, min_size)
        .post_create(Hook::sync_fn(move |client: &mut ClientWrapper, _| {
            following.link(&client.cancel_token()).inspect(|link| link.clears(client));
            Ok(())
        }))
        .pre_recycle(retire_the_unfit(connector.clone()));
    match config.recycling {
        Recycling::Fast => builder,
        _ => builder.pre_recycle(recycle(connector.clone(), state)),
    }
}

/// Opens the connections of one pool, and starts its maintenance.
struct PoolConnect {
    connector: Connector,
    state: Arc<State>,
}

type State = PoolState<Manager, Spawned>;

impl deadpool_postgres::Connect for PoolConnect {
    fn connect(&self, _: &tokio_postgres::Config) -> Connecting<'_> {
        if self.connector.config().maintenance {
            let connector = self.connector.clone();
            let min_size = connector.config().min_size;
            let is_fit = move |_: &Manager, client: &ClientWrapper, metrics: &Metrics| {
                let reason = unfit(connector.config(), client, metrics).or_else(|| {
                    let link = connector.link(&client.cancel_token())?;
                    link.look_at_idle(metrics.recycle_count)
                });
                reason.inspect(|reason| connector.metrics().retired(*reason)).is_none()
            };
            self.state.maintain(min_size, is_fit);
        }
        let login = |began| {
            let connector = self.connector.clone();
            async move {
                let (client, driver, link) =
                    connector.spawn(began).await.map_err(replay::wrapped)?;
                Ok((client, pool_task(AbortOnDropHandle::new(driver), &link)))
            }
        };
        Box::pin(async move {
            let is_alive = |(client, _): &Spawned| !client.is_closed();
            self.state.connect(login, is_alive).await
        })
    }
}

fn retire_the_unfit(connector: Connector) -> Hook {
    Hook::sync_fn(move |client: &mut ClientWrapper, metrics| {
        match unfit(connector.config(), client, metrics) {
            // Counted here, because deadpool drops the error of a hook.
            Some(reason) => {
                connector.metrics().retired(reason);
                Err(HookError::message(reason.to_string()))
            }
            None => Ok(()),
        }
    })
}

fn recycle(connector: Connector, state: Arc<State>) -> Hook {
    Hook::async_fn(move |client: &mut ClientWrapper, _| {
        let (connector, state) = (connector.clone(), state.clone());
        Box::pin(async move {
            let mut cleaning = Cleaning { connector, state, client, ended: false };
            let fit = make_fit(&cleaning.connector, cleaning.client).await;
            cleaning.ended = true;
            fit.map_err(|reason| HookError::message(reason.to_string()))
        })
    })
}

/// A cleaning that continues in the background if its caller gives up. The next caller then gets
/// the connection, like that of an abandoned login.
struct Cleaning<'a> {
    connector: Connector,
    state: Arc<State>,
    client: &'a mut ClientWrapper,
    ended: bool,
}

impl Cleaning<'_> {
    /// Continues in the background. Returns `None` if that is not possible.
    fn go_on(&mut self) -> Option<()> {
        Handle::try_current().ok()?;
        let link = self.connector.link(&self.client.cancel_token())?;
        let closed = replay::closed_client()?;
        let driver = link.take_driver()?;
        let client = std::mem::replace(&mut **self.client, closed);
        let connector = self.connector.clone();
        self.state.logins.start_abandoned(async move {
            match make_fit(&connector, &client).await {
                Ok(()) => Ok((client, pool_task(driver, &link))),
                Err(reason) => Err(replay::wrapped(Error::Retired { reason })),
            }
        });
        Some(())
    }
}

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        if !self.ended && self.go_on().is_none() {
            self.connector.metrics().retired(RetireReason::Unsettled);
        }
    }
}

/// Closes `pool` and waits, without a time limit, until the last of its connections has been
/// returned. Use it when a program shuts down. Connections that were
/// [taken](deadpool_postgres::Object::take) out of the pool do not count.
pub async fn close_and_wait(pool: &Pool) {
    pool.close();
    connect::drained(pool).await;
}
