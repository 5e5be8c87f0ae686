//! Access tokens, signed and verified with a key that exists only in this process, unless it
//! is kept in a folder.
//!
//! They look like Entra's version 1.0 access tokens of a managed identity, except for the
//! signature: ES256 instead of RS256.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    jwk::{Jwk, JwkSet},
};
use parking_lot::RwLock;
use rcgen::KeyPair;
use serde::{Deserialize, Serialize};

use crate::certificates::kept_key;

/// The ID of the emulated tenant.
pub const TENANT_ID: &str = "72f988bf-0000-4000-8000-2d7cd011db47";

/// An identity that tokens are issued to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The display name; of users, the user principal name.
    pub name: String,
    /// `appid`: the client ID.
    pub client_id: String,
    /// `oid`: the object (principal) ID.
    pub object_id: String,
    /// The kind of principal, on which some claims depend.
    pub kind: PrincipalKind,
}

/// The kind of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// `xms_mirid` ends in `…/virtualMachines/NAME` or `…/sites/NAME`.
    SystemAssigned,
    /// `xms_mirid` ends in `…/userAssignedIdentities/NAME`.
    UserAssigned,
    /// An application with its own credentials: no `xms_mirid`.
    ServicePrincipal,
    /// A person, such as the user of the Azure CLI: `upn`, no `xms_mirid`.
    User,
}

impl Principal {
    /// A principal whose IDs are derived from its name.
    pub fn new(name: &str, kind: PrincipalKind) -> Self {
        Self {
            name: name.to_owned(),
            client_id: id_of("client", name),
            object_id: id_of("object", name),
            kind,
        }
    }

    /// The Azure resource ID, which is in `xms_mirid`; `None` for users and service
    /// principals.
    pub fn resource_id(&self) -> Option<String> {
        let provider = match self.kind {
            PrincipalKind::SystemAssigned => "Microsoft.Web/sites",
            PrincipalKind::UserAssigned => "Microsoft.ManagedIdentity/userAssignedIdentities",
            PrincipalKind::ServicePrincipal | PrincipalKind::User => return None,
        };
        Some(format!(
            "/subscriptions/9d2b6c1e-0000-4000-8000-5f0c3a6a9f11/resourcegroups/shop/providers/{provider}/{}",
            self.name
        ))
    }
}

/// An ID that depends only on the kind and the name.
fn id_of(kind: &str, name: &str) -> String {
    let hash = digest(&SHA256, format!("{kind}/{name}").as_bytes());
    let bytes = std::array::from_fn(|index| hash.as_ref()[index]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: String,
    iss: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    appid: String,
    oid: String,
    tid: String,
    idtyp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    upn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xms_mirid: Option<String>,
    /// Real tokens get longer with the number of groups and roles.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    xms_padding: String,
    uti: String,
}

/// A P-256 key for JWTs.
pub(crate) struct SigningKey {
    sign: EncodingKey,
    verify: DecodingKey,
    id: &'static str,
}

impl SigningKey {
    pub(crate) fn generate(id: &'static str) -> Self {
        Self::new(&KeyPair::generate().expect("P-256 keys can be generated"), id)
    }

    fn new(key: &KeyPair, id: &'static str) -> Self {
        let sign = EncodingKey::from_ec_der(key.serialized_der());
        Self { sign, verify: DecodingKey::from_ec_der(key.public_key_raw()), id }
    }

    pub(crate) fn sign(&self, claims: &impl Serialize) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &self.sign).expect("claims are plain JSON")
    }

    /// The public key as a JWKS.
    pub(crate) fn public(&self) -> JwkSet {
        let mut key = Jwk::from_encoding_key(&self.sign, Algorithm::ES256)
            .expect("the key is of this algorithm");
        key.common.key_id = Some(self.id.to_owned());
        key.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
        JwkSet { keys: vec![key] }
    }
}

/// Signs and verifies tokens.
pub struct Issuer {
    key: SigningKey,
    /// Tokens with a fixed outcome, whatever their claims are.
    decided: RwLock<BTreeMap<String, Result<Verified, Refusal>>>,
}

