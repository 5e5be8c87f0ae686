use std::fmt;

use super::keywords::is_same;

/// Which identity a connection string asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Authentication {
    /// `Active Directory Default`: whatever the environment has, see
    /// [`credential::from_env`](crate::credential::from_env).
    Default,
    /// `Active Directory Managed Identity`, `Active Directory MSI`.
    ManagedIdentity,
    /// `Active Directory Workload Identity`.
    WorkloadIdentity,
    /// `Active Directory Service Principal`: an application with a client secret.
    ServicePrincipal,
    /// `ActiveDirectoryEnvironment`: the service principal that the environment
    /// names.
    Environment,
    /// `ActiveDirectoryAzCli`: who is logged in to the Azure CLI.
    AzureCli,
    /// `ActiveDirectoryAzureDeveloperCli`: who is logged in to the Azure
    /// Developer CLI.
    AzureDeveloperCli,
    /// `ActiveDirectoryAzurePipelines`: a service connection, see
    /// `credential::azure_pipelines`.
    AzurePipelines,
}

use Authentication::{
    AzureCli, AzureDeveloperCli, AzurePipelines, Default as FromEnvironment, Environment,
    ManagedIdentity, ServicePrincipal, WorkloadIdentity,
};

/// What stands behind `Active Directory`; the first is what is shown.
const NAMES: &[(Authentication, &[&str])] = &[
    (FromEnvironment, &["Default"]),
    (ManagedIdentity, &["Managed Identity", "MSI"]),
    (WorkloadIdentity, &["Workload Identity"]),
    (ServicePrincipal, &["Service Principal", "Application"]),
    (Environment, &["Environment"]),
    (AzureCli, &["AzCli", "Azure CLI"]),
    (AzureDeveloperCli, &["Azure Developer CLI"]),
    (AzurePipelines, &["Azure Pipelines"]),
];

const PERSON: &str = "asks for a person's login, which a service does not have: on a laptop run \
                      `az login` and use Active Directory Default";
const PASSWORD: &str = "is a login with a password: let the machine's identity in \
                        (CREATE USER … FROM EXTERNAL PROVIDER) and use Active Directory Default";

const REFUSED: &[(&str, &str)] = &[
    ("Interactive", PERSON),
    ("Integrated", PERSON),
    ("Password", PERSON),
    ("Device Code Flow", PERSON),
    ("Device Code", PERSON),
    ("Sql Password", PASSWORD),
    ("Windows", PASSWORD),
    (
        "Service Principal Certificate",
        "is a login with a certificate: pass an Identity of \
         credential::Application::client_certificate to connect_with",
    ),
    (
        "Service Principal Access Token",
        "is one token, which would expire: use Active Directory Service Principal",
    ),
    (
        "Client Assertion",
        "needs who makes the assertion: pass an Identity of \
         credential::Application::client_assertion to connect_with",
    ),
    (
        "On Behalf Of",
        "is a login per user, which a pool cannot have: implement token::TokenCredential and keep \
         a pool for each user",
    ),
];

impl Authentication {
    /// In any driver's spelling; `None` is what drivers write where nothing is
    /// specified.
    pub(super) fn read(value: &str) -> Result<Option<Self>, String> {
        if is_same(value, "NotSpecified") {
            return Ok(None);
        }
        let is = |name: &&str| is_same(value, name) || is_same(value, &behind_prefix(name));
        if let Some((this, _)) = NAMES.iter().find(|(_, names)| names.iter().any(is)) {
            return Ok(Some(*this));
        }
        if let Some((_, why)) = REFUSED.iter().find(|(name, _)| is(name)) {
            return Err((*why).to_owned());
        }
        let known: Vec<_> = NAMES.iter().map(|(this, _)| this.to_string()).collect();
        Err(format!("must be one of {}", known.join(", ")))
    }

    /// Whether a client ID chooses among identities of this kind.
    pub(super) fn takes_client_id(self) -> bool {
        !matches!(self, Environment | AzureCli | AzureDeveloperCli | AzurePipelines)
    }
}

fn behind_prefix(name: &str) -> String {
    format!("Active Directory {name}")
}

impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, names) = NAMES.iter().find(|(this, _)| this == self).unwrap_or(&NAMES[0]);
        f.write_str(&behind_prefix(names[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_in_every_drivers_spelling() {
        for (value, expected) in [
            ("Active Directory Default", Some(FromEnvironment)),
            ("ActiveDirectoryDefault", Some(FromEnvironment)),
            ("active directory managed identity", Some(ManagedIdentity)),
            ("ActiveDirectoryMSI", Some(ManagedIdentity)),
            ("MSI", Some(ManagedIdentity)),
            ("ActiveDirectoryWorkloadIdentity", Some(WorkloadIdentity)),
            ("Active Directory Service Principal", Some(ServicePrincipal)),
            ("ActiveDirectoryApplication", Some(ServicePrincipal)),
            ("ActiveDirectoryEnvironment", Some(Environment)),
            ("ActiveDirectoryAzCli", Some(AzureCli)),
            ("ActiveDirectoryAzureDeveloperCli", Some(AzureDeveloperCli)),
            ("ActiveDirectoryAzurePipelines", Some(AzurePipelines)),
            ("NotSpecified", None),
        ] {
            assert_eq!(Authentication::read(value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for (authentication, _) in NAMES {
            let shown = authentication.to_string();
            assert_eq!(Authentication::read(&shown), Ok(Some(*authentication)), "{shown}");
        }
    }

    #[test]
    fn a_login_that_no_service_has_is_refused_with_what_to_use() {
        for (value, advice) in [
            ("Active Directory Interactive", "az login"),
            ("ActiveDirectoryIntegrated", "az login"),
            ("Active Directory Password", "az login"),
            ("ActiveDirectoryDeviceCodeFlow", "az login"),
            ("ActiveDirectoryDeviceCode", "az login"),
            ("SqlPassword", "FROM EXTERNAL PROVIDER"),
            ("ActiveDirectoryServicePrincipalCertificate", "client_certificate"),
            ("ActiveDirectoryServicePrincipalAccessToken", "would expire"),
            ("ActiveDirectoryClientAssertion", "client_assertion"),
            ("ActiveDirectoryOnBehalfOf", "TokenCredential"),
            ("Active Directory", "must be one of Active Directory Default"),
            ("hunter2", "must be one of"),
        ] {
            let error = Authentication::read(value).unwrap_err();
            assert!(error.contains(advice) && !error.contains("hunter2"), "{value}: {error}");
        }
    }
}
