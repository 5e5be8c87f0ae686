//! Tests of the state machine's decisions at given times.

use std::time::{Duration, SystemTime};

use super::{HOUR, MOMENT, S};
use crate::token::{
    Scope, Token, TokenError,
    policy::Now,
    state::{Change, Core, RenewStep, Step, Ticket},
};

/// Returns the time after `elapsed`, on both clocks.
fn after(elapsed: Duration) -> Now {
    Now { wall: SystemTime::UNIX_EPOCH + elapsed, monotonic: elapsed }
}

/// Returns the request that a caller starts.
fn started(core: &Core, now: Now) -> Ticket {
    match core.call(now) {
        (Step::Wait { start: Some(ticket), .. } | Step::TakeAndStart(_, ticket), _) => ticket,
        other => panic!("{other:?}"),
    }
}

fn failed() -> TokenError {
    TokenError::Cancelled { scope: Scope::AZURE_SQL, credential: "the test".to_owned() }
}

/// A request that had timed out fails while another one is running.
#[test]
fn a_running_request_is_joined_although_another_one_just_failed() {
    let core = Core::new();
    let given_up = started(&core, after(S));
    let _pending = started(&core, after(181 * S));
    let _ = core.finish(given_up, Err(failed()), None, after(S), after(181 * S), 0.0);
    let (step, _) = core.call(after(181 * S));
    assert!(matches!(step, Step::Wait { start: None, .. }), "{step:?}");
    assert_eq!((core.counts().requests, core.counts().failures), (2, 1));
}

#[test]
fn a_token_is_replaced_by_a_later_one_or_if_it_was_refused() {
    let (first, end) = (after(S), HOUR);
    let token = |secret: &str, end: Duration| Token::new(secret, SystemTime::UNIX_EPOCH + end);
    for (refused, next_ends, change, held) in [
        (false, end + MOMENT, Change::Refreshed, "b"),
        (false, end, Change::NoProgress, "b"),
        (false, end - MOMENT, Change::NoProgress, "a"),
        (true, end + MOMENT, Change::Refreshed, "b"),
        (true, end - MOMENT, Change::NoProgress, "b"),
    ] {
        let core = Core::new();
        let ticket = started(&core, first);
        let (fetched, _) = core.finish(ticket, Ok(token("a", end)), None, first, first, 0.0);
        assert_eq!(fetched, Change::Fetched);
        let due = after(HOUR * 11 / 12 + S);
        let ticket = if refused {
            match core.refused(&token("a", end), due).0 {
                RenewStep::Wait { start: Some(ticket), .. } => ticket,
                other => panic!("{other:?}"),
            }
        } else {
            started(&core, due)
        };
        let (is, _) = core.finish(ticket, Ok(token("b", next_ends)), None, due, due, 0.0);
        let secret = core.peek(|held| held.unwrap().token.secret().to_owned());
        assert_eq!((is, secret.as_str()), (change, held), "{refused}, {next_ends:?}");
    }
}

#[test]
fn a_refused_caller_gets_the_last_failure_while_it_applies() {
    let token = Token::new("a", SystemTime::UNIX_EPOCH + HOUR);
    let refused = |core: &Core, at: Duration| match core.refused(&token, after(at)).0 {
        RenewStep::Fail(_) => true,
        RenewStep::Wait { start: Some(_), .. } => false,
        other => panic!("{other:?}"),
    };
    // Without a token: for as long as the provider requests.
    let core = Core::new();
    let ticket = started(&core, after(S));
    let _ = core.finish(ticket, Err(failed()), Some(20 * S), after(S), after(S), 0.0);
    assert!(refused(&core, 21 * S - MOMENT) && !refused(&core, 21 * S));
    // With a usable token: 30 s for the first failure, although the refresh pauses longer.
    let core = Core::new();
    let ticket = started(&core, after(S));
    let _ = core.finish(ticket, Ok(token.clone()), None, after(S), after(S), 0.0);
    let due = HOUR * 11 / 12 + S;
    let ticket = started(&core, after(due));
    let _ = core.finish(ticket, Err(failed()), None, after(due), after(due), 0.0);
    assert!(refused(&core, due + 30 * S - MOMENT) && !refused(&core, due + 30 * S));
}

