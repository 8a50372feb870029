//! The outcome of a TLS handshake.

use std::fmt;

use bytes::Bytes;

/// The parameters that a TLS handshake has agreed on, from [`Request::tls`](crate::Request::tls).
///
/// # Examples
///
/// ```
/// use tickws::{Decision, Server, TlsVersion, http::Response};
///
/// # fn main() -> std::io::Result<()> {
/// let server = Server::builder()
///     .on_upgrade(|request, _| match request.tls() {
///         Some(tls) if tls.version() == TlsVersion::V1_3 => Decision::Accept,
///         _ => Decision::Reject(Response::builder().status(403).body("".into()).unwrap()),
///     })
///     .bind("127.0.0.1:0")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    pub(crate) version: TlsVersion,
    pub(crate) cipher: Box<str>,
    pub(crate) server_name: Option<Box<str>>,
    pub(crate) alpn: Option<Box<str>>,
    pub(crate) is_resumed: bool,
    pub(crate) peer_certificates: Box<[Bytes]>,
}

/// A version of the TLS protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl TlsInfo {
    /// The version of the protocol.
    pub fn version(&self) -> TlsVersion {
        self.version
    }

    /// The name of the cipher suite, as IANA registers it: `TLS13_AES_128_GCM_SHA256`.
    pub fn cipher(&self) -> &str {
        &self.cipher
    }

    /// The name of the server that the client has asked for (SNI, RFC 6066 §3). A client that
    /// connects to an IP address sends none.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The application protocol that was negotiated (ALPN, RFC 7301): `http/1.1`, or `None` if the
    /// client has offered none.
    pub fn alpn(&self) -> Option<&str> {
        self.alpn.as_deref()
    }

    /// Whether an earlier session was resumed, without a new exchange of certificates.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// The certificate chain of the peer in DER form, its own certificate first. Empty if it has
    /// sent none: clients send one only if the server asks for it.
    pub fn peer_certificates(&self) -> &[Bytes] {
        &self.peer_certificates
    }
}

/// Why a TLS handshake failed.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only encrypted streams have handshakes"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// The peer sent an alert: it does not trust the certificate, for instance.
    Alert,
    /// The peers have no protocol version, cipher suite or application protocol in common.
    NoCommonParameters,
    /// No certificate is for the name that the client has asked for.
    UnknownName,
    /// The certificate of the peer is missing or not valid.
    PeerCertificate,
    /// The bytes violate the protocol, or are no TLS.
    Malformed,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsVersion::V1_2 => "TLS 1.2",
            TlsVersion::V1_3 => "TLS 1.3",
        })
    }
}
