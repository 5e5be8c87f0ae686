//! The running services, and the variables for their clients.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool_emulator::{
    azure_sql::AzureSqlEndpoint,
    entra::{Application, WORKLOAD_ISSUER},
    front::{
        azure_sql::AzureSqlFront,
        postgres::{PostgresFront, PostgresFrontOptions},
    },
    identity::IdentityOptions,
    jwt::{Principal, TENANT_ID},
    tenant::{Tenant, TenantOptions},
};
use tempfile::TempDir;

use crate::{
    Failure,
    settings::{Credential, Settings},
    variables::Variable,
};

/// The sample tables, with two rows each.
#[cfg(feature = "embedded")]
const SAMPLE_AZURE_SQL: &str = "\
    CREATE TABLE product (id int NOT NULL PRIMARY KEY, name nvarchar(50) NOT NULL);
    INSERT INTO product VALUES (1, 'a book'), (2, 'a lamp');";
#[cfg(feature = "embedded")]
const SAMPLE_POSTGRES: &str = "\
    CREATE TABLE restaurant (id int NOT NULL PRIMARY KEY, name text NOT NULL);
    INSERT INTO restaurant VALUES (1, 'Chez Token'), (2, 'Da Claim');";

/// The lifetime of the token in the file, which is not rotated.
const WORKLOAD_TOKEN_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Everything stops when this is dropped.
pub(crate) struct Services {
    pub(crate) variables: Vec<Variable>,
    tenant: Tenant,
    _servers: [Option<Server>; 2],
    /// The folder with the workload's token.
    _folder: TempDir,
}

/// A database server or a front: its port, and what keeps it running.
type Server = (u16, Box<dyn Any>);

impl Services {
    pub(crate) async fn start(settings: &Settings) -> Result<Self, Failure> {
        let mut applications = settings.applications().map_err(Failure::Settings)?;
        let tenant = Tenant::start(TenantOptions {
            host_names: settings.host_name.clone().unwrap_or_default(),
            folder: settings.ca_dir.clone().map(|it| std::path::absolute(&it).unwrap_or(it)),
            identity: IdentityOptions {
                bind: settings.bind,
                port: settings.identity_port(),
                secret: settings.identity_header.clone(),
                system_assigned: Some(settings.system_assigned()),
                user_assigned: settings.user_assigned(),
                ..IdentityOptions::default()
            },
            token_port: settings.token_port.unwrap_or(8422),
            applications: applications.clone(),
        })
        .map_err(Failure::start("the identity endpoints"))?;
        tenant.identity.set_ready(false);
        let folder = tempfile::Builder::new()
            .prefix("entra-pool-emulator-")
            .tempdir()
            .map_err(Failure::start("the issuer of workload tokens"))?;
        let mut variables = Vec::new();
        let role =
            credential(&mut variables, settings, &tenant, applications.swap_remove(0), &folder)?;
        let mut add = |comment, name, value| variables.push(Variable { name, value, comment });
        let endpoint = tenant.identity.imds_endpoint();
        add("The endpoints of all hosts, and Entra's", "EMULATOR_IDENTITY", endpoint);
        add("", "EMULATOR_AUTHORITY", tenant.entra.authority_host());
        let ca = tenant.authority.path().display().to_string();
        add("The authority of all certificates", "EMULATOR_CA", ca);
        let azure_sql = start_azure_sql(settings, &tenant).await?;
        if let Some((port, _)) = &azure_sql {
            let text = tenant.azure_sql_string(*port, &settings.azure_sql_databases()[0]);
            let text = format!("{text};Authentication=Active Directory Default");
            add("Azure SQL", "EMULATOR_AZURE_SQL", text.clone());
            add("", "AZURE_SQL_CONNECTIONSTRING", text);
        }
        let postgres = start_postgres(settings, &tenant)?;
        if let Some((port, _)) = &postgres {
            let url = tenant.postgres_url(*port, &settings.postgres_databases()[0], &role);
            add("Azure Database for PostgreSQL", "EMULATOR_POSTGRES", url.clone());
            add("", "AZURE_POSTGRESQL_CONNECTIONSTRING", url);
        }
        Ok(Self { variables, tenant, _servers: [azure_sql, postgres], _folder: folder })
    }

    /// `/health` answers 200 from now on.
    pub(crate) fn set_ready(&self) {
        self.tenant.identity.set_ready(true);
    }
}

