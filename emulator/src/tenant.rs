//! An Entra tenant: who is known, who signs, and the endpoints that hand out
//! tokens.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use crate::{
    certificates::Authority,
    entra::{Application, EntraEndpoint, EntraOptions},
    identity::{IdentityEndpoint, IdentityOptions},
    jwt::{Directory, Issuer, Principal},
};

/// What a [`Tenant`] starts with.
#[derive(Debug, Clone)]
pub struct TenantOptions {
    /// The address to listen on; default 127.0.0.1.
    pub bind: IpAddr,
    /// Names and addresses by which clients reach this machine, besides
    /// `localhost` and 127.0.0.1. URLs have the first.
    pub host_names: Vec<String>,
    /// The folder to keep the authority and the keys in; `None`, the default,
    /// makes new ones.
    pub folder: Option<PathBuf>,
    /// The identity endpoint's port; 0, the default, takes a free one.
    pub identity_port: u16,
    /// The same of Entra's token endpoint.
    pub token_port: u16,
    /// The value of `IDENTITY_HEADER`; `None`, the default, makes a random one.
    pub identity_header: Option<String>,
    /// The system-assigned identity, if there is one.
    pub system_assigned: Option<Principal>,
    /// User-assigned identities.
    pub user_assigned: Vec<Principal>,
    /// Who may ask Entra's token endpoint.
    pub applications: Vec<Application>,
}

impl Default for TenantOptions {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::LOCALHOST.into(),
            host_names: Vec::new(),
            folder: None,
            identity_port: 0,
            token_port: 0,
            identity_header: None,
            system_assigned: None,
            user_assigned: Vec::new(),
            applications: Vec::new(),
        }
    }
}

/// The endpoints of a tenant, running; they stop when this is dropped.
#[derive(Debug)]
pub struct Tenant {
    authority: Authority,
    tls: Arc<rustls::ServerConfig>,
    issuer: Arc<Issuer>,
    directory: Arc<Directory>,
    identity: IdentityEndpoint,
    entra: EntraEndpoint,
    host_name: String,
}

impl Tenant {
    /// Starts the endpoints, in the current tokio runtime. The directory has
    /// all identities and applications.
    ///
    /// # Errors
    ///
    /// A port is taken, a host name cannot be in a certificate, or a folder cannot
    /// be used.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(options: TenantOptions) -> io::Result<Self> {
        let (authority, issuer) = match &options.folder {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(|error| {
                    let folder = folder.display();
                    io::Error::new(error.kind(), format!("cannot make {folder}: {error}"))
                })?;
                (Authority::kept_in(folder)?, Issuer::kept_in(folder)?)
            }
            None => (Authority::new()?, Issuer::new()),
        };
        let mut names: Vec<&str> = options.host_names.iter().map(String::as_str).collect();
        let host_name = names.first().copied().unwrap_or("localhost").to_owned();
        names.extend(["localhost", "127.0.0.1"]);
        let tls = authority.issue(&names)?.server_config()?;
        let (issuer, directory) = (Arc::new(issuer), Arc::new(Directory::default()));
        for principal in options.system_assigned.iter().chain(&options.user_assigned) {
            directory.add(principal.clone());
        }
        let identity = IdentityOptions {
            bind: options.bind,
            host_name: options.host_names.first().cloned(),
            port: options.identity_port,
            secret: options.identity_header,
            system_assigned: options.system_assigned,
            user_assigned: options.user_assigned,
        };
        let identity = IdentityEndpoint::start(Arc::clone(&issuer), identity)?;
        let entra = EntraOptions {
            bind: options.bind,
            host_name: host_name.clone(),
            port: options.token_port,
            ..EntraOptions::default()
        };
        let entra = EntraEndpoint::start(Arc::clone(&issuer), Arc::clone(&tls), entra)?;
        for application in options.applications {
            directory.add(application.principal().clone());
            entra.register(application);
        }
        Ok(Self { authority, tls, issuer, directory, identity, entra, host_name })
    }

    /// The certificate authority, for certificates of one's own.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A server's TLS configuration with a certificate for all host names.
    pub fn tls(&self) -> &Arc<rustls::ServerConfig> {
        &self.tls
    }

    /// Signs the tokens.
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// The principals that the databases grant access.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// The identity endpoint.
    pub fn identity(&self) -> &IdentityEndpoint {
        &self.identity
    }

    /// Entra's token endpoint.
    pub fn entra(&self) -> &EntraEndpoint {
        &self.entra
    }

    /// An ADO.NET connection string as entra-pool reads it, without an identity.
    pub fn azure_sql_string(&self, port: u16, database: &str) -> String {
        let (host, ca) = (&self.host_name, self.authority.path());
        format!(
            "Server=tcp:{host},{port};Database={database};TrustServerCertificateCA=\"{}\";\
             Entra Scope=https://database.windows.net/.default",
            ca.display()
        )
    }

    /// A URL as entra-pool reads it, without an identity.
    pub fn postgres_url(&self, port: u16, database: &str, user: &str) -> String {
        let ca = self.authority.path().display().to_string();
        let parameters = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("sslrootcert", &ca)
            .append_pair("entra_scope", &format!("{POSTGRES_AUDIENCE}/.default"))
            .finish();
        // Names of roles may have any character.
        let encode = |text: &str| {
            let encoded: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
            encoded.replace('+', "%20")
        };
        let (user, database, host) = (encode(user), encode(database), &self.host_name);
        format!("postgres://{user}@{host}:{port}/{database}?{parameters}")
    }
}

/// The audience of tokens for Azure Database for PostgreSQL.
pub const POSTGRES_AUDIENCE: &str = "https://ossrdbms-aad.database.windows.net";
