//! A directory that PostgreSQL asks (simple binds of LDAP, RFC 4511) whether to let
//! somebody in, and that takes tokens for what they are: signed, for the resource, not
//! expired. As Azure's does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::SystemTime,
};

use entra_pool_emulator::jwt::{Issuer, Principal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::credential::AUDIENCE;

/// A running directory; it ends when this value does.
pub struct TokenDirectory {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    issuer: Arc<Issuer>,
    principal: Principal,
    refuses: AtomicBool,
}

impl TokenDirectory {
    /// One that lets `principal` in, by its name, with a token of `issuer`.
    pub async fn start(issuer: Arc<Issuer>, principal: Principal) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { issuer, principal, refuses: AtomicBool::new(false) });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, task }
    }

    /// The line for `pg_hba.conf`.
    pub fn rule(&self) -> String {
        format!(
            "hostssl all all 127.0.0.1/32 ldap ldapserver=127.0.0.1 ldapport={} ldapprefix=\"cn=\" ldapsuffix=\",dc=entra\"",
            self.port
        )
    }

    /// Whether everybody is refused.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuses.store(refuse, Relaxed);
    }
}

impl Drop for TokenDirectory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers one bind; what follows is the client's goodbye.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) -> Option<()> {
    const INVALID_CREDENTIALS: u8 = 49;
    let mut message = Vec::new();
    while element(&message).is_none() {
        if stream.read_buf(&mut message).await.ok()? == 0 {
            return None;
        }
    }
    let (id, name, token) = bind(&message)?;
    let result = if shared.lets_in(name, token) { 0 } else { INVALID_CREDENTIALS };
    // LDAPMessage { messageID, bindResponse [1] { resultCode, matchedDN, diagnosticMessage } }
    let response = [&[0x0a, 1, result][..], &[0x04, 0], &[0x04, 0]].concat();
    let id = [&[0x02, u8::try_from(id.len()).ok()?][..], id].concat();
    let body = [&id[..], &[0x61, 7], &response].concat();
    let answer = [&[0x30, u8::try_from(body.len()).ok()?][..], &body].concat();
    stream.write_all(&answer).await.ok()?;
    stream.read_to_end(&mut message).await.ok().map(drop)
}

impl Shared {
    fn lets_in(&self, name: &[u8], token: &[u8]) -> bool {
        let token = std::str::from_utf8(token).unwrap_or_default();
        let whose = self.issuer.verify_at(token, AUDIENCE, SystemTime::now());
        !self.refuses.load(Relaxed)
            && name == format!("cn={},dc=entra", self.principal.name).as_bytes()
            && whose.is_ok_and(|whose| whose.object_id == self.principal.object_id)
    }
}

/// Message ID, name and password of LDAPMessage { messageID, bindRequest [0] { version, name,
/// simple [0] } }.
fn bind(message: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let tagged = |wanted: u8, bytes| element(bytes).filter(|(tag, ..)| *tag == wanted);
    let (_, message, _) = tagged(0x30, message)?;
    let (_, id, rest) = tagged(0x02, message)?;
    let (_, request, _) = tagged(0x60, rest)?;
    let (_, _version, rest) = tagged(0x02, request)?;
    let (_, name, rest) = tagged(0x04, rest)?;
    let (_, password, _) = tagged(0x80, rest)?;
    Some((id, name, password))
}

/// The first element of BER: its tag, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}
