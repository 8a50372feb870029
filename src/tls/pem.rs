//! Certificates and keys from PEM text (RFC 7468).

use std::{fs, path::Path};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error, PemObject},
};

use crate::error::TlsError;

/// All certificates of the text, at least one.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| TlsError::Pem(error.to_string()))?;
    if found.is_empty() { Err(TlsError::NoCertificate) } else { Ok(found) }
}

/// The first private key of the text.
pub(super) fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        Error::NoItemsFound => TlsError::NoKey,
        error => TlsError::Pem(error.to_string()),
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), error })
}
