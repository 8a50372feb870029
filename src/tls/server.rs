//! The TLS of a server: certificates, keys, and what it asks of its clients.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::{
    KeyLogFile, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier},
    sign::CertifiedKey,
};

use super::{pem, resolver::ByName};
use crate::error::TlsError;

/// The application protocol of RFC 9112 in ALPN, the only one in which a WebSocket opens.
pub(super) const HTTP11: &[u8] = b"http/1.1";

/// TLS 1.3 and 1.2 for the clients of a server: its certificates, their keys, and what it asks of
/// its clients. For [`ServerBuilder::bind_tls`](crate::ServerBuilder::bind_tls).
///
/// Sessions are resumed with tickets whose key changes every six hours, and is lost when the
/// program ends; early data (0-RTT) is never accepted. A clone stands for the same certificates: if
/// one is [reloaded](Tls::reload_if_changed), so are the others, and new connections use what was
/// loaded.
///
/// The cryptography is that of ring. For another provider see
/// [`rustls_0_23`](crate::tls::rustls_0_23).
///
/// # Examples
///
/// ```no_run
/// use tickws::{Server, Tls};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = Tls::from_pem_files("fullchain.pem", "privkey.pem")?;
/// let mut server = Server::builder().tls(tls.clone()).bind_tls("0.0.0.0:443")?;
/// loop {
///     server.poll_wait(None)?;
///     tls.reload_if_changed()?; // better once a minute, with a timer
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Tls {
    settings: Settings,
    loaded: Arc<Mutex<Loaded>>,
}

/// The configuration that was loaded last.
struct Loaded {
    config: Arc<ServerConfig>,
    /// The state of each file when it was read.
    stamps: Vec<Option<Stamp>>,
}

/// A file differs if its time or its length does.
type Stamp = (SystemTime, u64);

#[derive(Clone)]
struct Settings {
    certificates: Vec<Source>,
    requires_known_name: bool,
    client_roots: Option<(Arc<RootCertStore>, ClientCertificates)>,
    logs_keys: bool,
    tickets: Arc<dyn ProducesTickets>,
}

#[derive(Clone)]
enum Source {
    Pem {
        chain: Arc<[u8]>,
        key: Arc<[u8]>,
    },
    Files {
        chain: PathBuf,
        key: PathBuf,
    },
    /// A configuration of the application. There is only this one source then.
    Config(Arc<ServerConfig>),
}

/// Whether clients must show a certificate, for
/// [`Tls::client_certificates`](crate::Tls::client_certificates).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// A client without a certificate is refused.
    Required,
    /// A client may have none; the application looks at
    /// [`Request::peer_certificates`](crate::Request::peer_certificates).
    Optional,
}

impl Tls {
    /// Reads a certificate chain, the server's own certificate first, and its private key from PEM
    /// files, as ACME clients write them.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or as [`from_pem`](Tls::from_pem).
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Tls, TlsError> {
        Tls::from_source(Source::Files { chain: chain.as_ref().to_owned(), key: key.as_ref().to_owned() })
    }

    /// Takes a certificate chain and its private key as PEM text (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// # Errors
    ///
    /// [`TlsError`]: the text is malformed, or the key does not belong to the certificate.
    pub fn from_pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Tls, TlsError> {
        Tls::from_source(Source::Pem { chain: chain.as_ref().into(), key: key.as_ref().into() })
    }

    pub(super) fn from_config(config: Arc<ServerConfig>) -> Result<Tls, TlsError> {
        Tls::from_source(Source::Config(config))
    }

