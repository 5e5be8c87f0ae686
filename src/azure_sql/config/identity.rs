use std::{sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{ConfigError, authentication::accepts_client_id, keywords::Setting, read::Written};
use crate::{
    Cloud,
    credential::{self, DefaultCredential, ManagedIdentity, Member, UserAssignedId},
    token::TokenCredential,
};

/// The identity that a connection string selects.
#[derive(Default)]
pub(super) struct NamedIdentity {
    /// `None` is the identity described by the environment.
    pub(super) authentication: Option<Member>,
    pub(super) client_id: Option<String>,
    /// The environment variable that set `client_id`, if its value is an object ID instead.
    pub(super) object_id_of: Option<&'static str>,
    pub(super) tenant: Option<String>,
    pub(super) client_secret: Option<Zeroizing<String>>,
    pub(super) cli_timeout: Option<Duration>,
}

impl NamedIdentity {
    /// Checks combinations of the parts. Splits a value that contains both the client ID and the
    /// tenant.
    pub(super) fn check(&mut self, written: &Written) -> Result<(), ConfigError> {
        let Self { authentication, client_id, tenant, client_secret, .. } = self;
        if *authentication == Some(Member::ServicePrincipal) {
            // go-mssqldb's `CLIENT_ID@TENANT`.
            let Some((id, of)) = client_id.as_deref().and_then(|id| id.split_once('@')) else {
                return Ok(());
            };
            if tenant.is_some() {
                return Err(written.conflict(Setting::UserId, Setting::Tenant));
            }
            if id.is_empty() || of.is_empty() {
                let problem = "must be CLIENT_ID or CLIENT_ID@TENANT";
                return Err(written.refuse(Setting::UserId, problem));
            }
            (*client_id, *tenant) = (Some(id.to_owned()), Some(of.to_owned()));
            return Ok(());
        }
        if client_secret.is_some() {
            return Err(written.refuse(
                Setting::Password,
                "is not accepted, because the login uses a token of the machine's identity: remove \
                 it (and User Id, unless it is the client ID of a managed identity), or, if it is \
                 an application's secret, add Authentication=Active Directory Service Principal",
            ));
        }
        if tenant.is_some() {
            return Err(written.refuse(
                Setting::Tenant,
                "is for Authentication=Active Directory Service Principal only",
            ));
        }
        if client_id.is_some() && authentication.is_some_and(|it| !accepts_client_id(it)) {
            return Err(written.refuse(
                Setting::UserId,
                "has no effect with this Authentication, which selects the identity: remove it",
            ));
        }
        Ok(())
    }

    /// Returns an error if the string selects another identity than the environment's.
    pub(super) fn refuse_other(&self) -> Result<(), ConfigError> {
        let keyword = match (self.authentication, &self.client_id) {
            (Some(_), _) => "Authentication",
            (None, Some(_)) => "User Id",
            (None, None) => return Ok(()),
        };
        Err(ConfigError::ConflictingIdentity { keyword })
    }

    pub(super) fn credential(
        self,
        cloud: Option<Cloud>,
    ) -> Result<Arc<dyn TokenCredential>, credential::ConfigError> {
        let Self { authentication, client_id, object_id_of, tenant, client_secret, cli_timeout } =
            self;
        let user_assigned = client_id.clone().map(|id| match object_id_of {
            Some(variable) => (UserAssignedId::ObjectId(id), variable),
            None => (UserAssignedId::ClientId(id), "User Id"),
        });
        let default = DefaultCredential::new().cloud(cloud).cli_timeout(cli_timeout);
        let chosen = match user_assigned.clone() {
            Some((id, by)) => default.clone().user_assigned(id, by),
            None => default.clone(),
        };
        match authentication {
            None => chosen.build(),
            Some(Member::ManagedIdentity) => Ok(Arc::new(match user_assigned {
                Some((id, by)) => ManagedIdentity::user_assigned(id).id_setting(by).build()?,
                None => ManagedIdentity::system_assigned().build()?,
            })),
            Some(Member::ServicePrincipal) => {
                let secret = client_secret.as_ref().map(|secret| secret.as_str());
                default.service_principal([
                    ("Entra Tenant", tenant.as_deref()),
                    ("User Id", client_id.as_deref()),
                    ("Password", secret),
                ])
            }
            Some(other) => chosen.only(other),
        }
    }
}
