//! Client assertions: JWTs that prove who asks. "Microsoft identity platform
//! application authentication certificate credentials"; "Configure an app to trust an
//! external identity provider".

use std::{sync::PoisonError, time::SystemTime};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, dangerous, decode_header};
use serde::Deserialize;
use serde_json::Value;
use webpki::{EndEntityCert, aws_lc_rs as algorithms};

use super::{
    Application, State,
    error::{Refusal, invalid_client},
};
use crate::jwt::seconds;

/// Clocks may differ by this many seconds.
const LEEWAY: f64 = 300.0;

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    /// Times may have fractions (RFC 7519, NumericDate): MSAL for Python sends some.
    exp: f64,
    #[serde(default)]
    nbf: f64,
    jti: Option<String>,
}

impl Claims {
    fn is_for(&self, matches: impl Fn(&str) -> bool) -> bool {
        match &self.aud {
            Value::Array(all) => all.iter().any(|one| one.as_str().is_some_and(&matches)),
            one => one.as_str().is_some_and(matches),
        }
    }
}

/// Whether this assertion is one of the application's.
pub(super) fn check(
    state: &State,
    application: &Application,
    assertion: &str,
    host: &str,
) -> Result<(), Refusal> {
    let malformed = |reason: String| {
        invalid_client(50_027, format!("JWT token is invalid or malformed. [Reason - {reason}]"))
    };
    let header = decode_header(assertion).map_err(|error| malformed(error.to_string()))?;
    let claims: Claims =
        dangerous::insecure_decode(assertion).map_err(|error| malformed(error.to_string()))?.claims;
    if claims.iss.eq_ignore_ascii_case(&application.principal.client_id) {
        if claims.jti.as_deref().is_none_or(str::is_empty) {
            return Err(malformed("the claim 'jti' is missing".to_owned()));
        }
        by_certificate(state, application, assertion, &header, &claims, host)?;
    } else {
        by_federation(state, application, assertion, &header, &claims)?;
    }
    let now = seconds(SystemTime::now()) as f64;
    if claims.exp + LEEWAY <= now || claims.nbf > now + LEEWAY {
        let text = format!(
            "Client assertion is not within its valid time range. Current time: {now}, valid from \
             {} to {}. Check the clock of the machine that signs it.",
            claims.nbf, claims.exp
        );
        return Err(invalid_client(700_024, text));
    }
    Ok(())
}

fn by_certificate(
    state: &State,
    application: &Application,
    assertion: &str,
    header: &Header,
    claims: &Claims,
    host: &str,
) -> Result<(), Refusal> {
    // Rust's SDK writes plain Base64, which Entra takes as well as RFC 7515's.
    let url_safe = |text: &String| text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let named = [&header.x5t, &header.x5t_s256].map(|text| text.as_ref().map(url_safe));
    let certificate = application.certificates.iter().find(|certificate| {
        let mut pairs = certificate.thumbprints.iter().zip(&named);
        pairs.any(|(own, named)| named.as_ref() == Some(own))
    });
    let Some(certificate) = certificate else {
        let thumbprint = named.iter().flatten().next().map_or("", String::as_str);
        return Err(invalid_client(
            700_027,
            format!(
                "The certificate with identifier used to sign the client assertion is not \
                 registered on application. [Reason - The key was not found., Thumbprint of key \
                 used by client: '{thumbprint}']"
            ),
        ));
    };
    let algorithm = match header.alg {
        Algorithm::RS256 => Some(algorithms::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::PS256 => Some(algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY),
        _ => None,
    };
    let is_signed = || {
        let (message, signature) = assertion.rsplit_once('.')?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        let certificate = EndEntityCert::try_from(&certificate.der).ok()?;
        certificate.verify_signature(algorithm?, message.as_bytes(), &signature).ok()
    };
    is_signed().ok_or_else(invalid_signature)?;
    if !claims.sub.eq_ignore_ascii_case(&application.principal.client_id) {
        let text = "Client assertion application identifier doesn't match 'client_id' parameter.";
        return Err(invalid_client(700_021, text));
    }
    let is_ours = |audience: &str| {
        let path = ["login.microsoftonline.com", host]
            .iter()
            .find_map(|host| audience.strip_prefix("https://")?.strip_prefix(host))?;
        let (tenant, path) = path.strip_prefix('/')?.split_once('/').unwrap_or((&path[1..], ""));
        let path = matches!(path, "" | "v2.0" | "oauth2/token" | "oauth2/v2.0/token");
        (path && state.tenant(tenant).is_ok()).then_some(())
    };
    if !claims.is_for(|audience| is_ours(audience).is_some()) {
        let text = "Client assertion audience claim does not match Realm issuer.";
        return Err(invalid_client(700_023, text));
    }
    Ok(())
}

fn by_federation(
    state: &State,
    application: &Application,
    assertion: &str,
    header: &Header,
    claims: &Claims,
) -> Result<(), Refusal> {
    let none = |code, what: &str, value: &str| {
        let text = format!(
            "No matching federated identity record found for presented assertion {what} \
             '{value}'. Check your federated identity credential Subject, Audience and Issuer \
             against the presented assertion."
        );
        Err(invalid_client(code, text))
    };
    let mut candidates: Vec<_> = application.federated.iter().collect();
    candidates.retain(|it| it.issuer == claims.iss);
    if candidates.is_empty() {
        return none(700_211, "issuer", &claims.iss);
    }
    candidates.retain(|it| it.subject == claims.sub);
    if candidates.is_empty() {
        return none(700_213, "subject", &claims.sub);
    }
    if !candidates.iter().any(|it| claims.is_for(|audience| audience == it.audience)) {
        return none(700_212, "audience", &claims.aud.to_string());
    }
    let issuers = state.issuers.read().unwrap_or_else(PoisonError::into_inner);
    let Some(keys) = issuers.get(&claims.iss) else {
        let text = format!(
            "Request to External OIDC endpoint failed. [The emulator does not connect to it: give it the \
             keys of '{}']",
            claims.iss
        );
        return Err(invalid_client(50_166, text));
    };
    let key = match &header.kid {
        Some(id) => keys.find(id),
        None => keys.keys.first().filter(|_| keys.keys.len() == 1),
    };
    // Never a shared secret, whatever the assertion says.
    let known = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256].contains(&header.alg);
    let key = key.filter(|_| known).and_then(|key| DecodingKey::from_jwk(key).ok());
    let mut validation = Validation::new(header.alg);
    // The rest is checked here, with Entra's numbers.
    validation.validate_aud = false;
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    key.and_then(|key| jsonwebtoken::decode::<Value>(assertion, &key, &validation).ok())
        .map(drop)
        .ok_or_else(invalid_signature)
}

fn invalid_signature() -> Refusal {
    let reason = "[Reason - The key was not found, or the signature does not match.]";
    invalid_client(700_027, format!("Client assertion contains an invalid signature. {reason}"))
}
