//! The identities that a connection string can name.

use super::keywords::is_same;
use crate::credential::Member::{
    self, AzureCli, AzureDeveloperCli, AzurePipelines, Environment, ManagedIdentity,
    ServicePrincipal, WorkloadIdentity,
};

/// What stands behind `Active Directory`; the first name is the one that errors show. `None`
/// stands for whatever the environment has. `NotSpecified` is what drivers write where nothing
/// is specified.
const NAMES: &[(Option<Member>, &[&str])] = &[
    (None, &["Default", "NotSpecified"]),
    (Some(ManagedIdentity), &["Managed Identity", "MSI"]),
    (Some(WorkloadIdentity), &["Workload Identity"]),
    (Some(ServicePrincipal), &["Service Principal", "Application"]),
    (Some(Environment), &["Environment"]),
    (Some(AzureCli), &["AzCli", "Azure CLI"]),
    (Some(AzureDeveloperCli), &["Azure Developer CLI"]),
    (Some(AzurePipelines), &["Azure Pipelines"]),
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
         credential::Application::client_certificate to pool_with",
    ),
    (
        "Service Principal Access Token",
        "is one token, which would expire: use Active Directory Service Principal",
    ),
    (
        "Client Assertion",
        "needs who makes the assertion: pass an Identity of \
         credential::Application::client_assertion to pool_with",
    ),
    (
        "On Behalf Of",
        "is a login per user, which a pool cannot have: implement token::TokenCredential and keep \
         a pool for each user",
    ),
];

/// Parses any driver's spelling.
pub(super) fn read(value: &str) -> Result<Option<Member>, String> {
    let is = |name: &&str| is_same(value, name) || is_same(value, &behind_prefix(name));
    if let Some((this, _)) = NAMES.iter().find(|(_, names)| names.iter().any(is)) {
        return Ok(*this);
    }
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| is(name)) {
        return Err((*why).to_owned());
    }
    let known: Vec<_> = NAMES.iter().map(|(_, names)| behind_prefix(names[0])).collect();
    Err(format!("must be one of {}", known.join(", ")))
}

/// Whether a client ID chooses among identities of this kind.
pub(super) fn takes_client_id(authentication: Member) -> bool {
    !matches!(authentication, Environment | AzureCli | AzureDeveloperCli | AzurePipelines)
}

fn behind_prefix(name: &str) -> String {
    format!("Active Directory {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_in_every_drivers_spelling() {
        for (value, expected) in [
            ("Active Directory Default", None),
            ("ActiveDirectoryDefault", None),
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
            assert_eq!(read(value), Ok(expected), "{value}");
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
            let error = read(value).unwrap_err();
            assert!(error.contains(advice) && !error.contains("hunter2"), "{value}: {error}");
        }
    }
}
