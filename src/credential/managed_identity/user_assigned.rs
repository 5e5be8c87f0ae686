use std::fmt;

use crate::credential::ConfigError;

/// The ID of a user-assigned identity. A machine or app can have several of these identities.
///
/// Not every host supports every kind of ID. If the host would ignore the ID and return the token
/// of another identity, [`build`](super::ManagedIdentityBuilder::build) returns an error.
///
/// ```
/// use entra_pool::credential::{ManagedIdentity, UserAssignedId};
///
/// let id = UserAssignedId::ResourceId(
///     "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/shop/providers\
///      /Microsoft.ManagedIdentity/userAssignedIdentities/shop-identity"
///         .into(),
/// );
/// let identity = ManagedIdentity::user_assigned(id).build()?;
/// # Ok::<(), entra_pool::credential::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UserAssignedId {
    /// The client (application) ID of the identity: a GUID.
    ClientId(String),
    /// The object (principal) ID of the identity: a GUID.
    ObjectId(String),
    /// The resource ID of the identity:
    /// `/subscriptions/…/userAssignedIdentities/NAME`.
    ResourceId(String),
}

impl UserAssignedId {
    /// Returns the name of this kind of ID.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::ClientId(_) => "client ID",
            Self::ObjectId(_) => "object ID",
            Self::ResourceId(_) => "resource ID",
        }
    }

    pub(super) fn value(&self) -> &str {
        match self {
            Self::ClientId(id) | Self::ObjectId(id) | Self::ResourceId(id) => id,
        }
    }

    /// Checks that the ID is valid. `setting` is the setting that contains it.
    pub(in crate::credential) fn check(&self, setting: &'static str) -> Result<(), ConfigError> {
        let expected = match self {
            Self::ClientId(_) => "a client ID, such as 11111111-2222-3333-4444-555555555555",
            Self::ObjectId(_) => "an object ID, such as 11111111-2222-3333-4444-555555555555",
            Self::ResourceId(_) => {
                "a resource ID, such as /subscriptions/11111111-2222-3333-4444-555555555555/\
                 resourceGroups/GROUP/providers/Microsoft.ManagedIdentity/userAssignedIdentities/\
                 NAME"
            }
        };
        let is_valid = match self {
            Self::ClientId(id) | Self::ObjectId(id) => is_guid(id),
            Self::ResourceId(id) => is_resource_id(id),
        };
        ConfigError::unless(is_valid, setting, expected)
    }
}

impl fmt::Display for UserAssignedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.value())
    }
}

pub(super) fn is_guid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Returns whether the text is a resource ID of a user-assigned identity, in any case.
fn is_resource_id(text: &str) -> bool {
    let is_name = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_.()".contains(c))
    };
    let text = text.to_ascii_lowercase();
    match text.split('/').collect::<Vec<_>>()[..] {
        [
            "",
            "subscriptions",
            subscription,
            "resourcegroups",
            group,
            "providers",
            "microsoft.managedidentity",
            "userassignedidentities",
            identity,
        ] => is_guid(subscription) && is_name(group) && is_name(identity),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "11111111-2222-3333-4444-555555555555";
    const GROUP: &str = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/Läden";

    #[test]
    fn a_valid_id_is_accepted_in_any_case() {
        let identity = "providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop_1";
        for id in [
            UserAssignedId::ClientId(GUID.into()),
            UserAssignedId::ObjectId("AAAAAAAA-bbbb-CCCC-dddd-EEEEEEEEEEEE".into()),
            UserAssignedId::ResourceId(format!("{GROUP}/{identity}")),
            UserAssignedId::ResourceId(format!("{GROUP}/{identity}").to_lowercase()),
        ] {
            id.check("user_assigned").unwrap();
        }
    }

    #[test]
    fn an_invalid_id_is_refused_and_the_error_names_its_setting() {
        let guids = [
            "",
            "shop",
            " 11111111-2222-3333-4444-555555555555",
            "11111111222233334444555555555555",
            "11111111-2222-3333-4444-55555555555g",
            "{11111111-2222-3333-4444-555555555555}",
        ];
        let client_ids = guids.map(|id| UserAssignedId::ClientId(id.into()));
        let object_ids = guids.map(|id| UserAssignedId::ObjectId(id.into()));
        let provider = "providers/Microsoft.ManagedIdentity/userAssignedIdentities";
        let resource_ids = [
            String::new(),
            GUID.to_owned(),
            GROUP.to_owned(),
            format!("{GROUP}/{provider}"),
            format!("{GROUP}/{provider}/"),
            format!("{GROUP}/{provider}/shop/"),
            format!("{GROUP}/{provider}/shop&client_id={GUID}"),
            format!("x{GROUP}/{provider}/shop"),
            format!("{GROUP}/providers/Microsoft.Web/sites/shop"),
            format!("/subscriptions/mine/resourceGroups/shop/{provider}/shop"),
        ];
        let resource_ids = resource_ids.map(UserAssignedId::ResourceId);
        for id in client_ids.into_iter().chain(object_ids).chain(resource_ids) {
            let error = id.check("user_assigned").unwrap_err().to_string();
            let kind = id.kind();
            assert!(
                error.starts_with("user_assigned must be a") && error.contains(kind),
                "{error}"
            );
        }
    }
}
