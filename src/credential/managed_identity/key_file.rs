//! The key file of the Azure Arc agent. A program that can read it is allowed to get a token.
//!
//! The path comes from the network, and the content of the file is sent back. Therefore, only
//! files in the agent's own directory are read.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use zeroize::Zeroizing;

use super::secret::Secret;
use crate::{credential::Environment, excerpt::excerpt};

/// The maximum length of a key.
const LENGTH_LIMIT: usize = 4_096;

/// The files of the agent.
#[derive(Debug)]
pub(super) struct Agent {
    program: PathBuf,
    keys: PathBuf,
}

impl Agent {
    /// `root` replaces the root directory (on Windows: `%ProgramFiles%` and `%ProgramData%`).
    pub(super) fn new(environment: &Environment, root: Option<&Path>) -> Self {
        if cfg!(windows) {
            let folder = |variable, default: &str| {
                let folder = root.map(Path::to_owned);
                folder
                    .unwrap_or_else(|| environment.get(variable).unwrap_or(default).into())
                    .join("AzureConnectedMachineAgent")
            };
            Self {
                program: folder("ProgramFiles", r"C:\Program Files").join("himds.exe"),
                keys: folder("ProgramData", r"C:\ProgramData").join("Tokens"),
            }
        } else {
            let root = root.unwrap_or(Path::new("/"));
            Self {
                program: root.join("opt/azcmagent/bin/himds"),
                keys: root.join("var/opt/azcmagent/tokens"),
            }
        }
    }

    pub(super) fn is_installed(&self) -> bool {
        self.program.exists()
    }
}

/// The reasons for a missing key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFileError {
    #[error("it sent a token without a challenge, so it is not the Azure Arc agent")]
    NoChallenge,
    #[error("its challenge does not name a key file (WWW-Authenticate: Basic realm=…)")]
    NotNamed,
    #[error("the key file of its challenge is not directly in {}", directory.display())]
    Elsewhere { directory: PathBuf },
    #[error("the name of its key file does not end in .key")]
    NoKey,
    #[error("its key file has no valid key of at most {LENGTH_LIMIT} bytes")]
    Unusable,
    #[error("the key file {} cannot be read", excerpt(&path.display().to_string(), None))]
    Unreadable { path: PathBuf, source: io::Error },
}

/// Reads the key in the file that the challenge names (`Basic realm=PATH`), and returns it in the
/// form for the `Authorization` header. This reads only a few bytes from a local disk, so it does
/// not use another thread.
pub(super) fn read(headers: &HeaderMap, agent: &Agent) -> Result<Secret, KeyFileError> {
    let path = headers.get_all(WWW_AUTHENTICATE).iter().find_map(realm);
    let path = path.ok_or(KeyFileError::NotNamed)?;
    let path = checked(Path::new(path), &agent.keys)?;
    let failed = |source| KeyFileError::Unreadable { path: path.clone(), source };
    let file = File::open(&path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(KeyFileError::Unusable);
    }
    // Large enough for the whole key: a buffer that grows leaves copies of the key in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(2 * LENGTH_LIMIT));
    file.take(LENGTH_LIMIT as u64 + 1).read_to_end(&mut text).map_err(failed)?;
    let key = std::str::from_utf8(&text).map_err(|_| KeyFileError::Unusable)?.trim();
    if key.is_empty() || text.len() > LENGTH_LIMIT {
        return Err(KeyFileError::Unusable);
    }
    Secret::new("Basic ", key).ok_or(KeyFileError::Unusable)
}

/// Returns the path with its links resolved, if it is a `.key` file directly in the agent's
/// directory.
fn checked(path: &Path, keys: &Path) -> Result<PathBuf, KeyFileError> {
    let elsewhere = || KeyFileError::Elsewhere { directory: keys.to_owned() };
    let is_key = |path: &Path| path.extension().is_some_and(|extension| extension == "key");
    let real = |path: &Path| {
        path.canonicalize()
            .map_err(|source| KeyFileError::Unreadable { path: path.to_owned(), source })
    };
    // Checked before the file system is accessed: on Windows a path can be on another machine,
    // and Windows would log in to that machine.
    if !path.starts_with(keys) {
        return Err(elsewhere());
    }
    if !is_key(path) {
        return Err(KeyFileError::NoKey);
    }
    // Neither `..` nor a link may lead out of the directory.
    let (directory, path) = (real(keys)?, real(path)?);
    if path.parent() != Some(&directory) {
        return Err(elsewhere());
    }
    if is_key(&path) { Ok(path) } else { Err(KeyFileError::NoKey) }
}

