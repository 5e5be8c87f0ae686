use std::time::Duration;

use super::{
    Error,
    error::{is_down, is_other_role, was_refused},
};

/// The first pause, which doubles …
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// … up to this: a server that restarts is back in seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// With less time left, no other try can come to an end.
const TOO_LITTLE: Duration = Duration::from_secs(1);

/// How often an error is tried again that may as well last.
const TRIES_OF_DOUBT: u32 = 2;

/// Which connects are tried again, and when.
///
/// A server that says itself that it is starting, stopping or full is waited for as
/// long as there is time, and so is one that has let us in before and is not
/// there now: it restarts. One that has never been met may be misspelt, or cut off by a
/// firewall: that is tried twice.
#[derive(Debug)]
pub(super) struct Retries {
    /// Whether a login has succeeded before.
    known: bool,
    /// Whether there are several hosts.
    several: bool,
    tried: u32,
    /// Of these, for an error that may last.
    doubted: u32,
}

/// What trying again after an error promises, from the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Prospect {
    Lasts,
    MayPass,
    /// The server says so.
    Passes,
}

impl Prospect {
    /// Of an error from one of `several` hosts, or of the only one.
    pub(super) fn of(error: &Error, several: bool) -> Self {
        match error {
            Error::Login(error) if is_down(error) && error.code().is_some() => Self::Passes,
            // Among several, the other one may be about to take its role.
            Error::Login(error) if is_down(error) || (several && is_other_role(error)) => {
                Self::MayPass
            }
            Error::Broken { .. } => Self::MayPass,
            // A network that swallows packets has cost all its time already.
            Error::Dial { source, .. } if was_refused(source) => Self::MayPass,
            _ => Self::Lasts,
        }
    }
}

impl Retries {
    pub(super) fn new(known: bool, several: bool) -> Self {
        Self { known, several, tried: 0, doubted: 0 }
    }

    /// The pause before another try, if there is to be one and there is time for
    /// it. `chance`, from 0 to 1, keeps those apart that failed together.
    pub(super) fn after(&mut self, error: &Error, left: Duration, chance: f64) -> Option<Duration> {
        let prospect = Prospect::of(error, self.several);
        let doubtful = prospect == Prospect::MayPass && !self.known;
        if prospect == Prospect::Lasts
            || left < TOO_LITTLE
            || (doubtful && self.doubted >= TRIES_OF_DOUBT)
        {
            return None;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.tried.min(10)).min(LONGEST_PAUSE);
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
    use crate::postgres::{
        Stage,
        replay::{server_error, unreadable},
    };

    const MINUTE: Duration = Duration::from_secs(60);

    async fn broken() -> Error {
        let source = unreadable(io::ErrorKind::ConnectionReset.into()).await;
        Error::Broken { server: "h:5432".into(), stage: Stage::Tls, source }
    }

    async fn dial(kind: io::ErrorKind) -> Error {
        Error::Dial { server: "h:5432".into(), source: unreadable(kind.into()).await }
    }

    async fn says(code: &str) -> Error {
        Error::Login(server_error(&[(b'S', "FATAL"), (b'C', code), (b'M', "x")]).await)
    }

    fn tries(mut retries: Retries, error: &Error) -> usize {
        (0..20).filter(|_| retries.after(error, MINUTE, 0.5).is_some()).count()
    }

    #[tokio::test]
    async fn pauses_double_and_leave_time_for_a_last_try() {
        let mut retries = Retries::new(true, false);
        let broken = broken().await;
        let pauses: Vec<_> = (0..6).map(|_| retries.after(&broken, MINUTE, 0.5)).collect();
        let doubled = [100, 200, 400, 800, 1000, 1000];
        assert_eq!(pauses, doubled.map(|ms| Some(Duration::from_millis(ms))));
        let left = Duration::from_millis(1500);
        assert_eq!(retries.after(&broken, left, 0.5), Some(left / 2));
        assert_eq!(retries.after(&broken, Duration::from_millis(999), 0.5), None);
        let [least, most] = [0.0, 1.0].map(|chance| retries.after(&broken, MINUTE, chance));
        assert_eq!(least, Some(Duration::from_millis(750)));
        assert_eq!(most, Some(Duration::from_millis(1250)));
    }

    #[tokio::test]
    async fn what_passes_is_tried_as_long_as_there_is_time_and_what_will_last_never() {
        for (code, tried) in [
            ("57P03", 20),
            ("57P01", 20),
            ("53300", 20),
            ("08006", 20),
            ("3D000", 0),
            ("42501", 0),
            ("57P04", 0),
        ] {
            assert_eq!(tries(Retries::new(false, false), &says(code).await), tried, "{code}");
        }
        let refused = Error::LoginRefused(server_error(&[(b'C', "28P01")]).await);
        assert_eq!(tries(Retries::new(true, false), &refused), 0);
        let declined = Error::EncryptionDeclined { server: "h:5432".into() };
        assert_eq!(tries(Retries::new(true, false), &declined), 0);
        assert_eq!(tries(Retries::new(true, false), &dial(io::ErrorKind::TimedOut).await), 0);
    }

    #[tokio::test]
    async fn a_server_of_another_role_may_give_it_up_where_there_are_several() {
        let error = Error::Login(unreadable(io::ErrorKind::PermissionDenied.into()).await);
        assert_eq!(tries(Retries::new(true, true), &error), 20);
        assert_eq!(tries(Retries::new(false, true), &error), 2);
        assert_eq!(tries(Retries::new(true, false), &error), 0);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_waited_for_only_if_it_once_was() {
        for error in [dial(io::ErrorKind::ConnectionRefused).await, broken().await] {
            assert_eq!(tries(Retries::new(false, false), &error), 2, "{error}");
            assert_eq!(tries(Retries::new(true, false), &error), 20, "{error}");
        }
    }
}
