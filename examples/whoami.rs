//! Who this machine logs in as: the first thing to run when a login fails.
//!
//! ```sh
//! cargo run --example whoami
//! cargo run --example whoami -- shop.postgres.database.azure.com
//! cargo run --example whoami -- 'Server=tcp:shop.database.windows.net;Database=orders'
//! cargo run --example whoami -- 'postgres://shop.postgres.database.azure.com/restaurant'
//! ```
//!
//! Prints which source of an identity was found, the principal of its token, and
//! the SQL that grants it access; never the token. With a host, the token is
//! requested for that database; with a connection string, by the identity
//! that it names. Where no identity is available, it prints the error of
//! this crate with its causes.

use std::{
    error::Error,
    fmt::Write,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool::{
    azure_sql,
    clock::{Clock, SystemClock},
    credential::from_env,
    postgres,
    token::{Claims, Identity, Scope, Token, TokenCredential},
};

#[tokio::main]
async fn main() -> ExitCode {
    match report(std::env::args().nth(1).as_deref()).await {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}", reasons(&*error));
            ExitCode::FAILURE
        }
    }
}

/// What is printed.
pub async fn report(target: Option<&str>) -> Result<String, Box<dyn Error>> {
    let Target { credential, scope } = Target::of(target)?;
    let identity = Identity::new(credential);
    let token = identity.tokens(scope.clone()).token().await?;
    Ok(describe(&identity.name(), &scope, &token, SystemClock::new().wall())?)
}

/// The error and its causes, a line each.
pub fn reasons(error: &dyn Error) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(this) = cause {
        text += &format!("\n  because: {this}");
        cause = this.source();
    }
    text
}

/// Whom to ask, and for what.
struct Target {
    credential: Arc<dyn TokenCredential>,
    scope: Scope,
}

impl Target {
    fn of(target: Option<&str>) -> Result<Self, Box<dyn Error>> {
        let Some(target) = target else {
            return Ok(Self { credential: from_env()?, scope: Scope::AZURE_SQL });
        };
        let is_url = ["postgres://", "postgresql://"].iter().any(|start| target.starts_with(start));
        if is_url || (target.contains("host=") && !target.contains(';')) {
            let (config, credential) = postgres::Config::parse_with_credential(target)?;
            return Ok(Self { credential, scope: config.token_scope()? });
        }
        if target.contains('=') || target.contains("://") {
            let (config, credential) = azure_sql::Config::parse_with_credential(target)?;
            return Ok(Self { credential, scope: config.token_scope()? });
        }
        for string in [format!("postgres://{target}"), format!("Server={target}")] {
            if let Ok(target) = Self::of(Some(&string)) {
                return Ok(target);
            }
        }
        let what = "is neither a connection string nor a host of Azure SQL or Azure Database for \
                    PostgreSQL";
        Err(format!("{target} {what}").into())
    }
}

fn describe(
    source: &str,
    scope: &Scope,
    token: &Token,
    now: SystemTime,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "identity   {source}")?;
    let Some(claims) = token.claims() else {
        writeln!(text, "scope      {scope}")?;
        writeln!(text, "lifetime   {}", lifetime(token.remaining(now)))?;
        writeln!(text, "The token is not a JWT, so its principal is unknown.")?;
        return Ok(text);
    };
    let unknown = "not in the token";
    writeln!(
        text,
        "principal  {}",
        claims.principal_name().unwrap_or("its name is not in the token")
    )?;
    for (what, claim) in [
        ("object ID", &claims.object_id),
        ("client ID", &claims.application_id),
        ("tenant", &claims.tenant_id),
        ("audience", &claims.audience),
    ] {
        writeln!(text, "{what:<10} {}", claim.as_deref().unwrap_or(unknown))?;
    }
    if let Some(resource) = &claims.managed_identity_resource_id {
        writeln!(text, "resource   {resource}")?;
    }
    writeln!(text, "lifetime   {}", lifetime(token.remaining(now)))?;

    writeln!(
        text,
        "\nTo let it into Azure SQL, as the server's Entra administrator, in the database:\n"
    )?;
    writeln!(text, "{}", azure_sql_statements(&claims))?;
    writeln!(text, "\nTo let it into Azure Database for PostgreSQL, as the server's Entra")?;
    writeln!(text, "administrator, in the database postgres; then GRANT as to any role:\n")?;
    writeln!(text, "{}", postgresql_statement(&claims))?;
    if claims.principal_name().is_none() {
        writeln!(text, "\nNAME is its display name, as Entra shows it for the object ID.")?;
    }
    Ok(text)
}

fn azure_sql_statements(claims: &Claims) -> String {
    let name = claims.principal_name().unwrap_or("NAME").replace(']', "]]");
    format!(
        "CREATE USER [{name}] FROM EXTERNAL PROVIDER;\n\
         ALTER ROLE db_datareader ADD MEMBER [{name}];\n\
         ALTER ROLE db_datawriter ADD MEMBER [{name}];"
    )
}

