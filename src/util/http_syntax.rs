//! Characters and field names of HTTP that several floors check.

use http::{HeaderName, header};

/// Whether the byte may stand in a token (RFC 9110 §5.6.2).
#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether the text is a token (RFC 9110 §5.6.2).
#[inline]
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// Whether a host name may contain this byte: the unreserved characters of RFC 3986 §2.3, and `%`,
/// which begins an encoded byte. RFC 3986 §3.2.2 allows `!$&'()*+,;=` too, but DNS names have none
/// of them, and a comma may come from a proxy that joins two header lines.
#[inline]
pub(crate) fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)
}

/// Whether only the library may set this field in the request or the response of a handshake. It
/// belongs to the handshake (RFC 6455 §4), or would give the message a body.
#[inline]
pub(crate) fn is_handshake_field(name: &HeaderName) -> bool {
    const FIELDS: [HeaderName; 8] = [
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ];
    FIELDS.contains(name)
}
