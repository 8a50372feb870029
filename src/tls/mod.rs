//! TLS: configurations of the library that speaks it. The types that most programs need are
//! [`Tls`](crate::Tls), [`TlsClient`](crate::TlsClient) and [`TlsInfo`](crate::TlsInfo); the
//! [guide](crate::guide::tls) shows their use.

// How records are read and written is in `net/tls/`.

#[cfg(feature = "tls")]
pub(crate) mod client;
pub(crate) mod info;
#[cfg(feature = "tls")]
mod pem;
#[cfg(feature = "tls")]
mod resolver;
#[cfg(feature = "tls")]
pub mod rustls_0_23;
#[cfg(feature = "tls")]
pub(crate) mod server;
