//! Configurations of rustls 0.23.
//!
//! [`Tls`] and [`TlsClient`] cover what most programs need. Whoever
//! needs more (another provider of cryptography, a verifier or a store of certificates of their
//! own) makes the configuration with rustls itself. The module is named after the version, so that
//! a later rustls can stand beside it.

use std::sync::Arc;

pub use ::rustls;

use super::{client::TlsClient, server::Tls};
use crate::error::TlsError;

/// Makes the TLS of a server from a configuration of rustls.
///
/// # Errors
///
/// [`TlsError::EarlyData`] if it accepts early data, and [`TlsError::NoHttp11`] if it offers
/// application protocols without `http/1.1`.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use tickws::tls::rustls_0_23::{self, rustls};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[derive(Debug)]
/// # struct Store;
/// # impl rustls::server::ResolvesServerCert for Store {
/// #     fn resolve(
/// #         &self,
/// #         _: rustls::server::ClientHello<'_>,
/// #     ) -> Option<Arc<rustls::sign::CertifiedKey>> { None }
/// # }
/// let provider = Arc::new(rustls::crypto::ring::default_provider());
/// let config = rustls::ServerConfig::builder_with_provider(provider)
///     .with_protocol_versions(&[&rustls::version::TLS13])?
///     .with_no_client_auth()
///     .with_cert_resolver(Arc::new(Store));
/// let tls = rustls_0_23::server(Arc::new(config))?;
/// # Ok(())
/// # }
/// ```
pub fn server(config: Arc<rustls::ServerConfig>) -> Result<Tls, TlsError> {
    Tls::from_config(config)
}

/// Makes the TLS of outbound connections from a configuration of rustls.
///
/// # Errors
///
/// [`TlsError::EarlyData`] if it sends early data, and [`TlsError::NoHttp11`] if it offers
/// application protocols without `http/1.1`.
pub fn client(config: Arc<rustls::ClientConfig>) -> Result<TlsClient, TlsError> {
    TlsClient::from_config(config)
}
