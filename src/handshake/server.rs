//! The server's side of the opening handshake (RFC 6455 §4.2): received bytes → a request, then the
//! response to it.
//!
//! Sans-IO: a [`HeadReader`] collects the head, [`check`] applies the rules of the RFC. Both return
//! a [`Rejection`] for a request that is not acceptable; the connection is closed after its HTTP
//! response.

#![allow(
    clippy::indexing_slicing,
    reason = "`allowed`, `at` and `end` were found in the bytes that they cut"
)]

pub(crate) mod client;
mod origin;
mod rejection;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use std::mem::MaybeUninit;

use data_encoding::BASE64;
use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::handshake::derive_accept_key;
use tungstenite::http::header::{self, HeaderMap, HeaderName, HeaderValue, ToStrError};
use tungstenite::http::{self, Method, Version};

use crate::config::OriginPolicy;

pub(crate) use rejection::Rejection;

/// A request as the application gets it: method, path, query, headers.
pub(crate) type Request = tungstenite::handshake::server::Request;

/// Limits of a request head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Bytes from the first one to the empty line, both included.
    pub(crate) max_bytes: usize,
    pub(crate) max_headers: usize,
}

/// Collects a request head from pieces that are split anywhere.
///
/// Owns no memory unless a head arrives in more than one piece, then at most `max_bytes`, and none
/// after the head is complete or rejected. Each byte is examined once, so that a head that arrives
/// byte by byte costs O(n) too.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    gathered: Vec<u8>,
    part: Part,
}

impl HeadReader {
    /// Takes newly read bytes, up to the end of the head. `Ok(None)`: all of `bytes` were taken,
    /// and the head is not complete.
    ///
    /// # Errors
    /// Returned as soon as the bytes cannot become a request or exceed a limit. The rejection does
    /// not depend on how the head was split.
    pub(crate) fn push(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Head>, Rejection> {
        let outcome = self.advance(bytes, limits);
        if !matches!(outcome, Ok(None)) {
            *self = HeadReader::default();
        }
        outcome
    }

    /// Memory held for an incomplete head, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.gathered.capacity()
    }

    /// Number of buffered bytes of an incomplete head.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn buffered(&self) -> usize {
        self.gathered.len()
    }

    /// Whether no byte of a head is buffered.
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    fn advance(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Head>, Rejection> {
        let before = self.gathered.len();
        let arrived = before + bytes.len();
        let allowed = limits.max_bytes.saturating_sub(before).min(bytes.len());
        let bytes = &bytes[..allowed];
        if before > 0 {
            self.gather(bytes, limits.max_bytes);
        }
        let head = if before > 0 { &self.gathered } else { bytes };
        match self.part.find_end(head, before)? {
            Some(end) => {
                let request = complete(&head[..end], limits)?;
                Ok(Some(Head { request, len: end, used: end - before }))
            }
            None if arrived > limits.max_bytes => Err(Rejection::HeadTooLarge),
            None => {
                if before == 0 {
                    self.gather(bytes, limits.max_bytes);
                }
                Ok(None)
            }
        }
    }

    /// Doubles the buffer as `Vec` does, but not beyond `max`.
    fn gather(&mut self, bytes: &[u8], max: usize) {
        let len = self.gathered.len() + bytes.len();
        if len > self.gathered.capacity() {
            let capacity = len.max(max.min(2 * self.gathered.capacity()));
            self.gathered.reserve_exact(capacity - self.gathered.len());
        }
        self.gathered.extend_from_slice(bytes);
    }
}

/// A complete request head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) request: Request,
    /// Length of the head in bytes.
    pub(crate) len: usize,
    /// How many of the bytes pushed last belong to the head.
    pub(crate) used: usize,
}

/// A request that satisfies RFC 6455 §4.2.1 and the origin policy.
#[derive(Debug)]
pub(crate) struct Opening {
    /// The value of `Sec-WebSocket-Accept`.
    accept: String,
    /// The client's subprotocols in its order of preference.
    pub(crate) offered: Vec<String>,
}

/// Whether the request asks for a WebSocket (RFC 6455 §4.2.1, 3), valid or not. Without this token
/// it is plain HTTP.
pub(crate) fn is_upgrade(request: &Request) -> bool {
    has_token(request, header::UPGRADE, "websocket")
}