#[test]
fn a_fresh_token_is_read_without_locking_the_state() {
    let core = Core::new();
    let now = after(HOUR);
    let ticket = started(&core, now);
    assert!(core.fresh(now.wall).is_none());
    let _ = core.finish(ticket, Ok(Token::new("a", now.wall + HOUR)), None, now, now, 0.0);
    assert_eq!(core.fresh(now.wall).unwrap().secret(), "a");
    assert!(core.fresh(now.wall + HOUR).is_none());
}

#[test]
fn an_earlier_pause_does_not_delay_the_request_of_the_next_token() {
    let core = Core::new();
    let ticket = started(&core, after(S));
    let _ = core.finish(ticket, Err(failed()), Some(300 * S), after(S), after(S), 0.0);
    assert_eq!(core.next_refresh(after(S)), 300 * S);
    let ticket = started(&core, after(60 * S));
    let token = Token::new("a", SystemTime::UNIX_EPOCH + HOUR);
    let _ = core.finish(ticket, Ok(token), None, after(60 * S), after(60 * S), 0.0);
    assert_eq!(core.next_refresh(after(60 * S)), (HOUR - 60 * S) * 3 / 4);
    // The machine is suspended, so its monotonic clock stops.
    let woken = Now { wall: SystemTime::UNIX_EPOCH + 2 * HOUR, monotonic: 61 * S };
    assert_eq!(core.next_refresh(woken), Duration::ZERO);
}

#[test]
fn a_repeated_token_is_requested_again_after_a_third_of_the_time() {
    let token = |secret: &str, end: Duration| Token::new(secret, SystemTime::UNIX_EPOCH + end);
    // The same token, after a refresh and after a refusal, and a token that expires earlier.
    for (refused, secret, end) in [(false, "a", HOUR), (true, "a", HOUR), (false, "b", HOUR - S)] {
        let core = Core::new();
        let ticket = started(&core, after(Duration::ZERO));
        let finished = |ticket, token, at| core.finish(ticket, Ok(token), None, at, at, 0.0).0;
        finished(ticket, token("a", HOUR), after(Duration::ZERO));
        let due = after(HOUR * 3 / 4);
        let ticket = if refused {
            match core.refused(&token("a", HOUR), due).0 {
                RenewStep::Wait { start: Some(ticket), .. } => ticket,
                other => panic!("{other:?}"),
            }
        } else {
            started(&core, due)
        };
        assert_eq!(finished(ticket, token(secret, end), due), Change::NoProgress);
        // A third of the 10 minutes until then.
        assert_eq!(core.next_refresh(due), 200 * S, "{refused} {secret}");
        let early = due.wall + 200 * S - MOMENT;
        assert!(
            core.fresh(early).is_some_and(|held| held.secret() == "a"),
            "read without the lock"
        );
        assert!(core.fresh(early + MOMENT).is_none());
    }
}

#[test]
fn in_the_last_5_minutes_a_repeated_token_is_requested_after_30_s_and_growing_pauses() {
    let core = Core::new();
    let token = Token::new("a", SystemTime::UNIX_EPOCH + HOUR);
    let mut now = after(Duration::ZERO);
    let mut pauses = vec![];
    for at in [0, 3_300, 3_330, 3_390, 3_495] {
        now = after(at * S);
        let ticket = started(&core, now);
        let _ = core.finish(ticket, Ok(token.clone()), None, now, now, 0.0);
        pauses.push(core.next_refresh(now).as_millis());
    }
    assert_eq!(pauses, [2_700_000, 30_000, 60_000, 104_000, 51_500]);
    assert!(matches!(core.call(now).0, Step::Take(_)));
}

#[test]
fn an_early_renewal_that_returns_the_same_token_keeps_the_refresh_point() {
    let core = Core::new();
    let token = Token::new("a", SystemTime::UNIX_EPOCH + 24 * HOUR);
    let ticket = started(&core, after(Duration::ZERO));
    let _ = core.finish(ticket, Ok(token.clone()), None, after(Duration::ZERO), after(S), 0.0);
    let RenewStep::Wait { start: Some(ticket), .. } = core.refused(&token, after(60 * S)).0 else {
        panic!("no request started");
    };
    let _ = core.finish(ticket, Ok(token), None, after(60 * S), after(60 * S), 0.0);
    assert_eq!(core.next_refresh(after(60 * S)), 18 * HOUR - 60 * S);
}
