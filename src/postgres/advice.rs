//! The meaning of the server's errors, and advice for the user.

use std::{io, net::IpAddr, time::SystemTime};

use tokio_postgres::error::{DbError, SqlState};

use super::{
    config::Host,
    error::{io_kind, is_disconnect, is_other_role},
};
use crate::{
    excerpt::printable,
    token::{Claims, Scope, Token, utc},
};

/// PgBouncer 1.17 to 1.25 has a buffer for this many bytes of password (`MAX_PASSWORD` in
/// `include/bouncer.h`, 2,048 with the zero). 1.16 has 996; 1.26 accepts 65,535 bytes (PgBouncer's
/// changelog, pull request 1310).
const PGBOUNCER_PASSWORD: usize = 2_047;

/// The meaning of a server's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The server refused the identity; another token may be accepted.
    Refused,
    /// The same request may succeed later.
    Transient,
    Final,
}
use Meaning::{Final, Refused, Transient};

/// The prefixes of SQLSTATEs; parts of the message in lower case, one of which must occur; the
/// meaning of the error; the reason in a few words; and what to do.
type Case = (&'static [&'static str], &'static [&'static str], Meaning, &'static str, &'static str);

/// PgBouncer's SQLSTATE for all errors.
const BOUNCER: &[&str] = &["08P01"];

/// The first matching case is used.
const CASES: &[Case] = &[
    (BOUNCER, BOUNCER_LIMITS, Transient, "PgBouncer is full", LIMITS),
    (BOUNCER, BOUNCER_LOGINS, Transient, "PgBouncer cannot log in to the server", BOUNCER_LOG),
    (
        BOUNCER,
        &["the database system is", "shutting down"],
        Transient,
        "the server is starting or stopping",
        "",
    ),
    (BOUNCER, &["too many clients"], Transient, "the server is full", SMALLER_POOLS),
    (BOUNCER, &["startup parameter"], Final, "PgBouncer refuses a startup parameter", PARAMETERS),
    (BOUNCER, &["no such database", "database \""], Final, NO_DATABASE, BOUNCER_DATABASES),
    (BOUNCER, &[""], Refused, "PgBouncer does not accept this token", ""),
    (&["28"], &["pg_hba.conf"], Refused, "the server's access rules do not allow it", HBA),
    (&["28"], &["aad_auth_tokentype"], Refused, "the role is for another type of principal", ""),
    (&["28"], &[""], Refused, "the server does not accept this identity for the role", ""),
    (&["3D000"], &[""], Final, NO_DATABASE, DATABASES),
    (&["42501"], &[""], Final, "a permission is missing", "Run GRANT CONNECT ON DATABASE … TO …;"),
    (&["25006"], &[""], Transient, "the server is read-only", ""),
    (&["40001", "40P01"], &[""], Transient, "a conflict with another transaction", ""),
    (&["53300"], &[""], Transient, "the server is full", SMALLER_POOLS),
    (&["53000", "53200"], &[""], Transient, "the server is out of memory or other resources", ""),
    (&["57P01", "57P02", "57P03"], &[""], Transient, "the server is starting or stopping", ""),
    (&["08"], &[""], Transient, "the connection failed", ""),
    (&[""], &[""], Final, "the server returned an error", ""),
];

const BOUNCER_LIMITS: &[&str] =
    &["no more connections", "connections exceeded", "query_wait_timeout", "resources exhaustion"];
const LIMITS: &str = "Use smaller pools, or raise PgBouncer's limits.";
const BOUNCER_LOGINS: &[&str] = &["client_login_timeout", "login has been failing", "conn crashed"];
const BOUNCER_LOG: &str = "PgBouncer's log and the server (port 5432) have the reason.";
const PARAMETERS: &str = "Remove the parameter from the connection string, or add it to ignore_startup_parameters in PgBouncer's configuration.";
const BOUNCER_DATABASES: &str = "Check dbname, and SHOW DATABASES in PgBouncer's admin console: the database must exist and be enabled.";
const SMALLER_POOLS: &str = "Use smaller pools, or PgBouncer (not in the Burstable tier).";
const NO_DATABASE: &str = "the database does not exist or is disabled";
pub(super) const NO_DATABASE_NAMED: &str =
    "No database is configured, so the server used the role's name: set dbname, or the URL's path.";
