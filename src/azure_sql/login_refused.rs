use std::fmt::{self, Write};

use super::ServerError;
use crate::{Cloud, excerpt::printable, token::Claims};

/// A refused login: who was refused, by whom, and what would let them in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoginRefused {
    /// `host,port`.
    pub server: String,
    /// The database that was asked for.
    pub database: Option<String>,
    /// What the token says about itself.
    pub claims: Option<Claims>,
    /// The audience that this server's tokens should have.
    pub(super) audience: String,
    /// When the token ends.
    pub(super) expires_on: std::time::SystemTime,
    /// Whether another token was tried, too.
    pub retried: bool,
    /// What became of the login with another token, in a sentence.
    pub(super) second_login: String,
    /// What the server said.
    pub source: ServerError,
}

impl LoginRefused {
    /// The audience of the token, if it is another than this server's.
    fn wrong_audience(&self) -> Option<&str> {
        let audience = self.claims.as_ref()?.audience.as_deref()?;
        let bare = |text: &str| text.trim_end_matches('/').to_ascii_lowercase();
        let (is, should_be) = (bare(audience), bare(&self.audience));
        // One application has a name of either kind.
        let alike = is.contains("://") == should_be.contains("://");
        (alike && is != should_be).then_some(audience)
    }
}

impl fmt::Display for LoginRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What the token says about itself is text of others, too.
        let mut text = String::new();
        self.say(&mut text)?;
        write!(text, " {}", self.second_login)?;
        f.write_str(&printable(&text))
    }
}

impl LoginRefused {
    fn say(&self, f: &mut String) -> fmt::Result {
        write!(f, "{} refused the login: {}.", self.server, self.source)?;
        let Some(claims) = &self.claims else {
            return f
                .write_str(" The token is no JWT, so that it cannot be told for whom it stands.");
        };
        let name = claims.principal_name();
        let identity = match (name, &claims.application_id) {
            (Some(name), Some(id)) => format!("'{name}', application {id}"),
            (Some(name), None) => format!("'{name}'"),
            (None, Some(id)) => format!("an application, application {id}"),
            (None, None) => "somebody unnamed".to_owned(),
        };
        let [object, tenant, audience] = [&claims.object_id, &claims.tenant_id, &claims.audience]
            .map(|claim| claim.as_deref().unwrap_or("unknown"));
        write!(
            f,
            " The token stands for {identity} (object ID {object}, tenant {tenant}), is for \
             {audience}, and ends at {}.",
            crate::token::utc(self.expires_on),
        )?;
        if let Some(audience) = self.wrong_audience() {
            let host = self.server.split(',').next().unwrap_or_default();
            let advice = match Cloud::of_azure_sql_host(host) {
                Some(_) => "(leave out Entra Scope to have it follow from the host)",
                None => "(Entra Scope)",
            };
            return write!(
                f,
                " That is the wrong audience: this server wants tokens for {}, not {audience}; check \
                 the scope {advice}.",
                self.audience,
            );
        }
        // The number is the same for all refusals; only the text tells this one.
        if self.source.message().contains("expired") {
            return f.write_str(
                " The server takes it for expired: check this machine's clock, and what hands the \
                 tokens out.",
            );
        }
        if self.database.is_none() {
            f.write_str(
                " The connection string names no database, so that the login went to master, where \
                 a database's own users do not exist: add Database=….",
            )?;
        }
        let database = self.database.as_deref().unwrap_or("the database");
        // As T-SQL quotes it.
        let user =
            format!("[{}]", name.unwrap_or("the identity's display name").replace(']', "]]"));
        write!(
            f,
            " If it is not known there, let it in, in {database}, as the server's Entra \
             administrator: CREATE USER {user} FROM EXTERNAL PROVIDER; ALTER ROLE db_datareader ADD \
             MEMBER {user}; (an identity that was recreated has another object ID: drop its user \
             first).",
        )
    }
}
