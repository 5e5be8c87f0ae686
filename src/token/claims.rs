use std::time::{Duration, SystemTime};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

/// The claims of an access token: the payload of a JWT.
///
/// They are used in messages and for the user name on PostgreSQL. They are not verified: the
/// database server checks the signature. A claim that is absent or has an unexpected type is
/// `None`.
///
/// See [access token claims reference](https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claims {
    /// `aud`: the resource that the token is for.
    pub audience: Option<String>,
    /// `appid`, or `azp` in tokens of version 2: the client ID.
    pub application_id: Option<String>,
    /// `oid`: the object ID (principal ID).
    pub object_id: Option<String>,
    /// `tid`: the tenant.
    pub tenant_id: Option<String>,
    /// `upn`, otherwise `preferred_username`, otherwise `unique_name`: a person's name.
    pub user_name: Option<String>,
    /// `xms_mirid`: the Azure resource ID of a managed identity, or of the
    /// resource that a system-assigned identity belongs to.
    pub managed_identity_resource_id: Option<String>,
    /// `exp`: the expiry.
    pub expires_on: Option<SystemTime>,
}

impl Claims {
    /// Reads the payload of a JWT; `None` if the token is not a JWT.
    pub(super) fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        // RFC 7515 does not allow padding; some issuers send it.
        let json = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        let payload: Map<String, Value> = serde_json::from_slice(&json).ok()?;
        // A claim of an unexpected type must not hide the other claims.
        let text = |claim: &str| {
            payload.get(claim)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let seconds = |claim: &str| {
            let number = payload.get(claim)?;
            number.as_u64().or_else(|| whole(number.as_f64()?))
        };
        Some(Self {
            audience: text("aud"),
            application_id: text("appid").or_else(|| text("azp")),
            object_id: text("oid"),
            tenant_id: text("tid"),
            user_name: text("upn")
                .or_else(|| text("preferred_username"))
                .or_else(|| text("unique_name")),
            managed_identity_resource_id: text("xms_mirid"),
            expires_on: seconds("exp")
                .and_then(|exp| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp))),
        })
    }

    /// The name of a user-assigned managed identity: the last segment of
    /// `…/userAssignedIdentities/NAME` in [`managed_identity_resource_id`].
    ///
    /// A system-assigned identity's resource ID ends in the name of its virtual machine or site,
    /// which may differ from the name of the identity.
    ///
    /// [`managed_identity_resource_id`]: Self::managed_identity_resource_id
    pub(crate) fn managed_identity_name(&self) -> Option<&str> {
        let (path, name) = self.managed_identity_resource_id.as_deref()?.rsplit_once('/')?;
        let (_, kind) = path.rsplit_once('/')?;
        (kind.eq_ignore_ascii_case("userAssignedIdentities") && !name.is_empty()).then_some(name)
    }

    /// Returns the name of the user-assigned managed identity, otherwise that of the person.
    #[must_use]
    pub fn principal_name(&self) -> Option<&str> {
        self.managed_identity_name().or(self.user_name.as_deref())
    }
}

/// Removes the fraction that a `NumericDate` may have (RFC 7519 section 2).
fn whole(seconds: f64) -> Option<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (seconds.is_finite() && (0.0..1e15).contains(&seconds)).then_some(seconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn claims_are_read_from_the_payload() {
        let claims = Claims::read(&jwt(
            r#"{"aud":"https://database.windows.net/","appid":"a","oid":"o","tid":"t","exp":1767225600,
               "xms_mirid":"/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/shop"}"#,
        ))
        .unwrap();
        assert_eq!(claims.audience.as_deref(), Some("https://database.windows.net/"));
        assert_eq!(claims.application_id.as_deref(), Some("a"));
        assert_eq!(claims.object_id.as_deref(), Some("o"));
        assert_eq!(claims.tenant_id.as_deref(), Some("t"));
        assert_eq!(claims.managed_identity_name(), Some("shop"));
        assert_eq!(
            claims.expires_on,
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600))
        );
    }

    #[test]
    fn a_machines_resource_id_does_not_hide_the_users_name() {
        let claims = Claims::read(&jwt(
            r#"{"xms_mirid":"/subscriptions/s/providers/Microsoft.Compute/virtualMachines/vm","upn":"a@b.c"}"#,
        ))
        .unwrap();
        assert_eq!(claims.managed_identity_name(), None);
        assert_eq!(claims.principal_name(), Some("a@b.c"));
    }

    #[test]
    fn a_claim_of_another_type_does_not_hide_the_others() {
        let claims =
            Claims::read(&jwt(r#"{"aud":["a","b"],"oid":"o","upn":7,"exp":7.5}"#)).unwrap();
        assert_eq!((claims.audience, claims.user_name), (None, None));
        assert_eq!(claims.object_id.as_deref(), Some("o"));
        assert_eq!(claims.expires_on, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7)));
    }

    #[test]
    fn garbage_has_no_claims_and_does_not_panic() {
        let garbage = [
            "",
            ".",
            "..",
            "a.b.c",
            "a.!!!.c",
            "opaque",
            "e30.W10.x",
            &jwt("{"),
            &jwt("[1]"),
            &jwt("null"),
        ];
        for token in garbage {
            assert_eq!(Claims::read(token), None, "{token}");
        }
        let far = Claims::read(&jwt(r#"{"exp":18446744073709551615}"#)).unwrap();
        assert_eq!(far.expires_on, None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".*", payload in ".*", bytes: Vec<u8>) {
            let _ = Claims::read(&text);
            let _ = Claims::read(&jwt(&payload));
            let _ = Claims::read(&format!("e30.{}.x", BASE64_URL_SAFE_NO_PAD.encode(bytes)));
            let _ = Claims::read(&jwt(&format!("{{\"exp\":{payload:?},\"aud\":{text:?}}}")));
        }
    }
}
