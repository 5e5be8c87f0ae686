//! Observes a connect of the library: events report its stages, and the verifier gets the server's
//! certificate.

use std::{fmt::Debug, sync::Arc};

use entra_pool::connect::Stage;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use time::OffsetDateTime;
use tracing::{Event, Metadata, Subscriber, field::Field, span};
use x509_cert::{Certificate, der::Decode};

use crate::report::Report;

/// A subscriber that adds the stages of a connect to a report.
pub(crate) struct Stages(pub(crate) Report);

impl Subscriber for Stages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "entra_pool::telemetry"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let Self(report) = self;
        event.record(&mut |field: &Field, value: &dyn Debug| {
            let value = format!("{value:?}");
            match field.name() {
                "addresses" => report.note("addresses", value.trim_matches(['[', ']'])),
                "stage" if value == Stage::Dial.to_string() => report.passed("resolve"),
                // With `Encrypt=Strict`, TLS comes first.
                "stage"
                    if [Stage::Negotiate, Stage::Tls].iter().any(|it| value == it.to_string()) =>
                {
                    report.passed("tcp");
                }
                "stage" if value == Stage::Login.to_string() => report.passed("tls"),
                _ => {}
            }
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Returns a configuration whose verifier wraps `verifier` and records the server's certificate.
pub(crate) fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    report: &Report,
) -> Result<Arc<ClientConfig>, Error> {
    let recorder = Recorder { verifier, report: report.clone() };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(recorder));
    Ok(Arc::new(config.with_no_client_auth()))
}

#[derive(Debug)]
struct Recorder {
    verifier: Arc<dyn ServerCertVerifier>,
    report: Report,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match Certificate::from_der(certificate) {
            Ok(Certificate { tbs_certificate: fields, .. }) => {
                let expiry = OffsetDateTime::from(fields.validity.not_after.to_system_time());
                self.report.note("subject", fields.subject.to_string());
                self.report.note("issuer", fields.issuer.to_string());
                self.report.note("expires", expiry.date().to_string());
            }
            Err(_) => self.report.note("subject", "unknown: the certificate cannot be read"),
        }
        self.verifier
            .verify_server_cert(certificate, intermediates, name, ocsp, now)
            .inspect(|_| self.report.note("valid for", name.to_str()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
