//! The choice of a certificate by the name that the client asks for (SNI, RFC 6066 §3).

use std::sync::Arc;

use rustls::{
    client::verify_server_name,
    pki_types::ServerName,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};

/// The certificates of a server, in the order in which they were given.
#[derive(Debug)]
pub(super) struct ByName {
    pub(super) keys: Vec<Arc<CertifiedKey>>,
    /// A client that asks for a name of no certificate is refused.
    pub(super) requires_known_name: bool,
}

/// Whether the certificate is for this name.
fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.cert.first().and_then(|cert| ParsedCertificate::try_from(cert).ok());
    parsed.is_some_and(|cert| verify_server_name(&cert, name).is_ok())
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // There may be two certificates for a name, one with an RSA key: the first that the client
        // can verify is taken.
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = match &name {
            Some(name) if self.keys.len() > 1 || self.requires_known_name => {
                let mut named = self.keys.iter().filter(|key| is_for(key, name)).peekable();
                if named.peek().is_none() && self.requires_known_name {
                    return None;
                }
                named.find(usable)
            }
            _ => None,
        };
        named.or_else(|| self.keys.iter().find(usable)).or(self.keys.first()).cloned()
    }
}
