//! The head of a request (RFC 9112 §2 to §5): collected from bytes split anywhere, then parsed.

#![allow(
    clippy::indexing_slicing,
    reason = "`allowed`, `at` and `end` were found in the bytes that they cut"
)]

use std::mem::MaybeUninit;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version};
use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;

use crate::{
    http1::{
        head_machine::{HeadMachine, is_complete},
        proxy_protocol::ProxyHeaderReader,
        rejection::Rejection,
    },
    util::{authority::Authority, http_syntax::is_token_byte},
};

/// Method, target, version and headers of a request.
pub(crate) type RequestHead = http::Request<()>;

/// Limits of a request head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Bytes from the first one to the empty line, both included.
    pub(crate) max_bytes: usize,
    pub(crate) max_headers: usize,
}

/// Collects a request head from pieces that are split anywhere, and parses it with tungstenite's
/// handshake machine.
///
/// Owns no memory before the first byte and after the head is complete or rejected; the machine is
/// kept across polls meanwhile. The end of the head is searched before anything is parsed, and each
/// byte is examined once, so that a head that arrives byte by byte costs O(n) too.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    machine: Option<Box<HeadMachine>>,
    part: Part,
    /// The request that was rejected is a HEAD.
    is_head: bool,
    /// A header of the PROXY protocol that must precede the first request.
    pub(crate) proxy_header: Option<Box<ProxyHeaderReader>>,
}

impl HeadReader {
    /// For a connection that begins with a header of the PROXY protocol.
    pub(crate) fn behind_proxy_header() -> Self {
        HeadReader { proxy_header: Some(Box::default()), ..HeadReader::default() }
    }

    /// Takes newly read bytes, up to the end of the head. `Ok(None)`: all of `bytes` were taken,
    /// and the head is not complete.
    ///
    /// # Errors
    /// Returned as soon as the bytes cannot become a request or exceed a limit. The rejection does
    /// not depend on how the head was split.
    pub(crate) fn push(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Head>, Rejection> {
        let outcome = self.advance(bytes, limits);
        if !matches!(outcome, Ok(None)) {
            let unparsed = self.machine.as_ref().is_some_and(|machine| is_head(machine.bytes()));
            let is_head = outcome.is_err() && (self.is_head || unparsed);
            *self = HeadReader { is_head, ..HeadReader::default() };
        }
        outcome
    }

    /// Whether the last request, which `push` has rejected, is a HEAD.
    pub(crate) fn rejected_head(&self) -> bool {
        self.is_head
    }

    /// Memory held for an incomplete head, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let header = self.proxy_header.as_ref().map_or(0, |header| header.memory());
        header + self.machine.as_ref().map_or(0, |machine| machine.memory())
    }

    /// Number of buffered bytes of an incomplete head.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn buffered(&self) -> usize {
        self.machine.as_ref().map_or(0, |machine| machine.bytes().len())
    }

    /// Whether no byte of a head is buffered.
    pub(crate) fn is_empty(&self) -> bool {
        self.machine.is_none()
    }

    fn advance(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Head>, Rejection> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let machine = self.machine.get_or_insert_with(|| Box::new(HeadMachine::new()));
        let before = machine.bytes().len();
        let arrived = before + bytes.len();
        let allowed = limits.max_bytes.saturating_sub(before).min(bytes.len());
        machine.push(&bytes[..allowed], limits.max_bytes);
        match self.part.find_end(machine.bytes(), before)? {
            Some(end) => {
                self.is_head = is_head(machine.bytes());
                let Parsed(request) = machine.finish(end).map_err(rejection_of)?;
                let request = request?;
                if request.headers().len() > limits.max_headers {
                    return Err(Rejection::TooManyHeaders);
                }
                Ok(Some(Head { request, len: end, used: end - before }))
            }
            None if arrived > limits.max_bytes => Err(Rejection::HeadTooLarge),
            None => {
                machine.advance::<Parsed>().map_err(rejection_of)?;
                Ok(None)
            }
        }
    }
}

/// Whether the bytes begin a request with the method HEAD, behind empty lines.
fn is_head(bytes: &[u8]) -> bool {
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    bytes.get(blank..).is_some_and(|request| request.starts_with(b"HEAD "))
}

