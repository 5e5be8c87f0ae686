//! What runs, and what to connect to it with.

use std::{
    any::Any,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use entra_pool_emulator::{
    front::{
        azure_sql::{AzureSqlFront, AzureSqlFrontOptions},
        postgres::{PostgresFront, PostgresFrontOptions},
    },
    jwt::{Principal, TENANT_ID},
    tenant::{Tenant, TenantOptions},
};
use tempfile::TempDir;

use crate::{
    Failure,
    settings::{Credential, Registered, Settings, SettingsError},
    variables::Variable,
};

/// Of the token in the file, which is not rotated.
const WORKLOAD_TOKEN_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Everything stops when this is dropped.
pub(crate) struct Services {
    tenant: Tenant,
    user_assigned: Principal,
    first: Registered,
    credential: Credential,
    workload_token: PathBuf,
    azure_sql: Option<(u16, String)>,
    postgres: Option<(u16, String)>,
    _servers: Vec<Box<dyn Any>>,
    _folder: TempDir,
}

impl Services {
    pub(crate) async fn start(settings: &Settings) -> Result<Self, Failure> {
        let mut applications = settings.applications()?;
        let tenant = Tenant::start(TenantOptions {
            bind: settings.bind(),
            host_names: settings.host_names.clone(),
            folder: settings.ca_dir.clone(),
            identity_port: settings.identity_port(),
            token_port: settings.token_port.unwrap_or(8422),
            identity_header: settings.identity_header.clone(),
            system_assigned: Some(settings.system_assigned()),
            user_assigned: settings.user_assigned(),
            applications: applications.iter().map(|it| it.application.clone()).collect(),
        })
        .map_err(Failure::start("the identity endpoints"))?;
        tenant.identity().set_ready(false);
        for (issuer, keys) in applications.iter().flat_map(|it| &it.keys) {
            let not_keys =
                |error: serde_json::Error| SettingsError::Keys(issuer.clone(), error.to_string());
            tenant.entra().trust_issuer(issuer, keys).map_err(not_keys)?;
        }
        let first = applications.swap_remove(0);
        let folder = || -> io::Result<_> {
            let folder = tempfile::Builder::new().prefix("entra-pool-emulator-").tempdir()?;
            let file = folder.path().join("workload-token");
            if let Some(credential) = &first.workload {
                let expires_on = SystemTime::now() + WORKLOAD_TOKEN_LIFETIME;
                tenant.entra().write_workload_token(credential, expires_on, &file)?;
            }
            Ok((folder, file))
        };
        let (folder, workload_token) =
            folder().map_err(Failure::start("the issuer of workload tokens"))?;
        let mut services = Self {
            user_assigned: settings.user_assigned().swap_remove(0),
            credential: settings.credential.unwrap_or_default(),
            tenant,
            first,
            workload_token,
            azure_sql: None,
            postgres: None,
            _servers: Vec::new(),
            _folder: folder,
        };
        services.check_credential()?;
        services.start_azure_sql(settings).await?;
        services.start_postgres(settings)?;
        Ok(services)
    }

    /// `/health` answers 200 from now on.
    pub(crate) fn set_ready(&self) {
        self.tenant.identity().set_ready(true);
    }

    /// Whether the application has the credential that is to be printed.
    fn check_credential(&self) -> Result<(), SettingsError> {
        let name = || self.first.application.principal().name.clone();
        match self.credential {
            Credential::ClientSecret if self.first.secret.is_none() => {
                Err(SettingsError::Application(name(), "has no secret: add secrets = [\"…\"]"))
            }
            Credential::WorkloadIdentity if self.first.workload.is_none() => {
                let problem = "has no service account of the emulator: \
                               add federated = [{ subject = \"…\" }], without an issuer";
                Err(SettingsError::Application(name(), problem))
            }
            _ => Ok(()),
        }
    }

    fn start_postgres(&mut self, settings: &Settings) -> Result<(), Failure> {
        let failed = Failure::start("PostgreSQL");
        let tenant = &self.tenant;
        let (issuer, directory) = (Arc::clone(tenant.issuer()), Arc::clone(tenant.directory()));
        let (tls, database) = (Arc::clone(tenant.tls()), first(settings.postgres_databases()));
        if let Some(url) = &settings.postgres_upstream {
            let mut options = PostgresFrontOptions::new(issuer, directory, url, tls);
            options.bind = settings.bind();
            options.port = settings.postgres_port.unwrap_or(54320);
            options.administrators = settings.postgres_administrators.clone();
            options.engine_logins = settings.postgres_login.clone();
            let front = PostgresFront::start(options).map_err(failed)?;
            self.postgres = Some((front.addr().port(), database));
            self._servers.push(Box::new(front.clone()));
            tokio::spawn(async move {
                if let Err(error) = front.prepare().await {
                    tracing::warn!(%error, "the PostgreSQL behind the front is not usable yet");
                }
            });
            return Ok(());
        }
        #[cfg(feature = "embedded")]
        {
            use entra_pool_emulator::{emulator::SAMPLE_POSTGRES, postgres};
            let data = sample(SAMPLE_POSTGRES).map_err(&failed)?;
            let mut options = postgres::PostgresOptions::new(issuer, directory, data, tls);
            options.bind = settings.bind();
            options.port = settings.postgres_port.unwrap_or(54320);
            options.database_names.extend(settings.postgres_databases());
            let server = postgres::PostgresServer::start(options).map_err(&failed)?;
            self.postgres = Some((server.addr().port(), database));
            self._servers.push(Box::new(server));
        }
        Ok(())
    }

    async fn start_azure_sql(&mut self, settings: &Settings) -> Result<(), Failure> {
        let failed = Failure::start("Azure SQL");
        let tenant = &self.tenant;
        let (issuer, directory) = (Arc::clone(tenant.issuer()), Arc::clone(tenant.directory()));
        let (tls, database) = (Arc::clone(tenant.tls()), first(settings.azure_sql_databases()));
        // Drivers that get a token themselves are sent to the token endpoint here.
        let sts_url = format!("{}/{TENANT_ID}", tenant.entra().authority_host());
        if let Some(upstream) = settings.azure_sql_upstream()? {
            let engine = (upstream.host.as_str(), upstream.port, upstream.trust);
            let mut options = AzureSqlFrontOptions::new(issuer, directory, engine, tls);
            options.bind = settings.bind();
            options.port = settings.azure_sql_port.unwrap_or(14330);
            options.sts_url = sts_url;
            if let Some(login) = upstream.login {
                let names = tenant.directory().names().into_iter();
                options.engine_logins = names.map(|name| (name, login.clone())).collect();
            }
            options.engine_logins.extend(settings.azure_sql_login.clone());
            let front = AzureSqlFront::start(options).await.map_err(&failed)?;
            self.azure_sql = Some((front.addr().port(), database));
            self._servers.push(Box::new(front));
            return Ok(());
        }
        #[cfg(feature = "embedded")]
        {
            use entra_pool_emulator::{azure_sql, emulator::SAMPLE_AZURE_SQL};
            let data = sample(SAMPLE_AZURE_SQL).map_err(&failed)?;
            let mut options = azure_sql::AzureSqlOptions::new(issuer, directory, data, tls);
            options.bind = settings.bind();
            options.port = settings.azure_sql_port.unwrap_or(14330);
            options.sts_url = sts_url;
            options.databases.extend(settings.azure_sql_databases());
            let server = azure_sql::AzureSqlServer::start(options).await.map_err(&failed)?;
            self.azure_sql = Some((server.addr().port(), database));
            self._servers.push(Box::new(server));
        }
        Ok(())
    }

    /// What to connect with.
    pub(crate) fn variables(&self) -> Vec<Variable> {
        let mut variables = Vec::new();
        let mut add = |comment, name, value: String| {
            variables.push(Variable { name, value, comment });
        };
        let (tenant, application) = (&self.tenant, self.first.application.principal());
        let (authority, ca) = (tenant.entra().authority_host(), tenant.authority().path());
        let ca = ca.display().to_string();
        let role = match self.credential {
            Credential::ManagedIdentity => {
                let [(endpoint, url), (header, secret)] = tenant.identity().app_service_env();
                add("The managed identity, as App Service gives it to applications", endpoint, url);
                add("", header, secret);
                add("", "AZURE_CLIENT_ID", self.user_assigned.client_id.clone());
                &self.user_assigned
            }
            Credential::ClientSecret | Credential::WorkloadIdentity => {
                add(
                    "The application at Entra's token endpoint",
                    "AZURE_AUTHORITY_HOST",
                    authority.clone(),
                );
                add("", "AZURE_TENANT_ID", TENANT_ID.to_owned());
                add("", "AZURE_CLIENT_ID", application.client_id.clone());
                if self.credential == Credential::ClientSecret {
                    add("", "AZURE_CLIENT_SECRET", self.first.secret.clone().unwrap_or_default());
                } else {
                    let file = self.workload_token.display().to_string();
                    add("", "AZURE_FEDERATED_TOKEN_FILE", file);
                }
                let comment = "Whom OpenSSL and Rust, Python's requests and Node.js trust";
                add(comment, "SSL_CERT_FILE", ca.clone());
                add("", "REQUESTS_CA_BUNDLE", ca.clone());
                add("", "NODE_EXTRA_CA_CERTS", ca.clone());
                application
            }
        };
        add(
            "The endpoints of all hosts, and Entra's",
            "EMULATOR_IDENTITY",
            tenant.identity().imds_endpoint(),
        );
        add("", "EMULATOR_AUTHORITY", authority);
        add("Certificates are verified with", "EMULATOR_CA", ca);
        if let Some((port, database)) = &self.azure_sql {
            let text = tenant.azure_sql_string(*port, database);
            let text = format!("{text};Authentication=Active Directory Default");
            add("Azure SQL", "EMULATOR_AZURE_SQL", text);
        }
        if let Some((port, database)) = &self.postgres {
            let url = tenant.postgres_url(*port, database, &role.name);
            add("Azure Database for PostgreSQL", "EMULATOR_POSTGRES", url);
        }
        variables
    }
}

fn first(mut names: Vec<String>) -> String {
    names.swap_remove(0)
}

/// A database with the tables of the first examples.
#[cfg(feature = "embedded")]
fn sample(sql: &str) -> io::Result<Arc<entra_pool_emulator::database::Database>> {
    let database = entra_pool_emulator::database::Database::new()?;
    database.open().and_then(|it| it.execute_batch(sql)).map_err(io::Error::other)?;
    Ok(Arc::new(database))
}
