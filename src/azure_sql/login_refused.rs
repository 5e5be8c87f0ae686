use std::fmt;

use super::ServerError;
use crate::{Cloud, excerpt::printable, token::Claims};

/// A refused login: the identity, the server, the likely reason and what to do.
#[derive(Clone)]
#[non_exhaustive]
pub struct LoginRefused {
    /// `host,port`.
    pub server: String,
    /// The requested database.
    pub database: Option<String>,
    /// The token's claims.
    pub claims: Option<Claims>,
    /// The audience of tokens for this server.
    pub(super) audience: String,
    /// When the token expires.
    pub(super) expires_on: std::time::SystemTime,
    /// A sentence about the login with another token: its outcome, or why there was none.
    pub(super) second_login: String,
    /// The server's error.
    pub source: ServerError,
}

impl LoginRefused {
    /// Returns the token's audience if it differs from the audience of this server.
    fn wrong_audience(&self) -> Option<&str> {
        let audience = self.claims.as_ref()?.audience.as_deref()?;
        let bare = |text: &str| text.trim_end_matches('/').to_ascii_lowercase();
        let (is, should_be) = (bare(audience), bare(&self.audience));
        // An audience is a URI or an application ID; the two kinds cannot be compared.
        let alike = is.contains("://") == should_be.contains("://");
        (alike && is != should_be).then_some(audience)
    }
}

impl fmt::Display for LoginRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.database.as_deref().map(|name| format!(" to {name}"));
        let text = format!(
            "{} refused the login{}: {} {} {}",
            self.server,
            database.unwrap_or_default(),
            self.reason(),
            self.token(),
            self.second_login,
        );
        // The claims of the token are untrusted text.
        f.write_str(&printable(&text))
    }
}

impl std::error::Error for LoginRefused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl LoginRefused {
    /// Whether one of the server's messages contains this text: all refusals have the same number.
    fn message_contains(&self, text: &str) -> bool {
        self.source.each().any(|error| error.message().contains(text))
    }

    /// Returns the likely reason and what to do.
    fn reason(&self) -> String {
        if let Some(audience) = self.wrong_audience() {
            let host = self.server.split(',').next().unwrap_or_default();
            let advice = match Cloud::of_azure_sql_host(host) {
                Some(_) => "remove Entra Scope, so that the scope is derived from the host",
                None => "check Entra Scope",
            };
            return format!(
                "the token has the wrong audience: this server accepts tokens for {}, not {audience}; {advice}.",
                self.audience
            );
        }
        let wrong_tenant = ["configured to accept this token", "Incorrect or invalid token"];
        if wrong_tenant.into_iter().any(|text| self.message_contains(text)) {
            let tenant = self.claims.as_ref().and_then(|claims| claims.tenant_id.as_deref());
            return format!(
                "the token is from another tenant than the server, or the server has no Entra administrator. Compare the tenant {} with `az account show --query tenantId` for the server's subscription, and run `az sql server ad-admin list --resource-group GROUP --server SERVER`.",
                tenant.unwrap_or("of the token")
            );
        }
        if self.message_contains("expired") {
            return "the server considers the token expired: check the clock of this machine and the source of the tokens.".to_owned();
        }
        let name = self.claims.as_ref().and_then(Claims::principal_name);
        // Quoted as in T-SQL.
        let user = format!("[{}]", name.unwrap_or("NAME").replace(']', "]]"));
        let (reason, database) = match &self.database {
            Some(database) => ("this identity may have no user in the database.", &**database),
            None => (
                "the connection string names no database, so the login went to master, where users of other databases do not exist: add Database=….",
                "the database",
            ),
        };
        format!(
            "{reason} As the server's Entra administrator, run in {database}: CREATE USER {user} FROM EXTERNAL PROVIDER; ALTER ROLE db_datareader ADD MEMBER {user}; (An identity that was recreated has another object ID: drop its user first.)"
        )
    }

    /// Describes the token, so that the user can compare it with the server's settings.
    fn token(&self) -> String {
        let Some(claims) = &self.claims else {
            return "The token is not a JWT, so its principal is unknown.".to_owned();
        };
        let identity = match (claims.principal_name(), &claims.application_id) {
            (Some(name), Some(id)) => format!("'{name}', application {id}"),
            (Some(name), None) => format!("'{name}'"),
            (None, Some(id)) => format!("application {id}"),
            (None, None) => "an unnamed principal".to_owned(),
        };
        let [object, tenant, audience] = [&claims.object_id, &claims.tenant_id, &claims.audience]
            .map(|claim| claim.as_deref().unwrap_or("unknown"));
        format!(
            "The token identifies {identity} (object ID {object}, tenant {tenant}), is for {audience}, and expires at {}.",
            crate::token::utc(self.expires_on),
        )
    }
}
