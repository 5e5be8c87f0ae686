//! The settings of a session, as far as clients set them. None can be asked for.

use super::error::SqlError;

/// The settings that exist, and the value that this stand-in behaves by; `None` where any
/// value does no more than PostgreSQL's own here.
const SETTINGS: [(&str, Option<&str>); 9] = [
    ("application_name", None),
    ("client_encoding", Some("utf8")),
    ("client_min_messages", None),
    ("datestyle", Some("iso,mdy")),
    ("standard_conforming_strings", Some("on")),
    ("tcp_keepalives_count", None),
    ("tcp_keepalives_idle", None),
    ("tcp_keepalives_interval", None),
    ("timezone", Some("utc")),
];

/// Refuses what would have to change an answer.
pub(super) fn check(name: &str, value: &str) -> Result<(), SqlError> {
    let bare = value.replace(['-', ' '], "").to_ascii_lowercase();
    let (name, value) = (name.to_ascii_lowercase(), bare.as_str());
    let known = SETTINGS.iter().find(|(known, _)| *known == name);
    match known {
        Some((_, only)) if only.is_none_or(|only| only == value) => Ok(()),
        // More digits than the shortest that are exact are never printed.
        None if name == "extra_float_digits" && ["1", "2", "3"].contains(&value) => Ok(()),
        _ => Err(SqlError::unsupported(format!("{name} = {value}"))),
    }
}
