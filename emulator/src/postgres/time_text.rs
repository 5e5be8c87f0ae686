//! Dates and times between text and PostgreSQL's counts from 2000-01-01.

use std::fmt::Write as _;

use time::{Date, Duration, Month, PrimitiveDateTime, Time, macros::date};

const EPOCH: Date = date!(2000 - 01 - 01);

/// Microseconds from 2000-01-01 00:00 (UTC, if `with_zone`) to
/// `YYYY-MM-DD[ HH:MM[:SS[.ffffff]][Z|±HH[:MM]]]`.
pub(super) fn parse_timestamp(text: &str, with_zone: bool) -> Option<i64> {
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10)?;
    let date = calendar_date(date)?;
    let rest = rest.trim_start_matches(['T', ' ']);
    let (clock, zone) = match rest.find(['Z', 'z', '+', '-']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let time = if clock.is_empty() { Time::MIDNIGHT } else { clock_time(clock.trim_end())? };
    let offset = if with_zone { zone_offset(zone)? } else { Duration::ZERO };
    let since = PrimitiveDateTime::new(date, time) - PrimitiveDateTime::new(EPOCH, Time::MIDNIGHT);
    i64::try_from((since - offset).whole_microseconds()).ok()
}

/// Days from 2000-01-01.
pub(super) fn parse_date(text: &str) -> Option<i32> {
    let date = calendar_date(text.trim().get(..10)?)?;
    i32::try_from((date - EPOCH).whole_days()).ok()
}

fn calendar_date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let year = parts.next()?.parse().ok()?;
    let month: u8 = parts.next()?.parse().ok()?;
    let day = parts.next()?.parse().ok()?;
    Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()
}

fn clock_time(text: &str) -> Option<Time> {
    let mut parts = text.split(':');
    let hour = parts.next()?.parse().ok()?;
    let minute = parts.next()?.parse().ok()?;
    let (second, fraction) = match parts.next().unwrap_or("0").split_once('.') {
        Some((second, fraction)) => (second.to_owned(), format!("{fraction:0<6}")),
        None => (text.split(':').nth(2).unwrap_or("0").to_owned(), "0".to_owned()),
    };
    let micros = fraction.get(..6).unwrap_or(&fraction).parse().ok()?;
    Time::from_hms_micro(hour, minute, second.parse().ok()?, micros).ok()
}

fn zone_offset(text: &str) -> Option<Duration> {
    let (sign, digits) = match text.chars().next() {
        None => return Some(Duration::ZERO),
        Some('Z' | 'z') => return (text.len() == 1).then_some(Duration::ZERO),
        Some('-') => (-1, &text[1..]),
        Some(_) => (1, &text[1..]),
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() == 4 => digits.split_at(2),
        None => (digits, "0"),
    };
    let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
    Some(Duration::minutes(sign * minutes))
}

pub(super) fn format_timestamp(micros: i64, with_zone: bool) -> Option<String> {
    let epoch = PrimitiveDateTime::new(EPOCH, Time::MIDNIGHT);
    let at = epoch.checked_add(Duration::microseconds(micros))?;
    let (hour, minute, second, fraction) = at.as_hms_micro();
    let mut text = format!("{} {hour:02}:{minute:02}:{second:02}", written(at.date()));
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        // Writing to a string cannot fail.
        let _ = write!(text, ".{}", digits.trim_end_matches('0'));
    }
    if with_zone {
        text.push_str("+00");
    }
    Some(text)
}

pub(super) fn format_date(days: i32) -> Option<String> {
    EPOCH.checked_add(Duration::days(days.into())).map(written)
}

fn written(date: Date) -> String {
    format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_kept_in_utc() {
        for (text, kept) in [
            ("2026-03-01 12:30:00+02", "2026-03-01 10:30:00+00"),
            ("2026-03-01T12:30:00.25Z", "2026-03-01 12:30:00.25+00"),
            ("2026-03-01 00:15-05:30", "2026-03-01 05:45:00+00"),
            ("1999-12-31", "1999-12-31 00:00:00+00"),
            ("2026-03-01 01:02:03.000004+0000", "2026-03-01 01:02:03.000004+00"),
        ] {
            let micros = parse_timestamp(text, true).unwrap();
            assert_eq!(format_timestamp(micros, true).unwrap(), kept);
        }
        let micros = parse_timestamp("2026-03-01 12:30:00+02", false).unwrap();
        assert_eq!(format_timestamp(micros, false).unwrap(), "2026-03-01 12:30:00");
        for text in ["", "yesterday", "2026-13-01", "2026-01-01 25:00", "2026-01-01 10:00+x"] {
            assert_eq!(parse_timestamp(text, true), None, "{text}");
        }
    }

    #[test]
    fn dates_are_days() {
        assert_eq!(parse_date("2000-01-31"), Some(30));
        assert_eq!(format_date(-1).unwrap(), "1999-12-31");
    }
}