opaque_debug!(Issuer);

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not a JWT of three parts.
    #[error("not a token")]
    Malformed,
    /// Signed with another key.
    #[error("signature is not valid")]
    Signature,
    /// Its `exp` has passed.
    #[error("token is expired")]
    Expired,
    /// Its `nbf` is in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// For another resource.
    #[error("token is for audience {0}")]
    Audience(String),
}

impl Issuer {
    /// An issuer with a new key.
    pub fn new() -> Self {
        Self { key: SigningKey::generate("emulator"), decided: RwLock::default() }
    }

    /// An issuer with the key in `folder/token.key`. If the file is missing, it is created,
    /// readable only by its owner.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written, or is not a P-256 key.
    pub fn kept_in(folder: &Path) -> io::Result<Self> {
        let key = kept_key(&folder.join("token.key"))?;
        Ok(Self { key: SigningKey::new(&key, "emulator"), decided: RwLock::default() })
    }

    /// The public key, as Entra publishes its keys (JWKS).
    pub fn public_keys(&self) -> serde_json::Value {
        serde_json::to_value(self.key.public()).expect("keys are plain JSON")
    }

    /// Accepts this text as a token of `principal` from now on, for any audience and without
    /// expiry.
    pub fn accept(&self, token: &str, principal: &Principal) {
        let verified = Verified {
            name: Some(principal.name.clone()),
            client_id: principal.client_id.clone(),
            object_id: principal.object_id.clone(),
            expires_on: epoch(1 << 35),
        };
        self.decide(token, Ok(verified));
    }

    /// Refuses this token as expired from now on.
    pub fn expire(&self, token: &str) {
        self.decide(token, Err(Refusal::Expired));
    }

    fn decide(&self, token: &str, outcome: Result<Verified, Refusal>) {
        self.decided.write().insert(token.to_owned(), outcome);
    }

    /// Signs a token for `principal`, padded to `length` characters or up to 6 more. Without
    /// padding, a token has about 900 characters.
    ///
    /// Every token is different (`uti`), like the real issuer's.
    pub fn sign(
        &self,
        principal: &Principal,
        audience: &str,
        expires_on: SystemTime,
        length: usize,
    ) -> String {
        let mut claims = Claims {
            aud: audience.to_owned(),
            iss: format!("https://sts.windows.net/{TENANT_ID}/"),
            iat: seconds(SystemTime::now()),
            nbf: seconds(SystemTime::now()),
            exp: seconds(expires_on),
            appid: principal.client_id.clone(),
            oid: principal.object_id.clone(),
            tid: TENANT_ID.to_owned(),
            idtyp: if principal.kind == PrincipalKind::User { "user" } else { "app" }.to_owned(),
            upn: (principal.kind == PrincipalKind::User).then(|| principal.name.clone()),
            xms_mirid: principal.resource_id(),
            xms_padding: String::new(),
            uti: uuid::Uuid::new_v4().simple().to_string(),
        };
        let bare = self.key.sign(&claims);
        if bare.len() >= length {
            return bare;
        }
        // Base64 has four characters for three bytes. The claim's name takes some of them.
        let missing = (length - bare.len()) * 3 / 4;
        claims.xms_padding = "p".repeat(missing.saturating_sub(r#","xms_padding":"""#.len()) + 3);
        self.key.sign(&claims)
    }

    /// Verifies signature, expiry and audience, and returns the owner.
    pub fn verify(&self, token: &str, audience: &str) -> Result<Verified, Refusal> {
        self.verify_at(token, audience, SystemTime::now())
    }

    /// Like [`verify`](Self::verify), at the time `now`.
    pub fn verify_at(
        &self,
        token: &str,
        audience: &str,
        now: SystemTime,
    ) -> Result<Verified, Refusal> {
        if let Some(outcome) = self.decided.read().get(token) {
            return outcome.clone();
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = 0;
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key.verify, &validation)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => Refusal::Signature,
                _ => Refusal::Malformed,
            })?
            .claims;
        if claims.aud.trim_end_matches('/') != audience.trim_end_matches('/') {
            return Err(Refusal::Audience(claims.aud));
        }
        let expires_on = epoch(claims.exp);
        if expires_on <= now {
            return Err(Refusal::Expired);
        }
        if epoch(claims.nbf) > now {
            return Err(Refusal::NotYetValid);
        }
        // Microsoft's client packages derive the role's name from the same claims.
        let identity = claims.xms_mirid.as_deref().and_then(|id| id.rsplit('/').next());
        let name = claims.upn.or_else(|| identity.map(str::to_owned));
        Ok(Verified { name, client_id: claims.appid, object_id: claims.oid, expires_on })
    }
}