/// Checks that the request may become a WebSocket, as far as RFC 6455 and the origin policy say.
/// The application decides the rest.
pub(crate) fn check(request: &Request, origins: &OriginPolicy) -> Result<Opening, Rejection> {
    let key = opening_key(request)?;
    if !origin::is_allowed(request, origins) {
        return Err(Rejection::OriginForbidden);
    }
    let accept =
        accept_key(key).ok_or(Rejection::BadRequest("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    Ok(Opening { accept, offered: offered(request)? })
}

/// The rejection of a request behind which data arrived early: a client has to wait for the
/// response before it sends any further data (RFC 6455 §4.1).
pub(crate) fn early_data(request: &Request, origins: &OriginPolicy) -> Rejection {
    // Other faults of the request come first, so that the response does not depend on whether the
    // data arrived with the request or a moment later.
    check(request, origins).err().unwrap_or(Rejection::JunkAfterRequest)
}

/// The first of the server's subprotocols that the client offers (RFC 6455 §4.2.2, 4).
pub(crate) fn choose<'s>(offered: &[String], supported: &'s [String]) -> Option<&'s str> {
    supported.iter().find(|name| offered.contains(name)).map(String::as_str)
}

/// Which part of the head the next byte belongs to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Empty lines before the request line, which a server should ignore (RFC 9112 §2.2).
    #[default]
    Blank,
    RequestLine,
    Fields,
}

impl Part {
    /// Searches `head[from..]` for the empty line; `Some` is the length of the whole head. Rejects
    /// bytes that cannot be a request without waiting for the end.
    fn find_end(&mut self, head: &[u8], from: usize) -> Result<Option<usize>, Rejection> {
        let mut next = from;
        while let Some(&byte) = head.get(next) {
            if *self == Part::Blank && byte == b'\r' {
                next += 1;
                continue;
            }
            if *self == Part::Blank && byte != b'\n' {
                // Rejects a TLS ClientHello, NULs and other binary protocols.
                if !is_token(byte) {
                    return Err(Rejection::BadRequest(
                        "this is not an HTTP request: is it TLS to a port without TLS?",
                    ));
                }
                *self = Part::RequestLine;
            }
            let Some(len) = head[next..].iter().position(|&byte| byte == b'\n') else { break };
            let at = next + len;
            next = at + 1;
            // RFC 9112 §2.2 allows a bare LF as the end of a line, and httparse accepts it; where a
            // proxy does not, a request could be smuggled past it.
            if !head[..at].ends_with(b"\r") {
                return Err(Rejection::BadRequest("lines must end with CRLF"));
            }
            match *self {
                Part::Blank => {}
                Part::RequestLine => {
                    // Clients of SSH, SMTP, HTTP/0.9 and HTTP/2 send one line and wait for a
                    // response.
                    if let Err(error) = httparse::Request::new(&mut []).parse(&head[..=at]) {
                        return Err(rejection_of(error.into()));
                    }
                    *self = Part::Fields;
                }
                Part::Fields if head[..at].ends_with(b"\n\r") => return Ok(Some(at + 1)),
                Part::Fields => {}
            }
        }
        Ok(None)
    }
}

/// Whether the byte may stand in a token (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn complete(head: &[u8], limits: HeadLimits) -> Result<Request, Rejection> {
    let request = parse(head)?;
    if request.headers().len() > limits.max_headers {
        return Err(Rejection::TooManyHeaders);
    }
    Ok(request)
}

/// The largest `max_headers` that the configuration allows.
const MAX_HEADERS: usize = 256;

/// Parses a head of any method and of HTTP/1.0 too, so that those get a response.
///
/// tungstenite's handshake machine cannot do this: it accepts only GET, treats more than 64 packets
/// below 128 bytes as an attack, drops the stream with its error, so that no response can be sent,
/// and copies the head.
fn parse(head: &[u8]) -> Result<Request, Rejection> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut raw = httparse::Request::new(&mut []);
    match raw.parse_with_uninit_headers(head, &mut slots) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => request(&raw).map_err(rejection_of),
        // httparse found the end of the head elsewhere than `find_end`: an ambiguous head is
        // rejected.
        Ok(_) => Err(Rejection::JunkAfterRequest),
        Err(error) => Err(rejection_of(error.into())),
    }
}

fn request(raw: &httparse::Request<'_, '_>) -> tungstenite::Result<Request> {
    let mut headers = HeaderMap::with_capacity(raw.headers.len());
    for field in raw.headers.iter() {
        headers.append(HeaderName::from_bytes(field.name.as_bytes())?, HeaderValue::from_bytes(field.value)?);
    }
    let mut request = Request::new(());
    *request.method_mut() = raw.method.unwrap_or_default().parse::<Method>().map_err(http::Error::from)?;
    *request.uri_mut() = raw.path.unwrap_or_default().parse()?;
    *request.version_mut() = if raw.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    *request.headers_mut() = headers;
    Ok(request)
}

