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

/// Appends `name: value` and a line end, with the name in its usual case.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let start = out.len();
    out.extend_from_slice(name.as_str().as_bytes());
    if let Some(name) = out.get_mut(start..) {
        canonicalize(name);
    }
    out.extend_from_slice(b": ");
    // A `HeaderValue` has no line breaks.
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Changes a lower-case field name to the case in which its standard writes it:
/// `Sec-WebSocket-Accept`, `Set-Cookie`, `ETag`. Names are compared without case (RFC 9110 §5.1),
/// but clients on small devices search the response with case.
pub(crate) fn canonicalize(name: &mut [u8]) {
    const SPECIAL: [(&[u8], &[u8]); 5] = [
        (b"websocket", b"WebSocket"),
        (b"etag", b"ETag"),
        (b"www", b"WWW"),
        (b"te", b"TE"),
        (b"md5", b"MD5"),
    ];
    for word in name.split_mut(|byte| *byte == b'-') {
        if let Some((_, special)) = SPECIAL.iter().find(|(lower, _)| *lower == word) {
            word.copy_from_slice(special);
        } else if let Some(first) = word.first_mut() {
            first.make_ascii_uppercase();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_in_their_standards() {
        for name in [
            "Sec-WebSocket-Accept",
            "Sec-WebSocket-Extensions",
            "Connection",
            "Upgrade",
            "Set-Cookie",
            "ETag",
            "WWW-Authenticate",
            "Content-Type",
            "X-Forwarded-For",
            "X",
            "A--B-",
        ] {
            let mut field = Vec::new();
            write_field(&mut field, &name.parse().unwrap(), b"v");
            assert_eq!(String::from_utf8(field).unwrap(), format!("{name}: v\r\n"));
        }
    }
}