/// Adds the variables of the credential that is selected, and returns the name of its role.
fn credential(
    variables: &mut Vec<Variable>,
    settings: &Settings,
    tenant: &Tenant,
    first: Application,
    folder: &TempDir,
) -> Result<String, Failure> {
    let mut add = |comment, name, value| variables.push(Variable { name, value, comment });
    let credential = settings.credential.unwrap_or_default();
    if credential == Credential::ManagedIdentity {
        let [(endpoint, url), (header, secret)] = tenant.identity.app_service_env();
        let identity = settings.user_assigned().swap_remove(0);
        add("The managed identity, with App Service's variables", endpoint, url);
        add("", header, secret);
        add("", "AZURE_CLIENT_ID", identity.client_id);
        return Ok(identity.name);
    }
    let Principal { name, client_id, .. } = &first.principal;
    let lacks = |what: &str| Failure::Settings(format!("application '{name}' has no {what}"));
    let authority = tenant.entra.authority_host();
    add("The application at Entra's token endpoint", "AZURE_AUTHORITY_HOST", authority);
    add("", "AZURE_TENANT_ID", TENANT_ID.to_owned());
    add("", "AZURE_CLIENT_ID", client_id.clone());
    if credential == Credential::ClientSecret {
        let secret = first.secrets.first();
        let secret = secret.ok_or_else(|| lacks("secret: add secrets = [\"…\"]"))?;
        add("", "AZURE_CLIENT_SECRET", secret.clone());
    } else {
        let missing = "service account of the emulator: add federated = [{ subject = \"…\" }], \
                       without an issuer";
        let own = first.federated.iter().find(|it| it.issuer == WORKLOAD_ISSUER);
        let (own, file) =
            (own.ok_or_else(|| lacks(missing))?, folder.path().join("workload-token"));
        let expires_on = SystemTime::now() + WORKLOAD_TOKEN_LIFETIME;
        let written = tenant.entra.write_workload_token(own, expires_on, &file);
        written.map_err(Failure::start("the issuer of workload tokens"))?;
        add("", "AZURE_FEDERATED_TOKEN_FILE", file.display().to_string());
    }
    let ca = tenant.authority.path().display().to_string();
    let comment = "The authority to trust: OpenSSL and Rust, Python's requests, Node.js";
    add(comment, "SSL_CERT_FILE", ca.clone());
    add("", "REQUESTS_CA_BUNDLE", ca.clone());
    add("", "NODE_EXTRA_CA_CERTS", ca);
    Ok(name.clone())
}

fn start_postgres(settings: &Settings, tenant: &Tenant) -> Result<Option<Server>, Failure> {
    let failed = Failure::start("PostgreSQL");
    let (issuer, directory) = (Arc::clone(&tenant.issuer), Arc::clone(&tenant.directory));
    let (tls, port) = (Arc::clone(&tenant.tls), settings.postgres_port.unwrap_or(54320));
    #[cfg(feature = "embedded")]
    let script = settings
        .script(&settings.postgres_init, &settings.postgres_upstream, SAMPLE_POSTGRES)
        .map_err(Failure::Settings)?;
    let mut options = match &settings.postgres_upstream {
        Some(url) => PostgresFrontOptions::new(issuer, directory, url, tls),
        #[cfg(not(feature = "embedded"))]
        None => return Ok(None),
        #[cfg(feature = "embedded")]
        None => {
            use entra_pool_emulator::{database::Database, postgres::Embedded};
            let data = Arc::new(Database::new().map_err(&failed)?);
            let mut names = settings.postgres_databases();
            names.extend(["postgres", "restaurant"].map(str::to_owned));
            let engine = Embedded::new(data, names);
            engine.run(&script).map_err(&failed)?;
            PostgresFrontOptions::embedded(issuer, directory, engine, tls)
        }
    };
    options.bind = settings.bind.unwrap_or(options.bind);
    options.port = port;
    options.administrators = settings.postgres_administrators.clone();
    options.engine_logins = settings.postgres_login.clone();
    let front = PostgresFront::start(options).map_err(failed)?;
    let server: Server = (front.addr().port(), Box::new(front.clone()));
    tokio::spawn(async move {
        if let Err(error) = front.prepare().await {
            tracing::warn!(%error, "the PostgreSQL server behind the front is not ready yet");
        }
    });
    Ok(Some(server))
}

async fn start_azure_sql(settings: &Settings, tenant: &Tenant) -> Result<Option<Server>, Failure> {
    let failed = Failure::start("Azure SQL");
    let (issuer, directory) = (Arc::clone(&tenant.issuer), Arc::clone(&tenant.directory));
    let mut endpoint = AzureSqlEndpoint::new(issuer, directory, Arc::clone(&tenant.tls));
    endpoint.bind = settings.bind.unwrap_or(endpoint.bind);
    endpoint.port = settings.azure_sql_port.unwrap_or(14330);
    // Drivers that get a token themselves are sent to this emulator's token endpoint.
    endpoint.sts_url = format!("{}/{TENANT_ID}", tenant.entra.authority_host());
    #[cfg(feature = "embedded")]
    let script = settings
        .script(&settings.azure_sql_init, &settings.azure_sql_upstream, SAMPLE_AZURE_SQL)
        .map_err(Failure::Settings)?;
    if let Some(upstream) = settings.azure_sql_upstream().map_err(Failure::Settings)? {
        let mut engine_logins = BTreeMap::new();
        if let Some(login) = upstream.login {
            let names = tenant.directory.names().into_iter();
            engine_logins.extend(names.map(|name| (name, login.clone())));
        }
        engine_logins.extend(settings.azure_sql_login.clone());
        let (engine, engine_trust) = ((upstream.host, upstream.port), upstream.trust);
        let front = AzureSqlFront { endpoint, engine, engine_trust, engine_logins };
        let front = front.start().map_err(failed)?;
        return Ok(Some((front.addr().port(), Box::new(front))));
    }
    #[cfg(feature = "embedded")]
    {
        use entra_pool_emulator::{azure_sql, database::Database};
        let data = Arc::new(Database::new().map_err(&failed)?);
        let mut options = azure_sql::AzureSqlOptions::at(endpoint, data);
        options.databases.extend(settings.azure_sql_databases());
        options.run(&script).map_err(|error| failed(std::io::Error::other(error)))?;
        let server = azure_sql::AzureSqlServer::start(options).await.map_err(failed)?;
        Ok(Some((server.addr().port(), Box::new(server))))
    }
    #[cfg(not(feature = "embedded"))]
    {
        Ok(None)
    }
}
