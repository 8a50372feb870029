//! The errors of certificates, keys and other settings of TLS.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a TLS configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// The path as given.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        error: io::Error,
    },
    /// The PEM text has no certificate.
    #[error("there is no certificate in the PEM text: it has to hold the chain, the server's own first")]
    NoCertificate,
    /// The PEM text has no private key.
    #[error("there is no private key in the PEM text: PKCS #8, PKCS #1 and SEC 1 are read")]
    NoKey,
    /// A section of the PEM text is malformed.
    #[error("the PEM text is malformed: {0}")]
    Pem(String),
    /// The private key does not belong to the certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate or the key cannot be used.
    #[error("the certificate or its key cannot be used: {0}")]
    Unusable(String),
    /// The configuration accepts early data, which can be replayed by anyone who has seen it (RFC
    /// 8446 §8).
    #[error("early data can be replayed and is not supported: set max_early_data_size to 0")]
    EarlyData,
    /// The configuration offers application protocols, but not the one that WebSocket needs.
    #[error("the ALPN protocols do not include \"http/1.1\": add it, or leave the list empty")]
    NoHttp11,
}
