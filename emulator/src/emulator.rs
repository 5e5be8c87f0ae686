//! All stand-ins at once, with one shop registered everywhere.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    azure_sql::{AzureSqlOptions, AzureSqlServer},
    certificates::Authority,
    database::Database,
    identity::{IdentityEndpoint, IdentityOptions},
    jwt::{Directory, Issuer, Principal, PrincipalKind},
    postgres::{AUDIENCE, PostgresOptions, PostgresServer},
};

/// The ports on 127.0.0.1 (0, the default, takes free ones), and what there is to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Of the identity endpoint.
    pub identity_port: u16,
    /// Of Azure SQL.
    pub azure_sql_port: u16,
    /// Of PostgreSQL.
    pub postgres_port: u16,
    /// Whether the databases begin with the tables that the crate's first lines
    /// read, two rows each: `TestTable` on Azure SQL, `restaurant` on PostgreSQL.
    pub with_samples: bool,
}

const SAMPLE_AZURE_SQL: &str = "\
    CREATE TABLE TestTable (Column1 int NOT NULL PRIMARY KEY, Column2 nvarchar(50) NOT NULL);
    INSERT INTO TestTable VALUES (1, 'a book'), (2, 'a lamp');";

const SAMPLE_POSTGRES: &str = "\
    CREATE TABLE restaurant (id int NOT NULL PRIMARY KEY, name text NOT NULL);
    INSERT INTO restaurant VALUES (1, 'Chez Token'), (2, 'Da Claim');";

/// The stand-ins of this crate, running; they stop when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    authority: Authority,
    issuer: Arc<Issuer>,
    directory: Arc<Directory>,
    system: Principal,
    shop: Principal,
    identity: IdentityEndpoint,
    azure_sql: AzureSqlServer,
    postgres: PostgresServer,
}

impl Emulator {
    /// Starts everything, in the current tokio runtime: the application has a
    /// system-assigned identity, `shop-app`, and a user-assigned one,
    /// `shop-identity`; both databases let both in.
    ///
    /// # Errors
    ///
    /// A port is taken, or the temporary folder cannot be written.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn start(options: EmulatorOptions) -> io::Result<Self> {
        let authority = Authority::new()?;
        let tls = authority.issue(&["localhost", "127.0.0.1"])?.server_config()?;
        let issuer = Arc::new(Issuer::new());
        let directory = Arc::new(Directory::default());
        let system = Principal::new("shop-app", PrincipalKind::SystemAssigned);
        let shop = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        directory.add(system.clone());
        directory.add(shop.clone());
        let identity = IdentityEndpoint::start(
            Arc::clone(&issuer),
            IdentityOptions {
                port: options.identity_port,
                system_assigned: Some(system.clone()),
                user_assigned: vec![shop.clone()],
            },
        )?;
        // Declared types are each server's own: a database for each.
        let database = |sample: &str| {
            let database = Arc::new(Database::new()?);
            if options.with_samples {
                database
                    .open()
                    .and_then(|it| it.execute_batch(sample))
                    .map_err(io::Error::other)?;
            }
            io::Result::Ok(database)
        };
        let mut azure_sql = AzureSqlOptions::new(
            Arc::clone(&issuer),
            Arc::clone(&directory),
            database(SAMPLE_AZURE_SQL)?,
            Arc::clone(&tls),
        );
        azure_sql.port = options.azure_sql_port;
        let azure_sql = AzureSqlServer::start(azure_sql).await?;
        let database = database(SAMPLE_POSTGRES)?;
        let mut postgres =
            PostgresOptions::new(Arc::clone(&issuer), Arc::clone(&directory), database, tls);
        postgres.port = options.postgres_port;
        let postgres = PostgresServer::start(postgres)?;
        Ok(Self { authority, issuer, directory, system, shop, identity, azure_sql, postgres })
    }

    /// Signs the tokens.
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// Whom the databases let in.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The system-assigned identity, `shop-app`.
    pub fn system_assigned(&self) -> &Principal {
        &self.system
    }

    /// The user-assigned identity, `shop-identity`.
    pub fn user_assigned(&self) -> &Principal {
        &self.shop
    }

    /// The identity endpoint.
    pub fn identity(&self) -> &IdentityEndpoint {
        &self.identity
    }

    /// Azure SQL.
    pub fn azure_sql(&self) -> &AzureSqlServer {
        &self.azure_sql
    }

    /// Azure Database for PostgreSQL.
    pub fn postgres(&self) -> &PostgresServer {
        &self.postgres
    }

    /// A file with the certificate that all of it is to be verified with.
    pub fn ca_path(&self) -> PathBuf {
        self.authority.path()
    }

    /// The certificate authority, for certificates of one's own.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What App Service sets for an application, and which of its identities
    /// the Azure SDKs shall take.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let mut env = self.identity.app_service_env().to_vec();
        env.push(("AZURE_CLIENT_ID", self.shop.client_id.clone()));
        env
    }

    /// An ADO.NET connection string as entra-pool reads it: logs in to the
    /// database `orders` with an identity that is given beside it.
    pub fn azure_sql_string(&self) -> String {
        let port = self.azure_sql.addr().port();
        let ca = self.ca_path().display().to_string();
        format!(
            "Server=tcp:localhost,{port};Database=orders;TrustServerCertificateCA=\"{ca}\";\
             Entra Scope=https://database.windows.net/.default"
        )
    }

    /// A URL as entra-pool reads it: logs in as `shop-identity`, to the
    /// database `restaurant`, with an identity that is given beside it or told
    /// by the environment.
    pub fn postgres_url(&self) -> String {
        let port = self.postgres.addr().port();
        let ca = self.ca_path().display().to_string();
        let parameters = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("sslrootcert", &ca)
            .append_pair("entra_scope", &format!("{AUDIENCE}/.default"))
            .finish();
        let user = &self.shop.name;
        format!("postgres://{user}@localhost:{port}/restaurant?{parameters}")
    }
}