impl Default for Issuer {
    fn default() -> Self {
        Self::new()
    }
}

/// The owner of a verified token, and its expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The principal's name, if the token has it: `upn`, or the last segment of
    /// `xms_mirid`.
    pub name: Option<String>,
    /// `appid`.
    pub client_id: String,
    /// `oid`.
    pub object_id: String,
    /// `exp`.
    pub expires_on: SystemTime,
}

/// The principals that a server grants access, by name. In Azure,
/// `CREATE USER … FROM EXTERNAL PROVIDER` and `pgaadauth_create_principal` add them.
#[derive(Debug, Default)]
pub struct Directory(RwLock<BTreeMap<String, Principal>>);

impl Directory {
    /// Grants access to `principal` under its name.
    pub fn add(&self, principal: Principal) {
        self.0.write().insert(principal.name.clone(), principal);
    }

    /// Revokes the access of the principal with this name.
    pub fn remove(&self, name: &str) {
        self.0.write().remove(name);
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> Vec<String> {
        self.0.read().keys().cloned().collect()
    }

    /// Returns the principal with this name.
    pub fn by_name(&self, name: &str) -> Option<Principal> {
        self.0.read().get(name).cloned()
    }

    /// Returns the owner of this token.
    pub fn by_token(&self, token: &Verified) -> Option<Principal> {
        self.0.read().values().find(|p| p.object_id == token.object_id).cloned()
    }
}

/// The time this many seconds after the start of 1970.
pub(crate) fn epoch(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Seconds since the start of 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_requested_length_and_is_verified() {
        let issuer = Issuer::new();
        let shop = Principal::new("shop", PrincipalKind::UserAssigned);
        let later = SystemTime::now() + Duration::from_secs(60);
        for length in [1_500, 2_000, 2_200, 8_000] {
            let token = issuer.sign(&shop, "https://a", later, length);
            assert!(token.len().abs_diff(length) <= 6, "{} for {length}", token.len());
            assert_eq!(issuer.verify(&token, "https://a/").unwrap().object_id, shop.object_id);
        }
        let token = issuer.sign(&shop, "https://a", later, 0);
        assert_eq!(issuer.verify(&token, "https://b"), Err(Refusal::Audience("https://a".into())));
        assert_eq!(Issuer::new().verify(&token, "https://a"), Err(Refusal::Signature));
        let before = SystemTime::now() - Duration::from_secs(60);
        assert_eq!(issuer.verify_at(&token, "https://a", before), Err(Refusal::NotYetValid));
        let verified = issuer.verify(&token, "https://a").unwrap();
        assert_eq!(verified.name.as_deref(), Some("shop"));
        assert_eq!(issuer.verify("x", "https://a"), Err(Refusal::Malformed));
        issuer.accept("x", &shop);
        assert_eq!(issuer.verify("x", "https://a").unwrap().object_id, shop.object_id);
        issuer.expire(&token);
        assert_eq!(issuer.verify(&token, "https://a"), Err(Refusal::Expired));
        let past = issuer.sign(&shop, "https://a", SystemTime::now() - Duration::from_secs(1), 0);
        assert_eq!(issuer.verify(&past, "https://a"), Err(Refusal::Expired));
    }
}
