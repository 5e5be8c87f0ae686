//! Client assertions: JWTs that prove which application sends a request. "Microsoft
//! identity platform application authentication certificate credentials"; "Configure an app
//! to trust an external identity provider".

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, dangerous, decode, decode_header, errors::ErrorKind,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Application, State,
    application::WORKLOAD_ISSUER,
    error::{Refusal, invalid_client},
};

/// Clocks may differ by this many seconds.
const LEEWAY: u64 = 300;

/// Never a shared secret, whatever the assertion's header names.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256];

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
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

/// Accepts an assertion that one of the application's credentials allows.
pub(super) fn check(
    state: &State,
    application: &Application,
    assertion: &str,
    host: &str,
) -> Result<(), Refusal> {
    let malformed = |reason: &dyn std::fmt::Display| {
        invalid_client(50_027, format!("JWT token is invalid or malformed. [Reason - {reason}]"))
    };
    let header = decode_header(assertion).map_err(|error| malformed(&error))?;
    let claims: Claims =
        dangerous::insecure_decode(assertion).map_err(|error| malformed(&error))?.claims;
    let by_certificate = claims.iss.eq_ignore_ascii_case(&application.principal.client_id);
    let key = if by_certificate {
        if claims.jti.as_deref().is_none_or(str::is_empty) {
            return Err(malformed(&"the claim 'jti' is missing"));
        }
        Some(certificate_key(application, &header)?)
    } else {
        federated_key(state, application, &header, &claims)?
    };
    let mut validation = Validation::new(header.alg);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    // Compared with Entra's own rules.
    validation.validate_aud = false;
    let invalid_signature = || {
        let reason = "[Reason - The key was not found, or the signature does not match.]";
        let text = format!("Client assertion contains an invalid signature. {reason}");
        invalid_client(700_027, text)
    };
    let key = key.filter(|_| ALGORITHMS.contains(&header.alg)).ok_or_else(invalid_signature)?;
    decode::<Value>(assertion, &key, &validation).map_err(|error| match error.kind() {
        ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature => {
            let text = "Client assertion is not within its valid time range. Check the clock of \
                        the machine that signs it.";
            invalid_client(700_024, text)
        }
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => malformed(&error),
        _ => invalid_signature(),
    })?;
    if by_certificate { for_this_endpoint(state, application, &claims, host) } else { Ok(()) }
}

fn certificate_key(application: &Application, header: &Header) -> Result<DecodingKey, Refusal> {
    // Rust's SDK writes plain Base64, which Entra also accepts, in addition to RFC 7515's.
    let url_safe = |text: &String| text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let named = [&header.x5t, &header.x5t_s256].map(|text| text.as_ref().map(url_safe));
    let certificate = application.certificates.iter().find(|certificate| {
        let mut pairs = certificate.thumbprints.iter().zip(&named);
        pairs.any(|(own, named)| named.as_ref() == Some(own))
    });
    certificate.map(|certificate| certificate.key.clone()).ok_or_else(|| {
        let thumbprint = named.iter().flatten().next().map_or("", String::as_str);
        let text = format!(
            "The certificate with identifier used to sign the client assertion is not registered \
             on application. [Reason - The key was not found., Thumbprint of key used by client: \
             '{thumbprint}']"
        );
        invalid_client(700_027, text)
    })
}

/// The issuer's key that the header names, if there is one.
fn federated_key(
    state: &State,
    application: &Application,
    header: &Header,
    claims: &Claims,
) -> Result<Option<DecodingKey>, Refusal> {
    let none = |code, what: &str, value: &str| {
        let text = format!(
            "No matching federated identity record found for presented assertion {what} \
             '{value}'. Check your federated identity credential Subject, Audience and Issuer \
             against the presented assertion."
        );
        invalid_client(code, text)
    };
    let mut candidates: Vec<_> = application.federated.iter().collect();
    candidates.retain(|it| it.issuer == claims.iss);
    if candidates.is_empty() {
        return Err(none(700_211, "issuer", &claims.iss));
    }
    candidates.retain(|it| it.subject == claims.sub);
    if candidates.is_empty() {
        return Err(none(700_213, "subject", &claims.sub));
    }
    candidates.retain(|it| claims.is_for(|audience| audience == it.audience));
    let Some(credential) = candidates.first() else {
        return Err(none(700_212, "audience", &claims.aud.to_string()));
    };
    let own = (claims.iss == WORKLOAD_ISSUER).then(|| state.workload_key.public());
    let keys = own.as_ref().unwrap_or(&credential.keys);
    let key = match &header.kid {
        Some(id) => keys.find(id),
        None => keys.keys.first().filter(|_| keys.keys.len() == 1),
    };
    Ok(key.and_then(|key| DecodingKey::from_jwk(key).ok()))
}

/// The application signs assertions about itself, for one of this tenant's URLs.
fn for_this_endpoint(
    state: &State,
    application: &Application,
    claims: &Claims,
    host: &str,
) -> Result<(), Refusal> {
    if !claims.sub.eq_ignore_ascii_case(&application.principal.client_id) {
        let text = "Client assertion application identifier doesn't match 'client_id' parameter.";
        return Err(invalid_client(700_021, text));
    }
    let is_ours = |audience: &str| {
        let path = ["login.microsoftonline.com", host]
            .iter()
            .find_map(|host| audience.strip_prefix("https://")?.strip_prefix(host))?;
        let path = path.strip_prefix('/')?;
        let (tenant, path) = path.split_once('/').unwrap_or((path, ""));
        let path = matches!(path, "" | "v2.0" | "oauth2/token" | "oauth2/v2.0/token");
        (path && state.tenant(tenant).is_ok()).then_some(())
    };
    if !claims.is_for(|audience| is_ours(audience).is_some()) {
        let text = "Client assertion audience claim does not match Realm issuer.";
        return Err(invalid_client(700_023, text));
    }
    Ok(())
}