/// Returns the realm of a `Basic` challenge, which may be in quotes (RFC 9110, 11.6.1).
fn realm(challenge: &HeaderValue) -> Option<&str> {
    let (scheme, rest) = challenge.to_str().ok()?.trim().split_once(' ')?;
    let (name, path) = rest.trim().split_once('=')?;
    let is_realm =
        scheme.eq_ignore_ascii_case("Basic") && name.trim().eq_ignore_ascii_case("realm");
    let path = path.trim();
    let path = path.strip_prefix('"').and_then(|path| path.strip_suffix('"')).unwrap_or(path);
    (is_realm && !path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine {
        root: tempfile::TempDir,
        agent: Agent,
    }

    fn machine() -> Machine {
        let root = tempfile::tempdir().unwrap();
        let agent = Agent::new(&Environment::default(), Some(root.path()));
        std::fs::create_dir_all(&agent.keys).unwrap();
        Machine { root, agent }
    }

    impl Machine {
        fn write(&self, path: &str, text: impl AsRef<[u8]>) -> PathBuf {
            let path = self.agent.keys.join(path);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn read(&self, path: &Path) -> Result<String, KeyFileError> {
            let challenge = format!("Basic realm={}", path.display()).parse().unwrap();
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, challenge)]);
            let key = read(&headers, &self.agent)?.header();
            assert!(key.is_sensitive());
            Ok(key.to_str().unwrap().to_owned())
        }
    }

    #[test]
    fn a_key_in_the_agents_directory_is_read() {
        let machine = machine();
        assert_eq!(machine.read(&machine.write("a.key", "k1")).unwrap(), "Basic k1");
        assert_eq!(machine.read(&machine.write("b c.key", "k2\r\n")).unwrap(), "Basic k2");
        let longest = machine.write("d.key", "k".repeat(4_096));
        assert_eq!(machine.read(&longest).unwrap().len(), 4_096 + 6);
        // A path with `..` that stays in the directory.
        let round = machine.agent.keys.join("../tokens/a.key");
        assert_eq!(machine.read(&round).unwrap(), "Basic k1");
    }

    #[test]
    fn a_key_file_elsewhere_is_not_read() {
        let machine = machine();
        let keys = &machine.agent.keys;
        let outside = machine.root.path().join("outside.key");
        std::fs::write(&outside, "s3cret").unwrap();
        std::fs::create_dir(keys.join("below")).unwrap();
        let below = machine.write("below/a.key", "s3cret");
        let depth = keys.strip_prefix(machine.root.path()).unwrap().components().count();
        for path in [
            outside.clone(),
            keys.join("../".repeat(depth) + "outside.key"),
            PathBuf::from("outside.key"),
            PathBuf::from("//elsewhere/share/a.key"),
            PathBuf::from(format!("{}x/a.key", keys.display())),
            below,
        ] {
            let error = machine.read(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Elsewhere { .. }), "{} {error}", path.display());
        }
        #[cfg(unix)]
        {
            let link = keys.join("link.key");
            std::os::unix::fs::symlink(&outside, &link).unwrap();
            assert!(matches!(machine.read(&link).unwrap_err(), KeyFileError::Elsewhere { .. }));
            let other = machine.write("other.txt", "s3cret");
            let link = keys.join("other.key");
            std::os::unix::fs::symlink(other, &link).unwrap();
            assert!(matches!(machine.read(&link).unwrap_err(), KeyFileError::NoKey));
        }
    }

    #[test]
    fn an_invalid_key_is_reported_and_not_sent() {
        let machine = machine();
        let keys = &machine.agent.keys;
        let error = |path: &Path| machine.read(path).unwrap_err();
        assert!(matches!(error(&machine.write("a.txt", "x")), KeyFileError::NoKey));
        assert!(matches!(error(&machine.write("key", "x")), KeyFileError::NoKey));
        assert!(matches!(error(&machine.write("a.key", "")), KeyFileError::Unusable));
        assert!(matches!(error(&machine.write("a.key", " \n")), KeyFileError::Unusable));
        assert!(matches!(error(&machine.write("a.key", "x\ny")), KeyFileError::Unusable));
        let long = machine.write("long.key", "x".repeat(4_097));
        assert!(matches!(error(&long), KeyFileError::Unusable));
        assert!(matches!(error(&keys.join("absent.key")), KeyFileError::Unreadable { .. }));
        std::fs::create_dir(keys.join("folder.key")).unwrap();
        assert!(matches!(
            error(&keys.join("folder.key")),
            KeyFileError::Unusable | KeyFileError::Unreadable { .. }
        ));
    }

    #[test]
    fn every_valid_form_of_a_challenge_is_parsed() {
        let realm_of =
            |text: &'static str| realm(&HeaderValue::from_static(text)).map(str::to_owned);
        for text in ["Basic realm=/k", "basic Realm=\"/k\"", " BASIC  realm = /k "] {
            assert_eq!(realm_of(text).as_deref(), Some("/k"), "{text}");
        }
        for text in ["", "Basic", "Basic realm", "Basic realm=", "Bearer realm=/k", "Basic r=/k"] {
            assert_eq!(realm_of(text), None, "{text}");
        }
    }
}