const DATABASES: &str = "Check dbname: `az postgres flexible-server db list --resource-group GROUP --server-name SERVER --query [].name` lists the databases.";
const HBA: &str = "On Azure, add a firewall rule for this address (`az postgres flexible-server firewall-rule create --resource-group GROUP --server-name SERVER --name app --start-ip-address ADDRESS --end-ip-address ADDRESS`), or use a private endpoint; elsewhere, change pg_hba.conf.";

const GUEST: &str = " A guest's role has the guest's full name in the server's tenant, such as name_partner.example#EXT#@TENANT.onmicrosoft.com (in a URL, # is written %23).";

fn case(error: &DbError) -> &'static Case {
    let message = error.message().to_lowercase();
    let fits = |(codes, texts, ..): &&Case| {
        codes.iter().any(|code| error.code().code().starts_with(code))
            && texts.iter().any(|text| message.contains(text))
    };
    CASES.iter().find(fits).unwrap_or(&CASES[CASES.len() - 1])
}

/// Returns the meaning of the server's error.
pub(super) fn meaning(error: &DbError) -> Meaning {
    case(error).2
}

/// Returns what to do about the server's error in this `login`; empty if that is unknown.
pub(super) fn remedy(error: &DbError, login: &str) -> String {
    let host = login.strip_prefix(LOGIN).filter(|host| host.contains(".postgres."));
    let name = host.and_then(|host| host.split('.').next()).unwrap_or("SERVER");
    // Users paste the command into a shell, so it contains no other part of the server's text.
    let address = error.message().split('"').find_map(|word| word.parse::<IpAddr>().ok());
    let address = address.map_or_else(|| "ADDRESS".to_owned(), |address| address.to_string());
    case(error).4.replace("SERVER", name).replace("ADDRESS", &address)
}

/// Describes a login for errors.
pub(super) fn login(server: &str, user: &str) -> String {
    printable(&format!("{LOGIN}{server} as \"{user}\""))
}

const LOGIN: &str = "the login to ";

/// Formats advice as the end of an error's message, after the reason.
pub(super) fn after_reason(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!(". {}", printable(advice)) }
}

/// Returns why a login failed, in a few words.
pub(super) fn reason(error: &tokio_postgres::Error) -> &'static str {
    match error.as_db_error() {
        Some(error) => case(error).3,
        None if is_other_role(error) => "the server does not match target_session_attrs",
        None if error.is_closed() || is_disconnect(error) => "the connection broke",
        None if io_kind(error) == Some(io::ErrorKind::InvalidInput) => "the token is too long",
        None => "the driver returned an error",
    }
}

/// The facts about a refused login.
pub(super) struct Refusal<'a> {
    pub(super) error: &'a DbError,
    pub(super) login: &'a str,
    pub(super) user: &'a str,
    pub(super) hosts: &'a [Host],
    pub(super) token: &'a Token,
    pub(super) scope: &'a Scope,
    pub(super) now: SystemTime,
    pub(super) second_login: &'a str,
}

