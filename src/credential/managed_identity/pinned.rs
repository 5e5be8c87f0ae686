//! TLS with a server that is identified by the SHA-1 thumbprint of its certificate.

use std::io;

use rustls::{CertificateError, ClientConfig, Error, pki_types::CertificateDer};

use crate::tls;

/// The SHA-1 hash of a certificate, as 40 hexadecimal digits. SHA-1 collisions do not help an
/// attacker here, because imitating a given certificate requires a second preimage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thumbprint(String);

impl Thumbprint {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_valid = text.len() == 40 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_valid.then(|| Self(text.to_ascii_uppercase()))
    }

    fn of(certificate: &CertificateDer<'_>) -> Self {
        let algorithm = &::aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY;
        let digest = ::aws_lc_rs::digest::digest(algorithm, certificate);
        let digits: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        Self(digits.concat())
    }
}

/// Returns a configuration that trusts only this certificate.
pub(super) fn client_config(thumbprint: Thumbprint) -> Result<ClientConfig, Error> {
    tls::accepting(move |shown| Thumbprint::of(shown) == thumbprint)
}

/// Returns whether a handshake failed because the server has another certificate.
pub(super) fn is_mismatch(error: &io::Error) -> bool {
    let mismatch = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
    error.get_ref().and_then(|error| error.downcast_ref()) == Some(&mismatch)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{crypto::aws_lc_rs, pki_types::ServerName};

    use super::*;

    #[test]
    fn a_thumbprint_is_forty_hexadecimal_digits() {
        let text = "a9993e364706816aba3e25717850c26c9cd0d89d";
        let abc = Thumbprint::of(&CertificateDer::from(b"abc".to_vec()));
        assert_eq!(Thumbprint::parse(text).as_ref(), Some(&abc));
        assert_eq!(Thumbprint::parse(&text.to_uppercase()), Some(abc));
        let cut = &text[1..];
        for wrong in ["", cut, &format!("{cut}g"), &format!("{text}0"), &format!("{cut}é")] {
            assert_eq!(Thumbprint::parse(wrong), None, "{wrong}");
        }
    }

    /// Returns a certificate for another name, and its key.
    fn certificate() -> (CertificateDer<'static>, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["elsewhere".to_owned()];
        let params = rcgen::CertificateParams::new(names).unwrap();
        (params.self_signed(&key).unwrap().into(), key)
    }

    /// Returns the result of a handshake with a server that presents this certificate and signs
    /// with this key.
    fn handshake(
        trusted: &Thumbprint,
        shown: &CertificateDer<'static>,
        key: &rcgen::KeyPair,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Result<(), Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = provider.key_provider.load_private_key(key).unwrap();
        let certified = rustls::sign::CertifiedKey::new(vec![shown.clone()], key);
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        let client = Arc::new(client_config(trusted.clone()).unwrap());
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = rustls::ClientConnection::new(client, name).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &*bytes).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &*bytes).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn only_the_certificate_with_its_own_key_is_trusted() {
        let (shown, key) = certificate();
        let (other, other_key) = certificate();
        let thumbprint = Thumbprint::of(&shown);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            handshake(&thumbprint, &shown, &key, version).unwrap();
            let error = handshake(&thumbprint, &other, &other_key, version).unwrap_err();
            assert!(is_mismatch(&io::Error::other(error)));
            // Any server can present the public certificate, but cannot sign with its key.
            let error = handshake(&thumbprint, &shown, &other_key, version).unwrap_err();
            let bad_signature = Error::InvalidCertificate(CertificateError::BadSignature);
            assert_eq!(error, bad_signature);
        }
    }
}
