//! The identities that a connection string can select.

use crate::{
    credential::Member::{
        self, AzureCli, AzureDeveloperCli, AzurePipelines, Environment, ManagedIdentity,
        ServicePrincipal, WorkloadIdentity,
    },
    pasted::{is_one_of, is_same},
};

const PREFIX: &str = "activedirectory";

/// The names after `Active Directory`. Errors show the first name of each identity. `None` is the
/// identity described by the environment: some drivers write `NotSpecified` to select no identity.
const NAMES: &[(Option<Member>, &[&str])] = &[
    (None, &["Default", "NotSpecified"]),
    (Some(ManagedIdentity), &["Managed Identity", "MSI", "MSI VM", "MSI App Service"]),
    (Some(WorkloadIdentity), &["Workload Identity"]),
    (Some(ServicePrincipal), SERVICE_PRINCIPAL),
    (Some(Environment), &["Environment"]),
    (Some(AzureCli), &["AzCli", "Azure CLI"]),
    (Some(AzureDeveloperCli), &["Azure Developer CLI"]),
    (Some(AzurePipelines), &["Azure Pipelines"]),
];

/// The third name is from tedious, the last name from Service Connector's documentation for Python.
const SERVICE_PRINCIPAL: &[&str] =
    &["Service Principal", "Application", "Service Principal Secret", "Server Principal"];

const PERSON: &str = "is an interactive login, which a service cannot use: on a laptop run \
                      `az login` and use Active Directory Default";
const PASSWORD: &str = "is a login with a password: grant the machine's identity access \
                        (CREATE USER … FROM EXTERNAL PROVIDER) and use Active Directory Default";

const ONE_TOKEN: &str = "is one token, which would expire: use Active Directory Service Principal";

const REFUSED: &[(&str, &str)] = &[
    ("Interactive", PERSON),
    ("Integrated", PERSON),
    ("Password", PERSON),
    ("Device Code Flow", PERSON),
    ("Device Code", PERSON),
    ("Sql Password", PASSWORD),
    ("Windows", PASSWORD),
    ("NTLM", PASSWORD),
    (
        "Service Principal Certificate",
        "is a login with a certificate: pass an Identity of \
         credential::Application::client_certificate to pool_with",
    ),
    ("Service Principal Access Token", ONE_TOKEN),
    ("Access Token", ONE_TOKEN),
    (
        "Client Assertion",
        "needs a source of assertions: pass an Identity of \
         credential::Application::client_assertion to pool_with",
    ),
    (
        "On Behalf Of",
        "logs in as each user, but a pool has one identity: implement token::TokenCredential and \
         keep a pool for each user",
    ),
];

/// Parses any driver's spelling: `Active Directory MSI`, `ActiveDirectoryMSI`,
/// `azure-active-directory-msi`, `MSI`.
pub(super) fn read(value: &str) -> Result<Option<Member>, String> {
    // Text from a web page may contain typographic spaces and quotes.
    let letters = value.chars().filter(|c| c.is_alphanumeric());
    let value = letters.collect::<String>().to_ascii_lowercase();
    let bare = value.strip_prefix("azure").filter(|it| it.starts_with(PREFIX)).unwrap_or(&value);
    let bare = bare.strip_prefix(PREFIX).unwrap_or(bare);
    if let Some((this, _)) = NAMES.iter().find(|(_, names)| is_one_of(names, bare)) {
        return Ok(*this);
    }
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| is_same(name, bare)) {
        return Err((*why).to_owned());
    }
    let known: Vec<_> =
        NAMES.iter().map(|(_, names)| format!("Active Directory {}", names[0])).collect();
    Err(format!("must be one of {}", known.join(", ")))
}

/// Whether a client ID can select an identity of this kind.
pub(super) fn accepts_client_id(authentication: Member) -> bool {
    !matches!(authentication, Environment | AzureCli | AzureDeveloperCli | AzurePipelines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drivers_spelling_of_an_identity_is_parsed() {
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
            ("azure-active-directory-default", None),
            ("azure-active-directory-msi-vm", Some(ManagedIdentity)),
            ("azure-active-directory-msi-app-service", Some(ManagedIdentity)),
            ("azure-active-directory-service-principal-secret", Some(ServicePrincipal)),
            ("ActiveDirectoryServerPrincipal", Some(ServicePrincipal)),
            ("Azure CLI", Some(AzureCli)),
            ("Active\u{a0}Directory\u{a0}Default", None),
            ("“Active Directory MSI”", Some(ManagedIdentity)),
        ] {
            assert_eq!(read(value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn logins_that_a_service_cannot_use_are_refused_with_an_alternative() {
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
            ("azure-active-directory-password", "az login"),
            ("azure-active-directory-access-token", "would expire"),
            ("ntlm", "FROM EXTERNAL PROVIDER"),
            ("hunter2", "must be one of"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(advice) && !error.contains("hunter2"), "{value}: {error}");
        }
    }
}
