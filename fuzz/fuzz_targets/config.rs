//! Connection strings of both databases: any text is read or refused without a panic. A
//! configuration for Azure SQL is shown as a string that is read as the same configuration. If
//! tiberius also reads the string, it finds the same server and database.
#![no_main]

use entra_pool::azure_sql::Config;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(config) = text.parse::<entra_pool::postgres::Config>() {
        let _ = (format!("{config} {config:?}"), config.token_scope());
    }
    let Ok(config) = text.parse::<Config>() else { return };
    let shown = config.to_string();
    let again: Config = shown.parse().unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(again.to_string(), shown);
    if let Some(theirs) = tiberius_reads(text) {
        let address = theirs.get_addr();
        let (host, port) = address.rsplit_once(':').expect("the address has a port");
        assert!(shown.starts_with(&format!("Server=tcp:{host},{port}")), "{shown}: {address}");
        // tiberius has no other access to the database.
        let ours = format!("{config:?}");
        let database = &ours[ours.find("database: ").expect("a field")..];
        let database = &database[..database.find(", encrypt: ").expect("the field after it")];
        assert!(format!("{theirs:?}").contains(database), "{theirs:?} instead of {database}");
    }
});

/// The configuration that tiberius reads, unless one of its own rules applies to the text:
///
/// - it reads only ADO.NET strings (and only ASCII);
/// - braces quote a value even in quotes, and a vertical tab is not a space;
/// - an empty value counts, although .NET ignores it;
/// - it knows only some names of a keyword, with one space between two words and without
///   `_`, no `odbc:`, and the port only in the server;
/// - in a server, it accepts `tcp:` only in lower case, no spaces, and no brackets around
///   an address.
fn tiberius_reads(text: &str) -> Option<tiberius::Config> {
    const NAMES: [&str; 5] =
        ["server", "data source", "database", "initial catalog", "database name"];
    const OTHER_NAMES: [&str; 6] =
        ["addr=", "address=", "networkaddress=", "servername=", "port=", "portnumber="];
    if text.contains("://") || text.contains(['{', '[', '\u{b}']) {
        return None;
    }
    let theirs = tiberius::Config::from_ado_string(text).ok()?;
    let lower = text.to_ascii_lowercase();
    let squeezed: String = lower.split([' ', '\t', '\n', '\r', '\u{c}', '_']).collect();
    if squeezed.contains("odbc:") {
        return None;
    }
    if OTHER_NAMES.iter().any(|name| squeezed.contains(name)) {
        return None;
    }
    for name in NAMES {
        let name_squeezed = name.replace(' ', "");
        // `databasename` is the only name that tiberius expects without its space.
        let its = if name == "database name" { &name_squeezed } else { name };
        if squeezed.matches(&format!("{name_squeezed}=")).count() > values(&lower, its).count() {
            return None;
        }
        let is_empty = |value: &str| {
            let value = value.trim_start();
            ["", ";", "''", "\"\""]
                .iter()
                .any(|it| if it.is_empty() { value.is_empty() } else { value.starts_with(it) })
        };
        if values(&lower, its).any(is_empty) {
            return None;
        }
    }
    let address = theirs.get_addr();
    let is_plain =
        !address.contains(char::is_whitespace) && !address.to_ascii_lowercase().starts_with("tcp:");
    is_plain.then_some(theirs)
}

/// The text after each `name=`.
fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(name)
        .filter_map(move |(at, _)| text[at + name.len()..].trim_start().strip_prefix('='))
}
