//! The TLS of outbound connections: which servers are trusted, and the client's own certificate.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, KeyLogFile, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    pem,
    server::{HTTP11, certified, check, unusable},
};
use crate::error::TlsError;

/// TLS 1.3 and 1.2 for outbound connections to `wss://`: which servers are trusted, and the
/// client's own certificate. For [`Connect::tls`](crate::Connect::tls).
///
/// Without one a connection trusts the authorities of Mozilla's list as the program was built with
/// it ([`TlsClient::new`]): it is the same on every system and needs no files. A program that has
/// to trust what the machine's operator trusts, a company's own authority for instance, or that
/// outlives its build for years, uses [`platform_roots`](TlsClient::platform_roots).
///
/// Sessions are resumed: keep one `TlsClient` for all connections to a server. The name of the URL
/// is always checked, an IP address too.
///
/// # Examples
///
/// ```
/// use tickws::{Connect, TlsClient};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let pem = rcgen::generate_simple_self_signed([])?.cert.pem();
/// let tls = TlsClient::roots(pem)?; // PEM text of an authority of one's own
/// let connect = Connect::new("wss://feed.example/prices").tls(tls);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsClient {
    settings: Settings,
    config: Arc<ClientConfig>,
}

#[derive(Clone)]
struct Settings {
    trust: Trust,
    certificate: Option<Arc<CertifiedKey>>,
    logs_keys: bool,
}

#[derive(Clone)]
enum Trust {
    Roots(Arc<RootCertStore>),
    Anything,
    /// A configuration of the application.
    Config(Arc<ClientConfig>),
}

impl Default for TlsClient {
    fn default() -> Self {
        TlsClient::new()
    }
}

impl TlsClient {
    /// Trusts the authorities of Mozilla's list, which is part of the program.
    pub fn new() -> TlsClient {
        static SHARED: LazyLock<TlsClient> = LazyLock::new(|| {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            TlsClient::with(Trust::Roots(Arc::new(roots)))
        });
        SHARED.clone()
    }

    /// Trusts what the operating system trusts. Reads files, some milliseconds, so call it when the
    /// program starts.
    ///
    /// # Errors
    ///
    /// The system has no certificates, or none can be read.
    pub fn platform_roots() -> Result<TlsClient, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Stores have old certificates that webpki does not take; browsers skip them too.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why = found.errors.first().map_or("none was found".to_owned(), ToString::to_string);
            return Err(TlsError::Unusable(format!("the certificates of the system: {why}")));
        }
        Ok(TlsClient::with(Trust::Roots(Arc::new(roots))))
    }

    /// Trusts these authorities alone, given as PEM text.
    ///
    /// # Errors
    ///
    /// The text has no certificate, or one that cannot be an authority.
    pub fn roots(authorities: impl AsRef<[u8]>) -> Result<TlsClient, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in pem::certificates(authorities.as_ref())? {
            roots.add(certificate).map_err(unusable)?;
        }
        Ok(TlsClient::with(Trust::Roots(Arc::new(roots))))
    }

    /// Trusts any certificate for any name: **anyone on the way can read and change everything**.
    /// For tests only.
    pub fn danger_trust_anything() -> TlsClient {
        TlsClient::with(Trust::Anything)
    }

    /// Shows this certificate chain to servers that ask for one (RFC 8446 §4.4.2), as PEM text with
    /// its private key. No effect on a configuration of [`rustls_0_23`](crate::tls::rustls_0_23).
    ///
    /// # Errors
    ///
    /// As [`Tls::from_pem`](crate::Tls::from_pem).
    pub fn certificate(
        mut self,
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<TlsClient, TlsError> {
        let key = certified(chain.as_ref(), key.as_ref(), &ring::default_provider())?;
        self.settings.certificate = Some(key);
        Ok(TlsClient::from_settings(self.settings))
    }

    /// Appends the secrets of each connection to the file that the environment variable
    /// `SSLKEYLOGFILE` names, if it is set. **Whoever has the file can read everything.** No effect
    /// on a configuration of [`rustls_0_23`](crate::tls::rustls_0_23).
    pub fn log_keys(mut self) -> TlsClient {
        self.settings.logs_keys = true;
        TlsClient::from_settings(self.settings)
    }

    pub(super) fn from_config(config: Arc<ClientConfig>) -> Result<TlsClient, TlsError> {
        check(config.enable_early_data, &config.alpn_protocols)?;
        Ok(TlsClient::with(Trust::Config(config)))
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The configuration of a simulated client: with one way to exchange keys, so that the lengths
    /// of its messages do not vary from run to run.
    #[cfg(any(feature = "sim", test, fuzzing))]
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    pub(crate) fn simulated() -> Arc<ClientConfig> {
        static SHARED: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
            let provider =
                CryptoProvider { kx_groups: vec![ring::kx_group::X25519], ..ring::default_provider() };
            let builder = ClientConfig::builder_with_provider(Arc::new(provider));
            let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
            #[allow(clippy::expect_used, reason = "ring has cipher suites for TLS 1.3")]
            let builder = builder.expect("ring speaks TLS 1.3");
            let verifier = Arc::new(Anything(ring::default_provider()));
            let mut config =
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
            config.resumption = Resumption::disabled();
            Arc::new(config)
        });
        SHARED.clone()
    }

    fn with(trust: Trust) -> TlsClient {
        TlsClient::from_settings(Settings { trust, certificate: None, logs_keys: false })
    }

    fn from_settings(settings: Settings) -> TlsClient {
        let config = match &settings.trust {
            Trust::Config(config) => config.clone(),
            Trust::Roots(roots) => settings.build(|builder| builder.with_root_certificates(roots.clone())),
            Trust::Anything => settings.build(|builder| {
                let verifier = Anything(ring::default_provider());
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }),
        };
        TlsClient { settings, config }
    }
}

impl Settings {
    fn build(
        &self,
        trust: impl FnOnce(
            rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>,
        ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    ) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        #[allow(clippy::expect_used, reason = "ring has cipher suites for both versions")]
        let builder = builder.with_safe_default_protocol_versions().expect("ring speaks TLS 1.2 and 1.3");
        let builder = trust(builder);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(key) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(key))))
            }
        };
        config.alpn_protocols = vec![HTTP11.to_vec()];
        config.resumption = Resumption::in_memory_sessions(256);
        if self.logs_keys {
            config.key_log = Arc::new(KeyLogFile::new());
        }
        Arc::new(config)
    }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust = match &self.settings.trust {
            Trust::Roots(roots) => format!("{} authorities", roots.len()),
            Trust::Anything => "anything".to_owned(),
            Trust::Config(_) => "rustls::ClientConfig".to_owned(),
        };
        f.debug_struct("TlsClient").field("trust", &trust).finish_non_exhaustive()
    }
}

/// Accepts every certificate, but checks that the server has its key.
#[derive(Debug)]
struct Anything(CryptoProvider);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