impl Refusal<'_> {
    /// Returns the likely cause and what to do, then the facts to compare. Never contains the
    /// token.
    pub(super) fn advice(&self) -> String {
        let claims = self.token.claims().unwrap_or_default();
        format!(
            "{} The token identifies {}, is for {}, and expires at {}. {}",
            self.cause_and_remedy(&claims),
            principal(&claims),
            claims.audience.as_deref().unwrap_or("an unnamed audience"),
            utc(self.token.expires_on()),
            self.second_login,
        )
    }

    fn cause_and_remedy(&self, claims: &Claims) -> String {
        let message = self.error.message().to_lowercase();
        let (length, user) = (self.token.secret().len(), self.user.replace('\'', "''"));
        let expiry =
            claims.expires_on.unwrap_or(self.token.expires_on()).min(self.token.expires_on());
        if *self.error.code() == SqlState::PROTOCOL_VIOLATION && length > PGBOUNCER_PASSWORD {
            return format!(
                "PgBouncer (1.17 to 1.25) takes passwords of at most {PGBOUNCER_PASSWORD} characters, and this token has {length}: connect to the server itself (port 5432)."
            );
        }
        if message.contains("expired") || expiry <= self.now {
            return format!(
                "The token expired at {}, and this machine's clock says {}: check that clock.",
                utc(expiry),
                utc(self.now)
            );
        }
        let wanted = self.scope.resource();
        // An audience that is an application's ID may belong to the right resource.
        let is_other = |audience: &str| {
            audience.contains("://")
                && audience.trim_end_matches('/') != wanted.trim_end_matches('/')
        };
        if message.contains("audience") || claims.audience.as_deref().is_some_and(is_other) {
            return format!(
                "The token is for {}, which this server does not accept: set entra_scope to that of Azure Database for PostgreSQL in the server's cloud ({} in the public one).",
                claims.audience.as_deref().unwrap_or(wanted),
                Scope::AZURE_POSTGRESQL
            );
        }
        let remedy = remedy(self.error, self.login);
        if !remedy.is_empty() {
            return remedy;
        }
        let of_server = |(_, server): &(&str, &str)| {
            self.hosts.iter().any(|host| host.name.split('.').next() == Some(*server))
        };
        if let Some((name, server)) = self.user.rsplit_once('@').filter(of_server) {
            return format!(
                "user@server is the form of the retired Single Server: set user to {name}, without @{server}."
            );
        }
        if message.contains("aad_auth_tokentype") {
            let is_person = claims.managed_identity_name().is_none() && claims.user_name.is_some();
            return format!(
                "The role exists, but for a principal of another type (a user, group or service). Log in as that principal, or create a role of another name for this one, as an Entra administrator of the server, in the database postgres: select * from pgaadauth_create_principal_with_oid('NAME', '{}', '{}', false, false).",
                claims.object_id.as_deref().unwrap_or("OBJECT-ID"),
                if is_person { "user" } else { "service" },
            );
        }
        // A guest's role has another name than the token.
        let other = claims.principal_name().filter(|name| *name != self.user);
        let other = other.filter(|_| !self.user.contains("#EXT#")).map(|name| {
            format!("The token belongs to {name}: to log in as {name}, set user to this name, or remove user. ")
        });
        let other = other.unwrap_or_default();
        if message.contains("not valid for role") {
            return format!(
                "{other}The role belongs to another principal, or to a group without this one. If it belongs to a user-assigned identity, select that: set AZURE_CLIENT_ID, or entra_client_id in the connection string. If this principal was recreated, it has another ID: drop its role and create it again."
            );
        }
        let guest = if self.user.contains('@') { GUEST } else { "" };
        format!(
            "{other}The role may be missing, or belong to another principal. To create it, run as an Entra administrator of the server, in the database postgres: select * from pgaadauth_create_principal('{user}', false, false); To log in through a group, set user to the group's name.{guest} A principal that was recreated has another ID: drop its role and create it again."
        )
    }
}

