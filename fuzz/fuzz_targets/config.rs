//! Connection strings of both databases: any text is read or refused without a panic. A
//! configuration for Azure SQL shows as a string that reads back as the same. Where tiberius reads
//! the string as well, it finds the same server and database.
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
        let (host, port) = address.rsplit_once(':').expect("it has a port");
        assert!(shown.starts_with(&format!("Server=tcp:{host},{port}")), "{shown}: {address}");
        // There is no other way to ask for the database.
        let ours = format!("{config:?}");
        let database = &ours[ours.find("database: ").expect("a field")..];
        let database = &database[..database.find(", encrypt: ").expect("the field after it")];
        assert!(format!("{theirs:?}").contains(database), "{theirs:?} instead of {database}");
    }
});

/// What tiberius reads, unless it reads something else by its own rules:
///
/// - ADO.NET only (and in ASCII only);
/// - braces quote a value even in quotes, and a vertical tab is no space;
/// - an empty value counts, where it is as good as none to .NET;
/// - some names of a keyword only, with one space between two words and no `_`, no
///   `odbc:`, and the port in the server only;
/// - in a server, `tcp:` in lower case and no spaces, and no brackets around an
///   address.
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
        // `databasename` is the one name that it wants without its space.
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

/// What follows each `name=`.
fn values<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(name)
        .filter_map(move |(at, _)| text[at + name.len()..].trim_start().strip_prefix('='))
}
