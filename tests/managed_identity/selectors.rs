//! Hosts × user-assigned identities: selected by the parameter that the host supports, or rejected
//! before any request.

use entra_pool::credential::{
    DefaultCredential, Environment, ManagedIdentityHost,
    ManagedIdentityHost::{AppService, AzureMl, CloudShell, Imds},
    UserAssignedId,
};
use entra_pool::token::{
    CredentialErrorKind::{Refused, Unavailable},
    Reason, Scope, TokenRequest,
};
use entra_pool_emulator::jwt::{Principal, PrincipalKind};

use crate::world::{HOSTS, World, assert_asked, assert_says};

fn selectors(of: &Principal) -> [UserAssignedId; 3] {
    [
        UserAssignedId::ClientId(of.client_id.clone()),
        UserAssignedId::ObjectId(of.object_id.clone()),
        UserAssignedId::ResourceId(of.resource_id().unwrap()),
    ]
}

/// The host's parameter, or `None` if the host would ignore it.
fn parameter(host: ManagedIdentityHost, id: &UserAssignedId) -> Option<&'static str> {
    use UserAssignedId::{ClientId, ObjectId, ResourceId};
    match (host, id) {
        (AppService | Imds, ClientId(_)) => Some("client_id"),
        (AppService, ObjectId(_)) => Some("principal_id"),
        (AppService, ResourceId(_)) => Some("mi_res_id"),
        (Imds, ObjectId(_)) => Some("object_id"),
        (Imds, ResourceId(_)) => Some("msi_res_id"),
        (AzureMl, ClientId(_)) => Some("clientid"),
        _ => None,
    }
}