    /// Adds a certificate for other names, from files. A client gets the first one that is for the
    /// name that it asks for (SNI), or else the first of all.
    ///
    /// # Errors
    ///
    /// As [`from_pem_files`](Tls::from_pem_files).
    pub fn add_pem_files(self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Tls, TlsError> {
        self.add(Source::Files { chain: chain.as_ref().to_owned(), key: key.as_ref().to_owned() })
    }

    /// Adds a certificate for other names, as [`add_pem_files`](Tls::add_pem_files) does.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Tls::from_pem).
    pub fn add_pem(self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Tls, TlsError> {
        self.add(Source::Pem { chain: chain.as_ref().into(), key: key.as_ref().into() })
    }

    /// Refuses clients that ask for a name of no certificate. Without this call they get the first
    /// one. No effect on a configuration of [`rustls_0_23`](crate::tls::rustls_0_23).
    ///
    /// # Errors
    ///
    /// As the call that gave the certificates, which are loaded again.
    pub fn require_known_name(mut self) -> Result<Tls, TlsError> {
        self.settings.requires_known_name = true;
        self.rebuilt()
    }

    /// Asks clients for a certificate of one of these authorities, given as PEM text (RFC 8446
    /// §4.3.2). One that is not valid, or no longer, is refused in the handshake. No effect on a
    /// configuration of [`rustls_0_23`](crate::tls::rustls_0_23).
    ///
    /// # Errors
    ///
    /// The text has no certificate, or one that cannot be an authority.
    pub fn client_certificates(
        mut self,
        authorities: impl AsRef<[u8]>,
        need: ClientCertificates,
    ) -> Result<Tls, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in pem::certificates(authorities.as_ref())? {
            roots.add(certificate).map_err(unusable)?;
        }
        self.settings.client_roots = Some((Arc::new(roots), need));
        self.rebuilt()
    }

    /// Appends the secrets of each connection to the file that the environment variable
    /// `SSLKEYLOGFILE` names, if it is set, so that Wireshark can read the traffic. **Whoever has
    /// the file can read everything.** No effect on a configuration of
    /// [`rustls_0_23`](crate::tls::rustls_0_23).
    ///
    /// # Errors
    ///
    /// As the call that gave the certificates, which are loaded again.
    pub fn log_keys(mut self) -> Result<Tls, TlsError> {
        self.settings.logs_keys = true;
        self.rebuilt()
    }

    /// Reads the files again if one of them has changed, and returns whether it did. New
    /// connections get the new certificate; open ones stay as they are. It looks at each file's
    /// time and length, which takes microseconds. An error leaves the old certificates in use, and
    /// the next call tries again.
    ///
    /// # Errors
    ///
    /// As [`from_pem_files`](Tls::from_pem_files).
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let stamps = self.settings.stamps();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps == loaded.stamps {
            return Ok(false);
        }
        *loaded = Loaded { config: self.settings.build()?, stamps };
        Ok(true)
    }

    /// The configuration for new connections.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    fn from_source(source: Source) -> Result<Tls, TlsError> {
        let tickets = ring::Ticketer::new().map_err(unusable)?;
        let settings = Settings {
            certificates: vec![source],
            requires_known_name: false,
            client_roots: None,
            logs_keys: false,
            tickets,
        };
        Tls::load(settings)
    }

    fn load(settings: Settings) -> Result<Tls, TlsError> {
        // A file that changes while it is read has another time afterwards.
        let stamps = settings.stamps();
        let config = settings.build()?;
        Ok(Tls { settings, loaded: Arc::new(Mutex::new(Loaded { config, stamps })) })
    }

    fn add(mut self, source: Source) -> Result<Tls, TlsError> {
        self.settings.certificates.push(source);
        self.rebuilt()
    }

    fn rebuilt(self) -> Result<Tls, TlsError> {
        Tls::load(self.settings)
    }
}

impl Settings {
    fn stamps(&self) -> Vec<Option<Stamp>> {
        let stamp = |path: &PathBuf| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        let mut stamps = Vec::new();
        for source in &self.certificates {
            if let Source::Files { chain, key } = source {
                stamps.extend([stamp(chain), stamp(key)]);
            }
        }
        stamps
    }

    fn build(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut keys = Vec::new();
        for source in &self.certificates {
            keys.push(match source {
                Source::Config(config) => {
                    check(config.max_early_data_size > 0, &config.alpn_protocols)?;
                    return Ok(config.clone());
                }
                Source::Pem { chain, key } => certified(chain, key, &provider)?,
                Source::Files { chain, key } => certified(&pem::read(chain)?, &pem::read(key)?, &provider)?,
            });
        }
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_roots {
            None => builder.with_no_client_auth(),
            Some((roots, need)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
                let verifier = match need {
                    ClientCertificates::Required => verifier,
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| TlsError::Unusable(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let resolver = ByName { keys, requires_known_name: self.requires_known_name };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![HTTP11.to_vec()];
        // Tickets hold the whole state, so that the server keeps none. A client needs one.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = self.tickets.clone();
        config.send_tls13_tickets = 1;
        if self.logs_keys {
            config.key_log = Arc::new(KeyLogFile::new());
        }
        Ok(Arc::new(config))
    }
}

/// Checks a configuration of the application, of either side: whether it allows early data, and the
/// application protocols that it offers.
pub(super) fn check(early_data: bool, protocols: &[Vec<u8>]) -> Result<(), TlsError> {
    if early_data {
        return Err(TlsError::EarlyData);
    }
    if !protocols.is_empty() && !protocols.iter().any(|name| name == HTTP11) {
        return Err(TlsError::NoHttp11);
    }
    Ok(())
}

pub(super) fn certified(
    chain: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let certified = CertifiedKey::from_der(pem::certificates(chain)?, pem::key(key)?, provider);
    certified.map(Arc::new).map_err(unusable)
}

pub(super) fn unusable(error: rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch,
        error => TlsError::Unusable(error.to_string()),
    }
}

/// Shows where the certificates come from, and no key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.settings.certificates.iter().map(|source| match source {
            Source::Pem { .. } => "PEM".to_owned(),
            Source::Files { chain, .. } => chain.display().to_string(),
            Source::Config(_) => "rustls::ServerConfig".to_owned(),
        });
        let sources: Vec<String> = sources.collect();
        f.debug_struct("Tls").field("certificates", &sources).finish_non_exhaustive()
    }
}
