//! All endpoints and stand-ins together, with the same identities everywhere.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    azure_sql::{AzureSqlOptions, AzureSqlServer},
    certificates::Authority,
    database::Database,
    entra::{Application, EntraEndpoint},
    front::postgres::{PostgresFront, PostgresFrontOptions},
    identity::{IdentityEndpoint, IdentityOptions},
    jwt::{Directory, Issuer, Principal, PrincipalKind, TENANT_ID},
    postgres::Embedded,
    tenant::{Tenant, TenantOptions},
};

/// The endpoints and stand-ins of this crate, running. They stop when this is dropped.
pub struct Emulator {
    tenant: Tenant,
    system: Principal,
    shop: Principal,
    service: Principal,
    secret: String,
    azure_sql: AzureSqlServer,
    postgres: PostgresFront,
}

opaque_debug!(Emulator);

impl Emulator {
    /// Starts everything, in the current tokio runtime: the application has a
    /// system-assigned identity, `shop-app`, a user-assigned one,
    /// `shop-identity`, and a service principal, `shop-service`; both databases
    /// grant all three access.
    ///
    /// # Errors
    ///
    /// No port is free, or the temporary folder cannot be written.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn start() -> io::Result<Self> {
        let system = Principal::new("shop-app", PrincipalKind::SystemAssigned);
        let shop = Principal::new("shop-identity", PrincipalKind::UserAssigned);
        let service = Principal::new("shop-service", PrincipalKind::ServicePrincipal);
        let secret = uuid::Uuid::new_v4().simple().to_string();
        let tenant = Tenant::start(TenantOptions {
            identity: IdentityOptions {
                system_assigned: Some(system.clone()),
                user_assigned: vec![shop.clone()],
                ..IdentityOptions::default()
            },
            applications: vec![Application {
                secrets: vec![secret.clone()],
                ..Application::new(service.clone())
            }],
            ..TenantOptions::default()
        })?;
        let Tenant { issuer, directory, tls, .. } = &tenant;
        let shared = || (Arc::clone(issuer), Arc::clone(directory), Arc::clone(tls));
        // Each server has its own declared types, and so its own database.
        let database = || Database::new().map(Arc::new);
        let (issuer, directory, tls) = shared();
        let mut azure_sql = AzureSqlOptions::new(issuer, directory, database()?, tls);
        azure_sql.endpoint.sts_url = format!("{}/{TENANT_ID}", tenant.entra.authority_host());
        let azure_sql = AzureSqlServer::start(azure_sql).await?;
        let names = ["postgres", "restaurant"].map(str::to_owned).to_vec();
        let engine = Embedded::new(database()?, names);
        let (issuer, directory, tls) = shared();
        let postgres = PostgresFrontOptions::embedded(issuer, directory, engine, tls);
        let postgres = PostgresFront::start(postgres)?;
        Ok(Self { tenant, system, shop, service, secret, azure_sql, postgres })
    }

    /// Signs the tokens.
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.tenant.issuer
    }

    /// The principals that the databases grant access.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.tenant.directory
    }

    /// The system-assigned identity, `shop-app`.
    pub fn system_assigned(&self) -> &Principal {
        &self.system
    }

    /// The user-assigned identity, `shop-identity`.
    pub fn user_assigned(&self) -> &Principal {
        &self.shop
    }

    /// The service principal, `shop-service`.
    pub fn service_principal(&self) -> &Principal {
        &self.service
    }

    /// The identity endpoint.
    pub fn identity(&self) -> &IdentityEndpoint {
        &self.tenant.identity
    }

    /// Entra's token endpoint.
    pub fn entra(&self) -> &EntraEndpoint {
        &self.tenant.entra
    }

    /// Azure SQL.
    pub fn azure_sql(&self) -> &AzureSqlServer {
        &self.azure_sql
    }

    /// Azure Database for PostgreSQL.
    pub fn postgres(&self) -> &PostgresFront {
        &self.postgres
    }

    /// A file with the certificate of the authority that issued all certificates.
    pub fn ca_path(&self) -> PathBuf {
        self.authority().path()
    }

    /// The certificate authority, which can issue further certificates.
    pub fn authority(&self) -> &Authority {
        &self.tenant.authority
    }

    /// The variables that App Service sets for an application, and the client ID of
    /// the user-assigned identity for Azure's SDKs.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let mut env = self.identity().app_service_env().to_vec();
        env.push(("AZURE_CLIENT_ID", self.shop.client_id.clone()));
        env
    }

    /// The variables with which Azure's SDKs log in as the service principal, with its client
    /// secret. The SDKs must also trust [`ca_path`](Self::ca_path).
    pub fn service_principal_env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AZURE_AUTHORITY_HOST", self.entra().authority_host()),
            ("AZURE_TENANT_ID", TENANT_ID.to_owned()),
            ("AZURE_CLIENT_ID", self.service.client_id.clone()),
            ("AZURE_CLIENT_SECRET", self.secret.clone()),
        ]
    }

    /// An ADO.NET connection string as entra-pool reads it: logs in to the
    /// database `orders` with an identity that is given separately.
    pub fn azure_sql_string(&self) -> String {
        self.tenant.azure_sql_string(self.azure_sql.addr().port(), "orders")
    }

    /// A URL as entra-pool reads it: logs in as `shop-identity`, to the
    /// database `restaurant`, with an identity that is given separately or by
    /// the environment.
    pub fn postgres_url(&self) -> String {
        self.tenant.postgres_url(self.postgres.addr().port(), "restaurant", &self.shop.name)
    }
}