/// Describes the principal of a token.
pub(super) fn principal(claims: &Claims) -> String {
    let name = claims.principal_name();
    let ids = [
        ("application", &claims.application_id),
        ("object", &claims.object_id),
        ("tenant", &claims.tenant_id),
    ];
    let ids: Vec<String> =
        ids.iter().filter_map(|(kind, id)| Some(format!("{kind} {}", id.as_ref()?))).collect();
    printable(&match (name, ids.is_empty()) {
        (Some(name), true) => name.to_owned(),
        (Some(name), false) => format!("{name} ({})", ids.join(", ")),
        (None, true) => "an unnamed principal".to_owned(),
        (None, false) => format!("the principal with {}", ids.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;
    use crate::postgres::{Config, replay::server_error};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn advice(code: &str, message: &str, payload: &str, ends: SystemTime) -> String {
        advice_to("o'neil", code, message, payload, ends)
    }

    fn advice_to(user: &str, code: &str, message: &str, payload: &str, ends: SystemTime) -> String {
        let hosts: Config = "postgres://shop.postgres.database.azure.com/db".parse().unwrap();
        let padding = "p".repeat(2_048);
        let token = format!("e30.{}.{padding}", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let token = Token::new(token, ends);
        let error = server_error(&[(b'S', "FATAL"), (b'C', code), (b'M', message)]);
        let advice = Refusal {
            error: error.as_db_error().unwrap(),
            login: "",
            user,
            hosts: &hosts.hosts,
            token: &token,
            scope: &Scope::AZURE_POSTGRESQL,
            now: NOW,
            second_login: "Another token was refused as well.",
        }
        .advice();
        assert!(!advice.contains(&padding), "the advice does not contain the token: {advice}");
        advice
    }

    #[test]
    fn each_kind_of_principal_has_its_own_advice() {
        let later = NOW + Duration::from_secs(3600);
        let refused = "password authentication failed";
        let other_type =
            "Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER tokens for role \"x\"";
        let (person, app) =
            (r#"{"upn":"a@x.example","oid":"o-1"}"#, r#"{"appid":"a","oid":"o-2"}"#);
        let identity =
            r#"{"xms_mirid":"/x/Microsoft.ManagedIdentity/userAssignedIdentities/shop"}"#;
        for (user, message, payload, words, absent) in [
            ("app", other_type, app, "'o-2', 'service', false, false)", "The role may be missing"),
            (
                "a@x.example",
                other_type,
                person,
                "'o-1', 'user', false, false)",
                "The role may be missing",
            ),
            (
                "app",
                "Azure AD access token not valid for role app",
                app,
                "set AZURE_CLIENT_ID, or entra_client_id",
                "The role may be missing",
            ),
            ("app@shop", refused, app, "set user to app, without @shop", "#EXT#"),
            ("a@x.example", refused, person, "full name in the server's tenant", "Single Server"),
            ("a_x.example#EXT#@t.example", refused, person, "written %23", "Single Server"),
            ("app", refused, app, "pgaadauth_create_principal('app'", "belongs to a"),
            ("old", refused, identity, "The token belongs to shop: to log in as shop,", "#EXT#"),
            ("shop", refused, identity, "The role may be missing", "belongs to shop"),
        ] {
            let advice = advice_to(user, "28P01", message, payload, later);
            assert!(advice.contains(words), "{user}: {words}? {advice}");
            assert!(!advice.contains(absent), "{user}: {absent}? {advice}");
        }
    }

    #[test]
    fn commands_contain_nothing_of_the_servers_text_except_an_address() {
        for (host, server) in [
            ("shop.postgres.database.azure.com", "--server-name shop "),
            ("shop.privatelink.postgres.database.azure.com", "--server-name shop "),
            ("192.0.2.1", "--server-name SERVER "),
        ] {
            for (address, shown) in [("203.0.113.7", "203.0.113.7 "), ("$(reboot)", "ADDRESS ")] {
                let text = format!("no pg_hba.conf entry for host \"{address}\", user \"shop\"");
                let login = login(&format!("{host}:5432"), "shop");
                let fields = [(b'S', "FATAL"), (b'C', "28000"), (b'M', text.as_str())];
                let remedy = remedy(server_error(&fields).as_db_error().unwrap(), &login);
                for piece in [server, &format!("--start-ip-address {shown}")] {
                    assert!(remedy.contains(piece), "{piece}: {remedy}");
                }
            }
        }
    }

    #[test]
    fn advice_matches_the_servers_message_and_the_tokens_claims() {
        let later = NOW + Duration::from_secs(3600);
        let ours = r#"{"aud":"https://ossrdbms-aad.database.windows.net/","appid":"app-id","oid":"o","tid":"t"}"#;
        let other = r#"{"aud":"https://database.windows.net"}"#;
        for (code, message, payload, ends, words) in [
            ("28P01", "password authentication failed", ours, later, "('o''neil', false, false)"),
            (
                "28000",
                "role \"o'neil\" does not exist",
                ours,
                later,
                "application app-id, object o",
            ),
            ("28P01", "The access token has expired.", ours, later, "check that clock"),
            ("28P01", "password authentication failed", ours, NOW, "1970-01-01T00:00:00Z"),
            ("28P01", "password authentication failed", other, later, "set entra_scope to"),
            ("28P01", "does not have a valid audience claim", ours, later, "set entra_scope to"),
            ("28000", "no pg_hba.conf entry for host", ours, later, "change pg_hba.conf"),
            ("08P01", "packet too long", ours, later, "connect to the server itself"),
            ("28P01", "x", "[]", later, "an unnamed principal"),
            // A token of version 2 has the ID of its resource's application.
            (
                "28P01",
                "x",
                r#"{"aud":"123cd850-d9df-40bd-94d5-c9f07b7fa203"}"#,
                later,
                "The role may be missing",
            ),
        ] {
            let advice = advice(code, message, payload, ends);
            assert!(advice.contains(words), "{code} {message}: {words}? {advice}");
            assert!(advice.contains("Another token was refused as well."), "{advice}");
        }
    }
}
