//! What to do about a refused login: the HINT's text.

use std::time::SystemTime;

use tokio_postgres::error::{DbError, SqlState};

use crate::{
    connect::SecondLogin,
    excerpt::printable,
    token::{Claims, Scope, Token, utc},
};

/// Older PgBouncer versions have this many bytes of password at most.
const OLD_PGBOUNCER_PASSWORD: usize = 2_047;

/// What is known about a refused login.
pub(super) struct Refusal<'a> {
    pub(super) error: &'a DbError,
    pub(super) user: &'a str,
    pub(super) token: &'a Token,
    pub(super) scope: &'a Scope,
    pub(super) now: SystemTime,
    pub(super) second_login: &'a SecondLogin,
}

impl Refusal<'_> {
    /// The likely cause and the way out, then the facts to check it against.
    /// Never the token.
    pub(super) fn advice(&self) -> String {
        let claims = self.token.claims().unwrap_or_default();
        format!(
            "{} The login was as \"{}\", with a token of {} for {}, good until {}. {}",
            self.way_out(&claims),
            self.user,
            principal(&claims),
            claims.audience.as_deref().unwrap_or("an unnamed audience"),
            utc(self.token.expires_on()),
            self.second_login.describe(),
        )
    }

    fn way_out(&self, claims: &Claims) -> String {
        let message = self.error.message().to_lowercase();
        let ends =
            claims.expires_on.unwrap_or(self.token.expires_on()).min(self.token.expires_on());
        if *self.error.code() == SqlState::PROTOCOL_VIOLATION
            && self.token.secret().len() > OLD_PGBOUNCER_PASSWORD
        {
            return format!(
                "A PgBouncer before 1.21 takes passwords of at most {OLD_PGBOUNCER_PASSWORD} characters, and this token has {}: go to the server itself (port 5432).",
                self.token.secret().len()
            );
        }
        if message.contains("expired") || ends <= self.now {
            return format!(
                "The token's time has passed ({}; this machine's clock says {}): is that clock right?",
                utc(ends),
                utc(self.now)
            );
        }
        let wanted = self.scope.resource();
        let is_other =
            |audience: &str| audience.trim_end_matches('/') != wanted.trim_end_matches('/');
        if message.contains("audience") || claims.audience.as_deref().is_some_and(is_other) {
            return format!(
                "The token is for {}, which this server does not take: entra_scope should be that of Azure Database for PostgreSQL in its cloud ({} in the public one).",
                claims.audience.as_deref().unwrap_or(wanted),
                Scope::AZURE_POSTGRESQL
            );
        }
        if message.contains("pg_hba.conf") {
            return "The server's rules do not let this role in from here over TLS, whatever the token. On Azure: a firewall rule for this address (Networking), or a private endpoint; elsewhere: its pg_hba.conf.".to_owned();
        }
        format!(
            "Is there a role of that name for this principal? An Entra administrator of the server makes it, connected to the database postgres: select * from pgaadauth_create_principal('{}', false, false); for a group, user is the group's name. A principal that was deleted and made again is another one: drop its role and make that again too.",
            self.user.replace('\'', "''")
        )
    }
}

/// Whose token it is, in words.
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
        (None, true) => "a principal that it does not name".to_owned(),
        (None, false) => format!("the principal with {}", ids.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;
    use crate::postgres::replay::server_error;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    async fn advice(code: &str, message: &str, payload: &str, ends: SystemTime) -> String {
        let padding = "p".repeat(2_048);
        let token = format!("e30.{}.{padding}", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let token = Token::new(token, ends);
        let error = server_error(&[(b'S', "FATAL"), (b'C', code), (b'M', message)]).await;
        let advice = Refusal {
            error: error.as_db_error().unwrap(),
            user: "o'neil",
            token: &token,
            scope: &Scope::AZURE_POSTGRESQL,
            now: NOW,
            second_login: &SecondLogin::Refused,
        }
        .advice();
        assert!(!advice.contains(&padding), "the token is not in it: {advice}");
        advice
    }

    #[tokio::test]
    async fn advice_fits_what_the_server_says_and_what_the_token_says() {
        let later = NOW + Duration::from_secs(3600);
        let ours = r#"{"aud":"https://ossrdbms-aad.database.windows.net/","appid":"app-id","oid":"o","tid":"t"}"#;
        let other = r#"{"aud":"https://database.windows.net"}"#;
        for (code, message, payload, ends, says) in [
            ("28P01", "password authentication failed", ours, later, "('o''neil', false, false)"),
            (
                "28000",
                "role \"o'neil\" does not exist",
                ours,
                later,
                "application app-id, object o",
            ),
            ("28P01", "The access token has expired.", ours, later, "is that clock right?"),
            ("28P01", "password authentication failed", ours, NOW, "1970-01-01T00:00:00Z"),
            ("28P01", "password authentication failed", other, later, "entra_scope should be"),
            ("28P01", "does not have a valid audience claim", ours, later, "entra_scope should be"),
            ("28000", "no pg_hba.conf entry for host", ours, later, "its pg_hba.conf"),
            ("08P01", "packet too long", ours, later, "PgBouncer before 1.21"),
            ("28P01", "x", "[]", later, "a principal that it does not name"),
        ] {
            let advice = advice(code, message, payload, ends).await;
            assert!(advice.contains(says), "{code} {message}: {says}? {advice}");
            assert!(advice.contains("Another token was refused as well."), "{advice}");
        }
    }
}