/// Maps all errors of tungstenite and httparse to rejections.
fn rejection_of(error: Error) -> Rejection {
    match error {
        Error::Capacity(CapacityError::TooManyHeaders) => Rejection::TooManyHeaders,
        Error::AttackAttempt => Rejection::HeadTooLarge,
        Error::Protocol(ProtocolError::HttparseError(error)) => Rejection::BadRequest(match error {
            httparse::Error::Version => "only HTTP/1.1 is supported",
            httparse::Error::Token => "the request line is malformed",
            httparse::Error::HeaderName => "a header name is malformed",
            httparse::Error::HeaderValue => "a header value is malformed",
            _ => "the request head is malformed",
        }),
        _ => Rejection::BadRequest("the request head is malformed"),
    }
}

/// Checks the request against RFC 6455 §4.2.1 and returns its key.
fn opening_key(request: &Request) -> Result<&HeaderValue, Rejection> {
    // §4.2.1, 1: an HTTP/1.1 or higher GET request.
    if request.version() != Version::HTTP_11 {
        return Err(Rejection::BadRequest("a WebSocket handshake needs HTTP/1.1"));
    }
    // §4.2.1, 2: a Host header field.
    check_host(request)?;
    match *request.method() {
        Method::GET => {}
        // RFC 9110 §9.3.2: the response to a GET, but without its content.
        Method::HEAD => return Err(Rejection::UpgradeRequiredNoBody),
        _ => return Err(Rejection::MethodNotAllowed),
    }
    // RFC 9112 §6.3: a body would be read as WebSocket frames here, and as a body by a proxy.
    let has_body = request.headers().get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    if has_body || request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Err(Rejection::BadRequest("a WebSocket handshake must not have a body"));
    }
    // §4.1, 1 of the request: a path, or an absolute URI.
    if !request.uri().path().starts_with('/') {
        return Err(Rejection::BadRequest("the request target must be a path or a URI"));
    }
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

/// RFC 9112 §3.2: a request that lacks Host, or has several or an invalid one, gets a 400.
pub(crate) fn check_host(request: &Request) -> Result<(), Rejection> {
    let host = single(request, header::HOST).and_then(|host| host.to_str().ok());
    match host.and_then(origin::Authority::parse) {
        Some(_) => Ok(()),
        None => Err(Rejection::BadRequest("send one Host header: host or host:port")),
    }
}

/// The most subprotocols that a client may offer. Each is compared with all others, so a head full
/// of short names would delay the other clients.
const MAX_OFFERED: usize = 100;

/// The offered subprotocols, over one header line or several. RFC 6455 §4.1, 10: distinct tokens.
fn offered(request: &Request) -> Result<Vec<String>, Rejection> {
    let mut offered = Vec::new();
    for item in list(request, header::SEC_WEBSOCKET_PROTOCOL) {
        // RFC 9110 §5.6.1.2: a recipient ignores empty elements.
        if item.is_empty() {
            continue;
        }
        let name = String::from_utf8_lossy(item).into_owned();
        if !item.iter().copied().all(is_token) || offered.contains(&name) || offered.len() == MAX_OFFERED {
            return Err(Rejection::BadRequest(
                "Sec-WebSocket-Protocol must list distinct tokens, 100 at most",
            ));
        }
        offered.push(name);
    }
    Ok(offered)
}

/// The value of the header if exactly one line has this name.
pub(crate) fn single(request: &Request, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = request.headers().get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The elements of a list (RFC 9110 §5.6.1), over one header line or several.
fn list(request: &Request, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = request.headers().get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// Whether a list contains this token, compared without case.
pub(crate) fn has_token(request: &Request, name: HeaderName, token: &str) -> bool {
    list(request, name).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// RFC 6455 §4.2.2, 5: the value of `Sec-WebSocket-Accept` for this key; `None` if the key is not
/// 16 bytes in base64.
fn accept_key(key: &HeaderValue) -> Option<String> {
    let mut nonce = [0; 18];
    let is_nonce = key.len() == 24 && BASE64.decode_mut(key.as_bytes(), &mut nonce) == Ok(16);
    is_nonce.then(|| derive_accept_key(key.as_bytes()))
}

impl Opening {
    /// The bytes of the 101 response (RFC 6455 §4.2.2, 5), with `headers` besides those of the
    /// handshake. Fails if a value is not ASCII.
    pub(crate) fn accept(self, headers: &HeaderMap) -> Result<Vec<u8>, ToStrError> {
        let mut bytes = Vec::with_capacity(160);
        bytes.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n",
        );
        let mut field = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                bytes.extend_from_slice(part.as_bytes());
            }
        };
        field("sec-websocket-accept", &self.accept);
        for (name, value) in headers {
            field(name.as_str(), value.to_str()?);
        }
        bytes.extend_from_slice(b"\r\n");
        Ok(bytes)
    }
}
