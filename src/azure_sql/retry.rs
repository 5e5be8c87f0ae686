use std::time::Duration;

use super::{Config, Error, error::CANNOT_OPEN_DATABASE};

/// The first pause, which doubles …
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// With less time left, no other try can come to an end.
const TOO_LITTLE: Duration = Duration::from_secs(1);

/// How often an error is tried again that may as well last.
const TRIES_OF_DOUBT: u32 = 2;

/// Which connects are tried again, and when.
///
/// What Azure calls transient is tried as long as there is time, so that a paused
/// serverless database is waited for. A database that cannot be opened may be
/// failing over or misspelt, a connection may break by chance or be cut by a
/// firewall, and a server that is known may be restarting or gone: these are tried
/// twice. `ConnectRetryCount` limits either.
#[derive(Debug)]
pub(super) struct Retries {
    count: Option<u32>,
    interval: Option<Duration>,
    tried: u32,
    /// Of these, for an error that may last.
    doubted: u32,
}

impl Retries {
    pub(super) fn of(config: &Config) -> Self {
        Self { count: config.retry_count, interval: config.retry_interval, tried: 0, doubted: 0 }
    }

    /// The pause before another try, if there is to be one and there is time for
    /// it. `known`: the server has answered before. `chance`, from 0 to 1, keeps those
    /// apart that failed together.
    pub(super) fn after(
        &mut self,
        error: &Error,
        known: bool,
        left: Duration,
        chance: f64,
    ) -> Option<Duration> {
        let may_pass = match error {
            Error::Login { .. } | Error::Broken { .. } => error.is_transient(),
            Error::Dial { .. } | Error::Resolve { .. } => known,
            _ => false,
        };
        if !may_pass {
            return None;
        }
        let lasts = |code| code == CANNOT_OPEN_DATABASE;
        let doubtful = error.server_error().is_none_or(|error| lasts(error.code()));
        let enough = match self.count {
            Some(count) => self.tried >= count,
            None => doubtful && self.doubted >= TRIES_OF_DOUBT,
        };
        if enough || left < TOO_LITTLE {
            return None;
        }
        let pause = self.interval.unwrap_or_else(|| {
            FIRST_PAUSE.saturating_mul(1 << self.tried.min(10)).min(LONGEST_PAUSE)
        });
        self.tried += 1;
        self.doubted += u32::from(doubtful);
        // A last try is worth more than a long pause.
        Some(pause.mul_f64(0.75 + chance / 2.0).min(left / 2))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::azure_sql::Stage;

    fn broken() -> Error {
        let source = io::ErrorKind::ConnectionReset.into();
        Error::Broken { server: "s,1433".into(), stage: Stage::Tls, source }
    }

    fn retries(keywords: &str) -> Retries {
        let string = format!("Server=shop.database.windows.net;{keywords}");
        Retries::of(&string.parse().unwrap())
    }

    #[test]
    fn pauses_double_and_leave_time_for_a_last_try() {
        let mut retries = Retries { count: Some(u32::MAX), ..retries("") };
        let minute = Duration::from_secs(60);
        let pauses: Vec<_> = (0..5).map(|_| retries.after(&broken(), false, minute, 0.5)).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5].map(|s| Some(Duration::from_secs(s))));
        let short = Duration::from_secs(4);
        assert_eq!(retries.after(&broken(), false, short, 0.5), Some(short / 2));
        assert_eq!(retries.after(&broken(), false, Duration::from_millis(999), 0.5), None);
        let [least, most] =
            [0.0, 1.0].map(|chance| retries.after(&broken(), false, minute, chance));
        assert_eq!(least, Some(Duration::from_millis(3750)));
        assert_eq!(most, Some(Duration::from_millis(6250)));
    }

    #[test]
    fn what_may_last_is_tried_twice_and_what_will_last_never() {
        let minute = Duration::from_secs(60);
        let mut by_default = retries("");
        let tries =
            (0..5).filter(|_| by_default.after(&broken(), false, minute, 0.5).is_some()).count();
        assert_eq!(tries, 2);
        let declined = Error::EncryptionDeclined { server: "s,1433".into() };
        assert_eq!(retries("").after(&declined, false, minute, 0.5), None);
        let dial = Error::Dial {
            server: "s,1433".into(),
            source: io::ErrorKind::ConnectionRefused.into(),
        };
        assert_eq!(retries("").after(&dial, false, minute, 0.5), None, "it is told at once");
        let mut known = retries("");
        let tries = (0..5).filter(|_| known.after(&dial, true, minute, 0.5).is_some()).count();
        assert_eq!(tries, 2, "it was there before");
    }
}
