//! An Entra tenant: its principals, the issuer of their tokens, and the endpoints that
//! return tokens.

use std::{io, net::Ipv4Addr, path::PathBuf, sync::Arc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    certificates::Authority,
    entra::{Application, EntraEndpoint},
    identity::{IdentityEndpoint, IdentityOptions},
    jwt::{Directory, Issuer},
};

/// The characters that must be escaped in a part of a URL (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The options of a [`Tenant`].
#[derive(Debug, Clone, Default)]
pub struct TenantOptions {
    /// Names and addresses by which clients reach this machine, in addition to `localhost` and
    /// 127.0.0.1. URLs contain the first.
    pub host_names: Vec<String>,
    /// The folder to keep the authority and the keys in; `None`, the default, generates new
    /// ones.
    pub folder: Option<PathBuf>,
    /// The identity endpoint's options. The token endpoint has the same address; the host
    /// name is taken from `host_names`.
    pub identity: IdentityOptions,
    /// The port of Entra's token endpoint; 0, the default, takes a free one.
    pub token_port: u16,
    /// The applications that may request tokens from Entra's token endpoint.
    pub applications: Vec<Application>,
}

/// The endpoints of a tenant, running; they stop when this is dropped.
#[derive(Debug)]
pub struct Tenant {
    /// The certificate authority, which can issue further certificates.
    pub authority: Authority,
    /// A server's TLS configuration with a certificate for all host names.
    pub tls: Arc<rustls::ServerConfig>,
    /// Signs the tokens.
    pub issuer: Arc<Issuer>,
    /// The principals that the databases grant access.
    pub directory: Arc<Directory>,
    /// The identity endpoint.
    pub identity: IdentityEndpoint,
    /// Entra's token endpoint.
    pub entra: EntraEndpoint,
    host_name: String,
}

impl Tenant {
    /// Starts the endpoints, in the current tokio runtime. The directory has all identities
    /// and applications.
    ///
    /// # Errors
    ///
    /// A port is in use, a host name cannot be in a certificate, or a folder cannot be used.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(options: TenantOptions) -> io::Result<Self> {
        let (authority, issuer) = match &options.folder {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(|error| {
                    let folder = folder.display();
                    io::Error::new(error.kind(), format!("cannot create {folder}: {error}"))
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
        let mut identity = options.identity;
        identity.host_name = options.host_names.first().cloned();
        for principal in identity.system_assigned.iter().chain(&identity.user_assigned) {
            directory.add(principal.clone());
        }
        let addr = (identity.bind.unwrap_or(Ipv4Addr::LOCALHOST.into()), options.token_port);
        let identity = IdentityEndpoint::start(Arc::clone(&issuer), identity)?;
        let entra = EntraEndpoint::start(Arc::clone(&issuer), Arc::clone(&tls), addr, &host_name)?;
        for application in options.applications {
            directory.add(application.principal.clone());
            entra.register(application);
        }
        Ok(Self { authority, tls, issuer, directory, identity, entra, host_name })
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
        // A role's name can contain any character.
        let encode = |text| utf8_percent_encode(text, RESERVED);
        let (user, database, host) = (encode(user), encode(database), &self.host_name);
        format!("postgres://{user}@{host}:{port}/{database}?{parameters}")
    }
}

/// The audience of tokens for Azure Database for PostgreSQL.
pub const POSTGRES_AUDIENCE: &str = "https://ossrdbms-aad.database.windows.net";