/// The head of a request as the handshake machine parses it: our own rejection is not an error of
/// the machine, which would drop it.
struct Parsed(Result<RequestHead, Rejection>);

impl TryParse for Parsed {
    fn try_parse(data: &[u8]) -> tungstenite::Result<Option<(usize, Self)>> {
        Ok(is_complete(data).then(|| (data.len(), Parsed(parse(data)))))
    }
}

/// A complete request head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) request: RequestHead,
    /// Length of the head in bytes.
    pub(crate) len: usize,
    /// How many of the bytes pushed last belong to the head.
    pub(crate) used: usize,
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
                if !is_token_byte(byte) {
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

/// The largest `max_headers` that the configuration allows.
const MAX_HEADERS: usize = 256;

/// Parses a head of any method and of HTTP/1.0 too, so that those get a response.
fn parse(head: &[u8]) -> Result<RequestHead, Rejection> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut raw = httparse::Request::new(&mut []);
    match raw.parse_with_uninit_headers(head, &mut slots) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => request(&raw),
        // httparse found the end of the head elsewhere than `find_end`: an ambiguous head is
        // rejected.
        Ok(_) => Err(Rejection::JunkAfterRequest),
        Err(error) => Err(rejection_of(error.into())),
    }
}

fn request(raw: &httparse::Request<'_, '_>) -> Result<RequestHead, Rejection> {
    let target = raw.path.unwrap_or_default();
    // RFC 9112 §3.2: a request target has no fragment. `Uri` would drop it.
    if target.contains('#') {
        return Err(Rejection::BadRequest("the request target must not have a fragment (#)"));
    }
    parts(raw, target).map_err(rejection_of)
}

fn parts(raw: &httparse::Request<'_, '_>, target: &str) -> tungstenite::Result<RequestHead> {
    let mut headers = HeaderMap::with_capacity(raw.headers.len());
    for field in raw.headers.iter() {
        headers.append(HeaderName::from_bytes(field.name.as_bytes())?, HeaderValue::from_bytes(field.value)?);
    }
    let mut request = RequestHead::new(());
    *request.method_mut() = raw.method.unwrap_or_default().parse::<Method>().map_err(http::Error::from)?;
    *request.uri_mut() = target.parse()?;
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

/// The head of a request to open a WebSocket, of which these parts are known.
pub(crate) fn upgrade_request(target: Uri, headers: HeaderMap) -> RequestHead {
    let mut request = RequestHead::new(());
    *request.uri_mut() = target;
    *request.headers_mut() = headers;
    request
}

/// RFC 9112 §3.2: a request that lacks Host, or has several or an invalid one, gets a 400.
pub(crate) fn check_host(request: &RequestHead) -> Result<(), Rejection> {
    let host = single(request, header::HOST).and_then(|host| host.to_str().ok());
    match host.and_then(Authority::parse) {
        Some(_) => Ok(()),
        None => Err(Rejection::BadRequest("send one Host header: host or host:port")),
    }
}

/// RFC 9112 §3.2: the target of a request is a path, or an absolute URI as clients send it to a
/// proxy. RFC 9110 §7.4: its scheme must be one of this server.
pub(crate) fn check_target(request: &RequestHead) -> Result<(), Rejection> {
    let target = request.uri();
    if !target.path().starts_with('/') || (target.authority().is_some() && target.scheme().is_none()) {
        return Err(Rejection::BadRequest("the request target must be a path or a URI"));
    }
    // `Scheme` is in lower case for the well-known schemes only.
    let is_ours =
        |scheme: &str| ["http", "https", "ws", "wss"].iter().any(|own| scheme.eq_ignore_ascii_case(own));
    if target.scheme_str().is_some_and(|scheme| !is_ours(scheme)) {
        return Err(Rejection::BadRequest("the scheme of the request target must be http or https"));
    }
    Ok(())
}

/// The value of the header if exactly one line has this name.
pub(crate) fn single(request: &RequestHead, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = request.headers().get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The elements of a list (RFC 9110 §5.6.1), over one header line or several.
#[inline]
pub(crate) fn list(request: &RequestHead, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = request.headers().get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// Whether a list contains this token, compared without case.
pub(crate) fn has_token(request: &RequestHead, name: HeaderName, token: &str) -> bool {
    list(request, name).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}
