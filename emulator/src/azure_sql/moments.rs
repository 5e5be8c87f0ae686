//! Dates and times: text in SQLite, day and tick counts on the wire.

use time::{Date, Month};

/// A date, a time of day, or both, as their text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Days since 0001-01-01.
    pub(crate) days: i32,
    /// Units of 100 ns since midnight.
    pub(crate) ticks: u64,
    /// Minutes east of UTC; day and time are local.
    pub(crate) offset: i16,
}

/// Units of 100 ns in a second.
pub(crate) const SECOND: u64 = 10_000_000;
const DAY: u64 = 86_400 * SECOND;
const COUNT_A_DAY: u64 = 86_400 * 300;

/// Days between 0001-01-01 and 1900-01-01, where `datetime` begins.
pub(crate) const DAYS_TO_1900: i32 = 693_595;

impl Moment {
    /// Reads `2024-01-02`, `10:11:12.5`, or both with a blank or a `T` between,
    /// and an offset from UTC behind them (`Z`, `+02`, `+02:00`).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (date, rest) = match split_date(text) {
            Some((days, rest)) => (Some(days), rest),
            None => (None, text),
        };
        let rest = match date {
            Some(_) => rest.strip_prefix(['T', 't', ' ']).unwrap_or(rest).trim_start(),
            None => rest,
        };
        // A time alone lies on the day with which SQL Server begins.
        let days = date.unwrap_or(DAYS_TO_1900);
        if rest.is_empty() {
            return date.map(|days| Self { days, ticks: 0, offset: 0 });
        }
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'))
            .unwrap_or(rest.len());
        let (time, offset) = rest.split_at(end);
        Some(Self { days, ticks: parse_time(time)?, offset: parse_offset(offset.trim())? })
    }

    pub(crate) fn date_text(self) -> Option<String> {
        let date = Date::from_julian_day(self.days.checked_add(epoch())?).ok()?;
        (1..=9999)
            .contains(&date.year())
            .then(|| format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day()))
    }

    /// The time of day, without zeros at its end.
    pub(crate) fn time_text(self) -> String {
        let seconds = self.ticks / SECOND;
        let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        match self.ticks % SECOND {
            0 => text,
            fraction => format!("{text}.{}", format!("{fraction:07}").trim_end_matches('0')),
        }
    }

    pub(crate) fn date_time_text(self) -> Option<String> {
        Some(format!("{} {}", self.date_text()?, self.time_text()))
    }

    pub(crate) fn offset_text(self) -> Option<String> {
        let (sign, minutes) = (if self.offset < 0 { '-' } else { '+' }, self.offset.unsigned_abs());
        Some(format!("{} {sign}{:02}:{:02}", self.date_time_text()?, minutes / 60, minutes % 60))
    }

    /// Rounded to so many decimals of a second; it may become the next day.
    pub(crate) fn rounded(self, scale: u8) -> Self {
        let unit = 10_u64.pow(7 - u32::from(scale.min(7)));
        self.normal((self.ticks + unit / 2) / unit * unit)
    }

    fn normal(self, ticks: u64) -> Self {
        Self { days: self.days + (ticks / DAY) as i32, ticks: ticks % DAY, ..self }
    }

    /// The same moment with day and time in UTC.
    pub(crate) fn to_utc(self) -> Self {
        self.shifted(-i64::from(self.offset))
    }

    /// The same moment, day and time of which were in UTC, in local ones.
    pub(crate) fn to_local(self) -> Self {
        self.shifted(i64::from(self.offset))
    }

    fn shifted(self, minutes: i64) -> Self {
        let ticks = self.ticks as i64 + minutes * 60 * SECOND as i64;
        let days = ticks.div_euclid(DAY as i64) as i32;
        Self { days: self.days + days, ticks: ticks.rem_euclid(DAY as i64) as u64, ..self }
    }

    /// The time of `datetime`: 300ths of a second (MS-TDS 2.2.5.5.1.8).
    pub(crate) fn from_300ths(days: i32, count: u32) -> Self {
        // To the millisecond, as SQL Server shows it.
        let milliseconds = (u64::from(count) * 10 + 1) / 3;
        Self { days, ticks: 0, offset: 0 }.normal(milliseconds * (SECOND / 1000))
    }

    /// Days since 0001-01-01, and 300ths of a second since midnight.
    pub(crate) fn to_300ths(self) -> (i32, u32) {
        match (self.ticks * 300 + SECOND / 2) / SECOND {
            COUNT_A_DAY => (self.days + 1, 0),
            count => (self.days, count as u32),
        }
    }
}