fn value(id: &UserAssignedId) -> &str {
    match id {
        UserAssignedId::ClientId(id)
        | UserAssignedId::ObjectId(id)
        | UserAssignedId::ResourceId(id) => id,
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn each_host_is_asked_for_the_selected_identity() {
    let mut world = World::new();
    let [mut selected, mut refused] = [0, 0];
    for host in HOSTS {
        let identity = world.builder(host, None).build().unwrap();
        assert_eq!(identity.host(), host);
        let outcome = world.ask(&identity, &[]).await;
        let token = outcome.result.unwrap();
        assert_eq!(world.owner(&token), world.own_identity(host), "{host}");
        let verified = world.issuer.verify(token.secret(), crate::world::RESOURCE).unwrap();
        assert_eq!(token.expires_on(), verified.expires_on, "{host}");
        assert_asked(host, &outcome.requests, None);

        for id in selectors(&world.user) {
            let asked = world.endpoint.requests();
            let built = world.builder(host, Some(&id)).build();
            let Some(parameter) = parameter(host, &id) else {
                let error = built.unwrap_err();
                let (text, kind) = (error.to_string(), id.to_string());
                let kind = kind.strip_suffix(value(&id)).unwrap();
                for word in ["user_assigned", &host.to_string(), kind.trim_end(), "ignore"] {
                    assert!(text.contains(word), "{word:?} is not in {text:?}");
                }
                assert_eq!(world.endpoint.requests(), asked, "{host} was asked");
                refused += 1;
                continue;
            };
            let outcome = world.ask(&built.unwrap(), &[]).await;
            assert_eq!(world.owner(&outcome.result.unwrap()), world.user.object_id, "{host} {id}");
            assert_eq!(outcome.requests.len(), 1);
            assert_asked(host, &outcome.requests, Some((parameter, value(&id))));
            selected += 1;
        }
    }
    assert_eq!((selected, refused), (7, 11));
    world.finish(13);
}

#[tokio::test]
async fn the_error_for_an_identity_that_is_not_assigned_names_it() {
    let mut world = World::new();
    let unassigned = Principal::new("nobody", PrincipalKind::UserAssigned);
    for (host, place) in
        [(AppService, "this app"), (AzureMl, "this compute"), (Imds, "this machine")]
    {
        for id in selectors(&unassigned) {
            let Some(parameter) = parameter(host, &id) else { continue };
            let identity = world.builder(host, Some(&id)).build().unwrap();
            let outcome = world.ask(&identity, &[]).await;
            let not_assigned = format!("identity {id} is not assigned to {place}");
            let what = format!("{host} {id}");
            assert_says(&what, &outcome.result.unwrap_err(), Refused, &[&not_assigned]);
            assert_eq!(outcome.requests.len(), 1, "a 400 is final");
            assert_asked(host, &outcome.requests, Some((parameter, value(&id))));
        }
    }
    world.endpoint.set_system_assigned(None);
    world.endpoint.unassign("shop-identity");
    for host in HOSTS {
        let (kind, words) = match host {
            AppService | AzureMl => (Refused, ["no system-assigned identity", "AZURE_CLIENT_ID"]),
            Imds => (Unavailable, ["no system-assigned identity", "AZURE_CLIENT_ID"]),
            ManagedIdentityHost::ServiceFabric => {
                (Refused, ["no managed identity", "cluster's configuration"])
            }
            ManagedIdentityHost::AzureArc => (Refused, ["not connected", "azcmagent show"]),
            // Cloud Shell always has a user.
            _ => continue,
        };
        let identity = world.builder(host, None).build().unwrap();
        let outcome = world.ask(&identity, &[]).await;
        assert_says(&host.to_string(), &outcome.result.unwrap_err(), kind, &words);
        assert_asked(host, &outcome.requests, None);
    }
    world.finish(12);
}

#[tokio::test]
async fn azure_ml_is_sent_the_default_identity_of_the_compute() {
    let mut world = World::new();
    world.endpoint.set_system_assigned(None);
    let own = world.user.clone();
    let other = Principal::new("other", PrincipalKind::UserAssigned);
    world.endpoint.assign(other.clone());
    let mut variables = world.variables(AzureMl);
    variables.push(("DEFAULT_IDENTITY_CLIENT_ID", own.client_id.clone()));
    let other_id = UserAssignedId::ClientId(other.client_id.clone());
    for (id, expected) in [(None, &own), (Some(&other_id), &other)] {
        let identity = world.builder_with(variables.clone(), id).build().unwrap();
        let outcome = world.ask(&identity, &[]).await;
        assert_eq!(world.owner(&outcome.result.unwrap()), expected.object_id);
        assert_asked(AzureMl, &outcome.requests, Some(("clientid", &expected.client_id)));
    }
    world.finish(2);
}

#[tokio::test]
async fn the_environments_client_id_is_rejected_if_the_host_would_ignore_it() {
    let world = World::new();
    let request = || TokenRequest::new(Scope::AZURE_SQL, Reason::Missing);
    for host in HOSTS {
        for selection in ["prod", "ManagedIdentityCredential"] {
            let mut variables = world.variables(host);
            variables.push(("AZURE_TOKEN_CREDENTIALS", selection.to_owned()));
            // Without the variable, the host's own identity is selected. With the Azure Arc agent,
            // the directory would be that of this machine, which has no keys.
            if host != ManagedIdentityHost::AzureArc {
                let environment = Environment::from_pairs(variables.clone());
                let credential = DefaultCredential::new().environment(environment).build().unwrap();
                let token = credential.get_token(request()).await.unwrap();
                assert_eq!(world.owner(&token), world.own_identity(host), "{host}");
            }
            variables.push(("AZURE_CLIENT_ID", world.user.client_id.clone()));
            let built =
                DefaultCredential::new().environment(Environment::from_pairs(variables)).build();
            let id = UserAssignedId::ClientId(world.user.client_id.clone());
            if parameter(host, &id).is_some() {
                let token = built.unwrap().get_token(request()).await.unwrap();
                assert_eq!(world.owner(&token), world.user.object_id, "{host}");
            } else {
                let error = built.unwrap_err().to_string();
                assert!(
                    error.starts_with("AZURE_CLIENT_ID selects an identity by its client ID"),
                    "{error}"
                );
                assert!(error.contains(&host.to_string()), "{error}");
            }
        }
    }
    assert_eq!(world.own_identity(CloudShell), world.endpoint.cloud_shell_user().object_id);
    world.finish(0);
}
