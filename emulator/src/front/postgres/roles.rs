//! The engine accounts of principals.

use std::collections::BTreeMap;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{EngineLogin, LoginError, engine::Engine, refusals::wrong_role};
use crate::jwt::{Principal, PrincipalKind, Verified};

/// The start of the comment on each role that a front created.
const MARK: &str = "entra-pool-emulator: aadauth";

pub(super) struct Roles {
    given: BTreeMap<String, EngineLogin>,
    administrators: Vec<String>,
    /// Passwords that this front set, by role. One login at a time sets them.
    set: Mutex<BTreeMap<String, Known>>,
}

struct Known {
    password: String,
    /// The `oid` in the mark.
    object_id: Option<String>,
}

impl Roles {
    pub(super) fn new(given: BTreeMap<String, EngineLogin>, administrators: Vec<String>) -> Self {
        Self { given, administrators, set: Mutex::default() }
    }

    /// Returns the account for a login as `user` with a token of `verified`. Without a
    /// `principal` in the directory, the role's mark names it. The engine has refused the
    /// password `refused`, so the account has another one.
    pub(super) async fn account(
        &self,
        engine: &Engine,
        user: &str,
        verified: &Verified,
        principal: Option<&Principal>,
        refused: Option<&str>,
    ) -> Result<EngineLogin, LoginError> {
        let login = |password| EngineLogin { user: user.to_owned(), password };
        if engine.is_in_process() {
            // Its roles are the principals, and it requires no password.
            let missing = || LoginError::new("28000", format!("role \"{user}\" does not exist"));
            belongs(user, verified, Some(principal.ok_or_else(missing)?), None)?;
            return Ok(login(String::new()));
        }
        if let Some(login) = self.given.get(user) {
            belongs(user, verified, principal, None)?;
            return Ok(login.clone());
        }
        let mut set = self.set.lock().await;
        // A role can have been dropped and created again for another principal.
        let usable = |known: &&Known| {
            belongs(user, verified, principal, known.object_id.as_deref()).is_ok()
                && Some(known.password.as_str()) != refused
        };
        if let Some(known) = set.get(user).filter(usable) {
            return Ok(login(known.password.clone()));
        }
        let known = self.set_password(engine, user, verified, principal).await?;
        let password = known.password.clone();
        set.insert(user.to_owned(), known);
        Ok(login(password))
    }

    /// Whether this front set the account's password, which another front can have changed.
    pub(super) async fn is_own(&self, user: &str) -> bool {
        self.set.lock().await.contains_key(user)
    }

    async fn set_password(
        &self,
        engine: &Engine,
        user: &str,
        verified: &Verified,
        principal: Option<&Principal>,
    ) -> Result<Known, LoginError> {
        let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        engine
            .administer(async |admin| {
                const LOOK: &str = "SELECT pg_catalog.shobj_description(oid, 'pg_authid') \
                     FROM pg_catalog.pg_roles WHERE rolname = $1::text::name";
                let mut found = admin.query_opt(LOOK, &[&user]).await?;
                if let (None, Some(principal)) = (&found, principal) {
                    const CREATE: &str = "SELECT pg_catalog.pgaadauth_create_principal_with_oid\
                         ($1, $2, $3, $4, false)";
                    let person = principal.kind == PrincipalKind::User;
                    let kind = if person { "user" } else { "service" };
                    let is_admin = self.administrators.iter().any(|name| name == user);
                    admin
                        .query_one(CREATE, &[&user, &principal.object_id, &kind, &is_admin])
                        .await?;
                    found = admin.query_opt(LOOK, &[&user]).await?;
                }
                let Some(row) = found else {
                    return Ok(Err(no_role(user)));
                };
                let mark: Option<String> = row.get(0);
                let Some(mark) = mark.filter(|mark| mark.starts_with(MARK)) else {
                    return Ok(Err(LoginError::new(
                        "28000",
                        format!(
                            "role \"{user}\" was not created by this front, which does not change \
                             its password: give the password in the front's options, or drop the role"
                        ),
                    )));
                };
                let object_id = mark.split(',').find_map(|part| part.strip_prefix("oid="));
                if let Err(refusal) = belongs(user, verified, principal, object_id) {
                    return Ok(Err(refusal));
                }
                let verifier = escape_literal(&verifier(&password));
                let role = escape_identifier(user);
                admin.batch_execute(&format!("ALTER ROLE {role} PASSWORD {verifier}")).await?;
                Ok(Ok(Known { password, object_id: object_id.map(str::to_owned) }))
            })
            .await?
    }
}

/// Like PostgreSQL, the front does not reveal whether a role exists.
fn no_role(user: &str) -> LoginError {
    tracing::debug!(user, "PostgreSQL front: there is no such role");
    LoginError::new("28P01", format!("password authentication failed for user \"{user}\""))
}

/// The verifier that PostgreSQL stores for a password (RFC 5803), so that the password does not
/// reach its log. It has one iteration: more would only protect guessable passwords, and would
/// slow each login down.
fn verifier(password: &str) -> String {
    let salt = Uuid::new_v4();
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    let iterations = std::num::NonZeroU32::MIN;
    let (salt, algorithm) = (salt.as_bytes(), pbkdf2::PBKDF2_HMAC_SHA256);
    pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored_key = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    let [salt, stored_key, server_key] =
        [salt.as_slice(), stored_key.as_ref(), server_key.as_ref()]
            .map(|it| BASE64_STANDARD.encode(it));
    format!("SCRAM-SHA-256$1:{salt}${stored_key}:{server_key}")
}

/// Checks that the role belongs to the token's principal. The directory decides if it knows the
/// role. Otherwise the object ID in the mark decides, or, after
/// `pgaadauth_create_principal`, which stores no ID, the name.
fn belongs(
    user: &str,
    verified: &Verified,
    principal: Option<&Principal>,
    marked: Option<&str>,
) -> Result<(), LoginError> {
    let object_id = principal.map(|principal| principal.object_id.as_str()).or(marked);
    let belongs = match object_id {
        Some(object_id) => object_id.eq_ignore_ascii_case(&verified.object_id),
        None => verified.name.as_deref() == Some(user),
    };
    if belongs { Ok(()) } else { Err(LoginError::new("28P01", wrong_role(user))) }
}