fn epoch() -> i32 {
    Date::from_calendar_date(1, Month::January, 1).map_or(0, Date::to_julian_day)
}

/// `2024-01-02…` or `20240102…`.
fn split_date(text: &str) -> Option<(i32, &str)> {
    let bytes = text.as_bytes();
    let dashed = bytes.get(4) == Some(&b'-') && bytes.get(7) == Some(&b'-');
    let (year, month, day, rest) = if dashed {
        (text.get(..4)?, text.get(5..7)?, text.get(8..10)?, text.get(10..)?)
    } else {
        (text.get(..4)?, text.get(4..6)?, text.get(6..8)?, text.get(8..)?)
    };
    let date = Date::from_calendar_date(
        number(year)?,
        Month::try_from(number::<u8>(month)?).ok()?,
        number(day)?,
    )
    .ok()?;
    let whole = rest.is_empty() || rest.starts_with([' ', 'T', 't']);
    (whole && date.year() >= 1).then(|| (date.to_julian_day() - epoch(), rest))
}

fn parse_time(text: &str) -> Option<u64> {
    let mut parts = text.splitn(3, ':');
    let (hours, minutes) = (number::<u64>(parts.next()?)?, number::<u64>(parts.next()?)?);
    let (seconds, fraction) = match parts.next() {
        Some(text) => text.split_once('.').unwrap_or((text, "0")),
        None => ("0", "0"),
    };
    let seconds: u64 = number(seconds)?;
    if hours > 23 || minutes > 59 || seconds > 59 || fraction.len() > 9 {
        return None;
    }
    number::<u64>(fraction)?;
    let ticks: u64 = number(&format!("{fraction:0<7}")[..7])?;
    Some(((hours * 60 + minutes) * 60 + seconds) * SECOND + ticks)
}

fn parse_offset(text: &str) -> Option<i16> {
    if text.is_empty() || text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, text) = match text.split_at_checked(1)? {
        ("+", text) => (1, text),
        ("-", text) => (-1, text),
        _ => return None,
    };
    let (hours, minutes) = text.split_once(':').unwrap_or((text, "0"));
    let (hours, minutes) = (number::<i16>(hours)?, number::<i16>(minutes)?);
    (hours <= 14 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

/// Digits only: `parse` alone takes signs too.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_and_written_alike() {
        for text in
            ["0001-01-01 00:00:00", "2024-02-29 10:11:12.0000001", "9999-12-31 23:59:59.9999999"]
        {
            assert_eq!(Moment::parse(text).expect(text).date_time_text().as_deref(), Some(text));
        }
        for (text, meant) in [
            ("2024-01-02T03:04:05.500", "2024-01-02 03:04:05.5 +00:00"),
            ("20240102", "2024-01-02 00:00:00 +00:00"),
            ("2024-01-02 03:04:05+02", "2024-01-02 03:04:05 +02:00"),
            ("2024-01-02 03:04:05 -05:30", "2024-01-02 03:04:05 -05:30"),
            ("10:11", "1900-01-01 10:11:00 +00:00"),
        ] {
            assert_eq!(Moment::parse(text).expect(text).offset_text().as_deref(), Some(meant));
        }
        for text in [
            "",
            "x",
            "2024-13-01",
            "2023-02-29",
            "24:00:00",
            "10:60",
            "2024-01-02x",
            "10:11:12.",
            "2024-01-02 10:00 +25",
            "é024-01-02",
        ] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_offset_moves_over_midnight() {
        let moment = Moment::parse("2024-01-01 01:00:00 +02:00").unwrap();
        assert_eq!(moment.to_utc().date_time_text().unwrap(), "2023-12-31 23:00:00");
        assert_eq!(moment.to_utc().to_local(), moment);
    }

    #[test]
    fn rounding_up_to_midnight_is_the_next_day() {
        let moment = Moment::parse("2024-01-01 23:59:59.9999").unwrap();
        assert_eq!(moment.rounded(3).date_time_text().unwrap(), "2024-01-02 00:00:00");
    }
}
