//! A certificate authority, new or kept in a folder, and the server certificates that it
//! issues.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    pem: String,
    path: PathBuf,
    /// The temporary folder, which is removed with this value.
    _temporary: Option<TempDir>,
}

impl Authority {
    /// Creates an authority whose key exists only in this process, and writes its
    /// certificate to a temporary file.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("entra-pool-ca-").tempdir()?;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut authority = Self::with_key(key, folder.path())?;
        authority._temporary = Some(folder);
        Ok(authority)
    }

    /// The authority with the certificate `folder/ca.pem` and the key `folder/ca.key`. Missing
    /// files are created; only the owner can read the key.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written, or its content is not a key.
    pub fn kept_in(folder: &Path) -> io::Result<Self> {
        Self::with_key(kept_key(&folder.join("ca.key"))?, folder)
    }

    fn with_key(key: KeyPair, folder: &Path) -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "entra-pool emulator CA");
        let path = folder.join("ca.pem");
        // An existing certificate is kept unchanged: clients have copies.
        let pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
                fs::write(&path, &pem)?;
                pem
            }
            Err(error) => return Err(error),
        };
        Ok(Self { issuer: rcgen::Issuer::new(params, key), pem, path, _temporary: None })
    }

    /// The authority's own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// A file with the authority's certificate. A temporary file is removed with this value.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> io::Result<ServerCertificate> {
        ServerCertificate::new(names, |params, key| params.signed_by(key, &self.issuer))
    }
}

/// A server's certificate and its key.
#[derive(Debug)]
pub struct ServerCertificate {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl ServerCertificate {
    /// A self-signed certificate for these names.
    pub fn self_signed(names: &[&str]) -> io::Result<Self> {
        Self::new(names, CertificateParams::self_signed)
    }

    /// With the extensions that strict verifiers require (Python 3.13, OpenSSL's
    /// `-x509_strict`).
    fn new(
        names: &[&str],
        sign: impl FnOnce(&CertificateParams, &KeyPair) -> Result<rcgen::Certificate, rcgen::Error>,
    ) -> io::Result<Self> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = sign(&params, &key).map_err(io::Error::other)?;
        Ok(Self { certificate, key })
    }

    /// SHA-1 of the certificate, in hexadecimal, as Windows shows it.
    pub fn thumbprint(&self) -> String {
        let algorithm = &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
        let digest = aws_lc_rs::digest::digest(algorithm, self.certificate.der());
        digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
    }

    /// A server's TLS configuration with this certificate: TLS 1.2 and 1.3.
    pub fn server_config(&self) -> io::Result<Arc<rustls::ServerConfig>> {
        self.server_config_for(rustls::DEFAULT_VERSIONS)
    }

    /// The same for these versions of TLS only.
    pub fn server_config_for(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> io::Result<Arc<rustls::ServerConfig>> {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.der().clone()], key)
            .map_err(io::Error::other)?;
        Ok(Arc::new(config))
    }

    /// Writes `server.crt` and `server.key` (PEM) into `folder`, as PostgreSQL and other
    /// servers read them.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join("server.crt"), self.certificate.pem())?;
        fs::write(folder.join("server.key"), self.key.serialize_pem())
    }
}

/// The P-256 key in this file (PEM). If there is no such file, a new key, written to a file
/// that only its owner can read.
pub(crate) fn kept_key(path: &Path) -> io::Result<KeyPair> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot use {}: {error}", path.display()))
    };
    match fs::read(path) {
        Ok(pem) => {
            let key = KeyPair::from_pem(&String::from_utf8_lossy(&pem)).ok();
            let key = key.filter(|key| key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256));
            key.ok_or_else(|| {
                let path = path.display();
                let advice = "delete it, and ca.pem with ca.key, to get a new one";
                io::Error::other(format!("{path} is not a P-256 key in PEM: {advice}"))
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(io::Error::other)?;
            write_private(path, key.serialize_pem().as_bytes()).map_err(named)?;
            Ok(key)
        }
        Err(error) => Err(named(error)),
    }
}

/// Writes a file that only its owner can read, in one step; it replaces an older file.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    io::Write::write_all(&mut file, contents)?;
    file.persist(path)?;
    Ok(())
}
