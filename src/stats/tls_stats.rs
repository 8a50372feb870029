//! Counters of TLS handshakes.

use crate::tls::info::TlsFailure;

/// TLS handshakes that failed, by cause. A peer that is silent or goes away counts in
/// [`RejectCounts::timeout`](crate::RejectCounts::timeout) or
/// [`gone`](crate::RejectCounts::gone).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TlsFailureCounts {
    /// The peer sent an alert: it does not trust the certificate, for instance.
    pub alert: u64,
    /// The peers had no protocol version, cipher suite or application protocol in common.
    pub no_common_parameters: u64,
    /// The client asked for a name for which there is no certificate.
    pub unknown_name: u64,
    /// The certificate of the peer was missing or not valid.
    pub peer_certificate: u64,
    /// The bytes violated the protocol, or were no TLS.
    pub malformed: u64,
    /// The peer spoke plain HTTP. It got a 400, or a redirect.
    pub plain_text: u64,
}

impl TlsFailureCounts {
    pub(crate) fn count(&mut self, cause: TlsFailure) {
        *match cause {
            TlsFailure::Alert => &mut self.alert,
            TlsFailure::NoCommonParameters => &mut self.no_common_parameters,
            TlsFailure::UnknownName => &mut self.unknown_name,
            TlsFailure::PeerCertificate => &mut self.peer_certificate,
            TlsFailure::Malformed => &mut self.malformed,
        } += 1;
    }
}
