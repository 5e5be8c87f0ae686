use std::fmt::{self, Write};

use super::{ServerError, driver::Driver};
use crate::{
    Cloud,
    excerpt::printable,
    token::{Claims, Token},
};

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
    /// What the server said.
    pub source: ServerError,
}

impl LoginRefused {
    pub(super) fn new(driver: &Driver, server: String, token: &Token, source: ServerError) -> Self {
        Self {
            server,
            database: driver.config.database.clone(),
            claims: token.claims(),
            audience: driver.scope.resource().to_owned(),
            expires_on: token.expires_on(),
            retried: false,
            source,
        }
    }

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
        f.write_str(&printable(&text))
    }
}

impl LoginRefused {
    fn say(&self, f: &mut String) -> fmt::Result {
        write!(f, "{} refused the login: {}.", self.server, self.source)?;
        let unknown = "unknown";
        let Some(claims) = &self.claims else {
            return write!(
                f,
                " The token is no JWT, so that it cannot be told for whom it stands."
            );
        };
        let or_unknown = |claim: &Option<String>| claim.clone().unwrap_or_else(|| unknown.into());
        write!(
            f,
            " The token stands for {}{} (object ID {}, tenant {}), is for {}, and ends at {}.",
            match (claims.principal_name(), &claims.application_id) {
                (Some(name), _) => format!("'{name}'"),
                (None, Some(_)) => "an application".to_owned(),
                (None, None) => "somebody unnamed".to_owned(),
            },
            match &claims.application_id {
                Some(id) => format!(", application {id}"),
                None => String::new(),
            },
            or_unknown(&claims.object_id),
            or_unknown(&claims.tenant_id),
            or_unknown(&claims.audience),
            crate::token::utc(self.expires_on),
        )?;
        if let Some(audience) = self.wrong_audience() {
            let host = self.server.split(',').next().unwrap_or_default();
            return write!(
                f,
                " That is the wrong audience: this server wants tokens for {}, not {audience}; check \
                 the scope{}.",
                self.audience,
                match Cloud::of_azure_sql_host(host) {
                    Some(_) => " (leave out Entra Scope to have it follow from the host)",
                    None => " (Entra Scope)",
                }
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
        let name = claims.principal_name().unwrap_or("the identity's display name");
        write!(
            f,
            " If it is not known there, let it in, in {database}, as the server's Entra \
             administrator: CREATE USER {name} FROM EXTERNAL PROVIDER; ALTER ROLE db_datareader ADD \
             MEMBER {name}; (an identity that was recreated has another object ID: drop its user \
             first).",
            name = quoted(name),
        )
    }
}

/// `[name]`, as T-SQL quotes it.
fn quoted(name: &str) -> String {
    format!("[{}]", name.replace(']', "]]"))
}