fn postgresql_statement(claims: &Claims) -> String {
    let quoted = |text: &str| text.replace('\'', "''");
    match (claims.principal_name(), &claims.object_id) {
        (Some(name), _) => {
            let name = quoted(name);
            format!("SELECT * FROM pgaadauth_create_principal('{name}', false, false);")
        }
        // Persons' tokens hold their names: this is an application.
        (None, Some(id)) => {
            let id = quoted(id);
            format!(
                "SELECT * FROM pgaadauth_create_principal_with_oid('NAME', '{id}', 'service', false, false);"
            )
        }
        (None, None) => "SELECT * FROM pgaadauth_create_principal('NAME', false, false);".into(),
    }
}

fn lifetime(left: Duration) -> String {
    let minutes = left.as_secs() / 60;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{} s", left.as_secs()),
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use entra_pool_emulator::jwt::{Issuer, Principal, PrincipalKind};

    fn described(principal: &Principal) -> String {
        let now = SystemClock::new().wall();
        let expires_on = now + Duration::from_secs(90 * 60);
        let secret =
            Issuer::new().sign(principal, "https://database.windows.net", expires_on, 2_000);
        let token = Token::new(secret.clone(), expires_on);
        let text = describe("Azure CLI", &Scope::AZURE_SQL, &token, now).unwrap();
        assert!(!text.contains(&secret) && !text.contains("eyJ"), "{text}");
        for line in [
            "identity   Azure CLI".to_owned(),
            format!("object ID  {}", principal.object_id),
            format!("client ID  {}", principal.client_id),
            format!("tenant     {}", entra_pool_emulator::jwt::TENANT_ID),
            "audience   https://database.windows.net".to_owned(),
            "lifetime   1 h 30 min".to_owned(),
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
        text
    }

    #[test]
    fn whoever_has_a_name_gets_ready_statements() {
        let text = described(&Principal::new("o'neil]s shop", PrincipalKind::UserAssigned));
        assert!(text.contains("principal  o'neil]s shop\n"), "{text}");
        assert!(text.contains("CREATE USER [o'neil]]s shop] FROM EXTERNAL PROVIDER;"), "{text}");
        assert!(text.contains("ALTER ROLE db_datareader ADD MEMBER [o'neil]]s shop];"), "{text}");
        assert!(text.contains("pgaadauth_create_principal('o''neil]s shop', false"), "{text}");
        let text = described(&Principal::new("dev@contoso.com", PrincipalKind::User));
        assert!(text.contains("principal  dev@contoso.com\n"), "{text}");
    }

    #[test]
    fn whoever_has_none_is_let_in_by_object_id() {
        let app = Principal::new("shop-app", PrincipalKind::SystemAssigned);
        let text = described(&app);
        let statement =
            format!("pgaadauth_create_principal_with_oid('NAME', '{}', 'service'", app.object_id);
        assert!(text.contains(&statement) && text.contains("CREATE USER [NAME]"), "{text}");
        assert!(text.contains("NAME is its display name"), "{text}");
    }

    #[test]
    fn a_token_that_says_nothing_is_described_as_such() {
        let now = SystemTime::UNIX_EPOCH;
        let token = Token::new("opaque", now + Duration::from_secs(59));
        let text = describe("ours", &Scope::AZURE_SQL, &token, now).unwrap();
        assert!(text.contains("not a JWT") && text.contains("lifetime   59 s"), "{text}");
        assert!(!text.contains("opaque"));
    }

    #[test]
    fn the_scope_follows_from_the_argument() {
        for (target, scope) in [
            (None, "https://database.windows.net/.default"),
            (Some("shop.database.windows.net"), "https://database.windows.net/.default"),
            (
                Some("shop.postgres.database.azure.com"),
                "https://ossrdbms-aad.database.windows.net/.default",
            ),
            (Some("shop.database.chinacloudapi.cn"), "https://database.chinacloudapi.cn/.default"),
            (
                Some("Server=shop.database.usgovcloudapi.net;Database=orders"),
                "https://database.usgovcloudapi.net/.default",
            ),
            (
                Some("Server=localhost;Entra Scope=https://database.windows.net/.default"),
                "https://database.windows.net/.default",
            ),
            (
                Some("postgres://app@shop.postgres.database.usgovcloudapi.net/menu"),
                "https://ossrdbms-aad.database.usgovcloudapi.net/.default",
            ),
            (
                Some("host=shop.postgres.database.azure.com dbname=menu"),
                "https://ossrdbms-aad.database.windows.net/.default",
            ),
        ] {
            assert_eq!(Target::of(target).unwrap().scope.as_str(), scope, "{target:?}");
        }
        for bad in ["localhost", "evil-database.windows.net", "Server=localhost", ""] {
            assert!(Target::of(Some(bad)).is_err(), "{bad}");
        }
    }
}
