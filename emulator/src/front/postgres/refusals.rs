//! The service's texts for refused logins.

use std::net::IpAddr;

use crate::jwt::Refusal;

/// The service's text for a token that is not accepted at a login as `user`.
pub(super) fn refused(refusal: &Refusal, user: &str) -> String {
    match refusal {
        Refusal::Expired => {
            "The access token has expired. Please acquire a new token and retry".to_owned()
        }
        Refusal::Audience(_) => "The access token does not have a valid audience claim".to_owned(),
        Refusal::Malformed | Refusal::Signature | Refusal::NotYetValid => {
            format!("password authentication failed for user \"{user}\"")
        }
    }
}

/// The service's text for a token of another principal than the role's.
pub(super) fn wrong_role(user: &str) -> String {
    format!("Azure AD access token not valid for role {user}")
}

/// The service's text for a login without TLS.
pub(super) fn no_encryption(host: IpAddr, user: &str, database: &str) -> String {
    format!(
        "no pg_hba.conf entry for host \"{host}\", user \"{user}\", database \"{database}\", no encryption"
    )
}
