//! The server's side of the opening handshake (RFC 6455 §4.2): received bytes → a request, then the
//! response to it.
//!
//! Sans-IO: a [`HeadReader`] collects the head, [`check`] applies the rules of the RFC. Both return
//! a [`Rejection`] for a request that is not acceptable; the connection is closed after its HTTP
//! response.

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use std::io::Write;

use http::{
    Method, Response, StatusCode, Version,
    header::{self, HeaderMap, HeaderValue, ToStrError},
};
use tungstenite::handshake::{derive_accept_key, server::create_response};

use super::origin;
use crate::{
    config::OriginPolicy,
    http1::{
        forwarded::Forwarded,
        head::{RequestHead, check_host, check_target, has_token, list, single},
        rejection::Rejection,
    },
    util::http_syntax::{is_token, write_field},
};

/// A request that satisfies RFC 6455 §4.2.1 and the origin policy.
#[derive(Debug)]
pub(crate) struct Opening {
    /// The client's subprotocols in its order of preference.
    pub(crate) offered: Vec<String>,
}

/// Whether the request asks for a WebSocket (RFC 6455 §4.2.1, 3), valid or not. Without this token
/// it is plain HTTP.
pub(crate) fn is_upgrade(request: &RequestHead) -> bool {
    has_token(request, header::UPGRADE, "websocket")
}

/// Checks that the request may become a WebSocket, as far as RFC 6455 and the origin policy say.
/// The application decides the rest.
pub(crate) fn check(
    request: &RequestHead,
    forwarded: &Forwarded,
    origins: &OriginPolicy,
) -> Result<Opening, Rejection> {
    let key = opening_key(request)?;
    if !origin::is_allowed(request, forwarded, origins) {
        return Err(Rejection::OriginForbidden);
    }
    if !is_nonce(key.as_bytes()) {
        return Err(Rejection::BadRequest("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    Ok(Opening { offered: offered(request)? })
}

/// The rejection of a request behind which data arrived early: a client has to wait for the
/// response before it sends any further data (RFC 6455 §4.1).
pub(crate) fn early_data(request: &RequestHead, forwarded: &Forwarded, origins: &OriginPolicy) -> Rejection {
    // Other faults of the request come first, so that the response does not depend on whether the
    // data arrived with the request or a moment later.
    check(request, forwarded, origins).err().unwrap_or(Rejection::JunkAfterRequest)
}

/// The first of the server's subprotocols that the client offers (RFC 6455 §4.2.2, 4).
pub(crate) fn choose<'s>(offered: &[String], supported: &'s [String]) -> Option<&'s str> {
    supported.iter().find(|name| offered.contains(name)).map(String::as_str)
}

/// Checks the request against RFC 6455 §4.2.1 and returns its key.
fn opening_key(request: &RequestHead) -> Result<&HeaderValue, Rejection> {
    // §4.2.1, 1: an HTTP/1.1 or higher GET request.
    if request.version() != Version::HTTP_11 {
        return Err(Rejection::BadRequest("a WebSocket handshake needs HTTP/1.1"));
    }
    // §4.2.1, 2: a Host header field.
    check_host(request)?;
    match *request.method() {
        Method::GET => {}
        Method::HEAD => return Err(Rejection::UpgradeRequired),
        _ => return Err(Rejection::MethodNotAllowed),
    }
    // RFC 9112 §6.3: a body would be read as WebSocket frames here, and as a body by a proxy.
    let has_body = request.headers().get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    if has_body || request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Err(Rejection::BadRequest("a WebSocket handshake must not have a body"));
    }
    // §4.1, 1 of the request: a path, or an absolute URI.
    check_target(request)?;
    // §4.2.1, 3: Upgrade contains "websocket".
    if !has_token(request, header::UPGRADE, "websocket") {
        return Err(Rejection::UpgradeRequired);
    }
    // §4.2.1, 4: Connection contains "upgrade".
    if !has_token(request, header::CONNECTION, "upgrade") {
        return Err(Rejection::BadRequest("Connection must contain upgrade: does a proxy remove it?"));
    }
    // §4.2.1, 6: version 13. §4.4: the response to another version names this one.
    if single(request, header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Rejection::UnsupportedVersion);
    }
    // §4.2.1, 5: one key, whose content is checked by `accept_key`.
    single(request, header::SEC_WEBSOCKET_KEY)
        .ok_or(Rejection::BadRequest("send one Sec-WebSocket-Key header"))
}

/// The most subprotocols that a client may offer. Each is compared with all others, so a head full
/// of short names would delay the other clients.
const MAX_OFFERED: usize = 100;

/// The offered subprotocols, over one header line or several. RFC 6455 §4.1, 10: distinct tokens.
fn offered(request: &RequestHead) -> Result<Vec<String>, Rejection> {
    let mut offered = Vec::new();
    for item in list(request, header::SEC_WEBSOCKET_PROTOCOL) {
        // RFC 9110 §5.6.1.2: a recipient ignores empty elements.
        if item.is_empty() {
            continue;
        }
        let name = String::from_utf8_lossy(item).into_owned();
        if !is_token(item) || offered.contains(&name) || offered.len() == MAX_OFFERED {
            return Err(Rejection::BadRequest(
                "Sec-WebSocket-Protocol must list distinct tokens, 100 at most",
            ));
        }
        offered.push(name);
    }
    Ok(offered)
}

/// Whether the key is 16 bytes in base64. Of its last digit four bits are unused, and the example
/// of RFC 6455 §4.1 does not have them at zero.
fn is_nonce(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.strip_suffix(b"==").is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_digit))
}

/// Status and header fields of the 101 response to a request that [`check`] has accepted.
fn switching(request: &RequestHead) -> Response<()> {
    // tungstenite refuses what the RFC allows: a key with unused bits, several protocols in
    // Upgrade, and a second Connection line.
    create_response(request).unwrap_or_else(|_| {
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        let accept = derive_accept_key(key.map(HeaderValue::as_bytes).unwrap_or_default());
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::try_from(accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    })
}

impl Opening {
    /// The bytes of the 101 response (RFC 6455 §4.2.2, 5), with `headers` besides those of the
    /// handshake. Fails if a value is not ASCII.
    pub(crate) fn accept(self, request: &RequestHead, headers: &HeaderMap) -> Result<Vec<u8>, ToStrError> {
        let mut bytes = Vec::with_capacity(192);
        let response = switching(request);
        // Writing to memory cannot fail.
        let _ = write!(bytes, "HTTP/1.1 {}\r\n", response.status());
        for (name, value) in response.headers() {
            write_field(&mut bytes, name, value.as_bytes());
        }
        for (name, value) in headers {
            write_field(&mut bytes, name, value.to_str()?.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        Ok(bytes)
    }
}
