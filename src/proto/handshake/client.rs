//! The client's side of the opening handshake (RFC 6455 §4.1): a request out, then bytes in until the
//! response is judged.
//!
//! Sans-IO, as the server's side: [`ask`] writes the request, a [`ResponseReader`] gathers the answer to it.

#![allow(
    clippy::indexing_slicing,
    reason = "`used` is at most the bytes given, and what cuts the body was found in it"
)]

use data_encoding::BASE64;
use tungstenite::{
    handshake::derive_accept_key,
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version, header,
        uri::{PathAndQuery, Scheme},
    },
};

use super::{HeadLimits, Request};
use crate::error::{ConnectError, Refusal};

/// What is asked for, and where.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    /// The `Host` header: without the default port.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a PathAndQuery,
    /// Besides the handshake's own.
    pub(crate) headers: HeaderMap,
    pub(crate) subprotocols: &'a [String],
    /// What is offered in `Sec-WebSocket-Extensions`. Whether the answer fits it is not looked at here.
    pub(crate) extensions: Option<HeaderValue>,
    /// RFC 6455 §4.1, 7: random, and another one for each connection.
    pub(crate) nonce: [u8; 16],
}

/// The request, its bytes, and what takes the answer.
pub(crate) fn ask(asking: Asking<'_>) -> Result<(Request, Vec<u8>, ResponseReader), ConnectError> {
    let Asking { authority, path, headers: others, subprotocols, extensions, nonce } = asking;
    let key = BASE64.encode(&nonce);
    let malformed = || ConnectError::Url("its host is malformed");
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| malformed());
    let mut headers = HeaderMap::with_capacity(6 + others.len());
    headers.insert(header::HOST, value(authority)?);
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(header::SEC_WEBSOCKET_KEY, value(&key)?);
    if !subprotocols.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value(&subprotocols.join(", "))?);
    }
    let offers = extensions.is_some();
    if let Some(extensions) = extensions {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extensions);
    }
    headers.extend(others);

    let mut bytes = format!("GET {path} HTTP/1.1\r\n").into_bytes();
    for (name, value) in &headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        // A `HeaderValue` has no line breaks.
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");

    let mut request = Request::new(());
    let scheme = Scheme::try_from("ws").map_err(|_| malformed())?;
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path.clone());
    *request.uri_mut() = uri.build().map_err(|_| malformed())?;
    *request.headers_mut() = headers;
    let accept = derive_accept_key(key.as_bytes());
    let offered = subprotocols.iter().map(|name| name.as_str().into()).collect();
    Ok((
        request,
        bytes,
        ResponseReader { accept, offered, offers, gathered: Vec::new(), seen: 0, refused: None },
    ))
}

/// Gathers the response from bytes split anywhere, and holds it against what was asked for.
///
/// A byte is looked at once. Holds no more than the limit of a head, and the beginning of the body of a
/// refusal.
#[derive(Debug)]
pub(crate) struct ResponseReader {
    /// What `Sec-WebSocket-Accept` has to say.
    accept: String,
    offered: Box<[Box<str>]>,
    /// Extensions were offered, too.
    offers: bool,
    /// The head; behind a head that refuses, its body.
    gathered: Vec<u8>,
    /// Bytes of earlier responses (1xx) that count for the limit, too.
    seen: usize,
    refused: Option<Refused>,
}

/// A refusal whose body is arriving.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    headers: HeaderMap,
    chunked: bool,
    /// How much of the body there is to come, at most [`ResponseReader::MAX_BODY`].
    len: usize,
}

/// The handshake is over, and a WebSocket it is.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) response: Response<()>,
    pub(crate) subprotocol: Option<Box<str>>,
    /// How many of the bytes that were pushed last belong to the response; what follows are frames.
    pub(crate) used: usize,
}

impl ResponseReader {
    /// How much of the body of a refusal is gathered.
    const MAX_BODY: usize = 1024;

    /// `HeadLimits::max_headers` may be no more than this.
    const MAX_HEADERS: usize = 256;

    /// Takes what was newly read from the socket. `Ok(None)`: all of it was taken, and more is needed.
    ///
    /// # Errors
    /// As soon as the response cannot become a good one, but for a refusal's body. The answer is the same however
    /// it was split.
    pub(crate) fn push(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Opened>, ConnectError> {
        let mut used = 0;
        while self.refused.is_none() && used < bytes.len() {
            let (taken, complete) = self.gather(&bytes[used..], limits)?;
            used += taken;
            if complete {
                let head = std::mem::take(&mut self.gathered);
                let response = parse(&head, limits)?;
                match response.status() {
                    StatusCode::SWITCHING_PROTOCOLS => {
                        let subprotocol = self.check(&response)?;
                        return Ok(Some(Opened { response, subprotocol, used }));
                    }
                    // RFC 9110 §15.2: a client reads on over any number of these.
                    status if status.is_informational() => self.seen += head.len(),
                    _ => self.refused = Some(refused(response)?),
                }
            }
        }
        if self.refused.is_some() {
            let room = (2 * Self::MAX_BODY).saturating_sub(self.gathered.len());
            self.gathered.extend(&bytes[used..][..(bytes.len() - used).min(room)]);
            if self.body_is_complete() {
                return Err(self.end());
            }
        }
        Ok(None)
    }

    /// Nothing more comes: the server has hung up, or the deadline has passed.
    pub(crate) fn end(&mut self) -> ConnectError {
        let Some(Refused { status, headers, chunked, len }) = self.refused.take() else {
            return ConnectError::HungUp;
        };
        let mut body = std::mem::take(&mut self.gathered);
        if chunked {
            body = unchunked(&body).0;
        }
        body.truncate(len);
        ConnectError::Refused(Box::new(Refusal { status, headers, body: body.into() }))
    }

    /// Whether the head of a refusal has arrived.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Memory of what has arrived, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.gathered.capacity()
    }

    /// Takes bytes up to the end of a head. Gives how many, and whether it is complete.
    fn gather(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<(usize, bool), ConnectError> {
        const START: &[u8] = b"HTTP/1.1 ";
        for (at, &byte) in bytes.iter().enumerate() {
            let place = self.gathered.len();
            // Another protocol, an older HTTP: told from the first byte that is wrong.
            if START.get(place).is_some_and(|expected| *expected != byte) {
                return Err(ConnectError::BadResponse("it is no HTTP/1.1: is this the right port?"));
            }
            if self.seen + place >= limits.max_bytes {
                return Err(ConnectError::BadResponse("its head is too long"));
            }
            self.gathered.push(byte);
            if byte != b'\n' {
                continue;
            }
            // As on the server's side: what two parsers could read in two ways is refused.
            if !self.gathered.ends_with(b"\r\n") {
                return Err(ConnectError::BadResponse("its lines must end with CRLF"));
            }
            if self.gathered.ends_with(b"\r\n\r\n") {
                return Ok((at + 1, true));
            }
        }
        Ok((bytes.len(), false))
    }

    /// RFC 6455 §4.1, what the client must check of a 101. Gives the subprotocol.
    fn check(&self, response: &Response<()>) -> Result<Option<Box<str>>, ConnectError> {
        // 2: this protocol, and no other beside it.
        let upgrades = || items(response, header::UPGRADE);
        if upgrades().next().is_none() || !upgrades().all(|item| item.eq_ignore_ascii_case(b"websocket")) {
            return Err(ConnectError::BadResponse("Upgrade must be websocket"));
        }
        // 3.
        if !items(response, header::CONNECTION).any(|item| item.eq_ignore_ascii_case(b"upgrade")) {
            return Err(ConnectError::BadResponse("Connection must contain upgrade"));
        }
        // 4: that it has read our key, and is no cache.
        if single(response, header::SEC_WEBSOCKET_ACCEPT).is_none_or(|accept| *accept != *self.accept) {
            return Err(ConnectError::BadResponse("Sec-WebSocket-Accept does not fit the key"));
        }
        // 5: none was asked for.
        if !self.offers && response.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
            return Err(ConnectError::BadResponse("it has an extension that was not asked for"));
        }
        // 6.
        if !response.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
            return Ok(None);
        }
        let chosen = single(response, header::SEC_WEBSOCKET_PROTOCOL);
        let chosen = self.offered.iter().find(|name| chosen.is_some_and(|chosen| *chosen == ***name));
        let not_offered = ConnectError::BadResponse("it has a subprotocol that was not offered");
        chosen.map(|name| Some(name.clone())).ok_or(not_offered)
    }

    fn body_is_complete(&self) -> bool {
        let Some(refused) = &self.refused else { return false };
        if refused.chunked {
            let (body, complete) = unchunked(&self.gathered);
            return complete || body.len() >= refused.len || self.gathered.len() >= 2 * Self::MAX_BODY;
        }
        self.gathered.len() >= refused.len
    }
}

/// A head that ends with an empty line.
fn parse(head: &[u8], limits: HeadLimits) -> Result<Response<()>, ConnectError> {
    let mut slots = [httparse::EMPTY_HEADER; ResponseReader::MAX_HEADERS];
    let slots = &mut slots[..limits.max_headers.min(ResponseReader::MAX_HEADERS)];
    let mut raw = httparse::Response::new(slots);
    let malformed = || ConnectError::BadResponse("its head is malformed");
    match raw.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(ConnectError::BadResponse("it has too many headers"));
        }
        // Only if another parser saw the end elsewhere: refuse what can be read in two ways.
        _ => return Err(malformed()),
    }
    let mut response = Response::new(());
    let status = raw.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(malformed)?;
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_11;
    for field in raw.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed())?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| malformed())?;
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

/// A response that is no 101. A redirect is told at once, the rest when its body is there.
fn refused(response: Response<()>) -> Result<Refused, ConnectError> {
    let status = response.status();
    let (parts, ()) = response.into_parts();
    let headers = parts.headers;
    if status.is_redirection()
        && let Some(location) = headers.get(header::LOCATION)
    {
        let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
        return Err(ConnectError::Redirect { status, location });
    }
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let len = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
    // RFC 9110 §15.3.5, §15.4.5: these have no body.
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let len = if bodiless { 0 } else { len.filter(|_| !chunked).unwrap_or(usize::MAX) };
    Ok(Refused { status, headers, chunked, len: len.min(ResponseReader::MAX_BODY) })
}

/// The content of a chunked body (RFC 9112 §7.1) as far as it is there, and whether it is complete. What is
/// malformed ends it.
fn unchunked(mut body: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((start, len))) = httparse::parse_chunk_size(body) else {
            return (content, false);
        };
        body = &body[start..];
        if len == 0 {
            return (content, true);
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        content.extend_from_slice(&body[..len.min(body.len())]);
        let Some(rest) = body.get(len.saturating_add(2)..) else { return (content, false) };
        body = rest;
    }
}

/// The elements of a header that is a list.
fn items(response: &Response<()>, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = response.headers().get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// The header's value if there is exactly one.
fn single(response: &Response<()>, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = response.headers().get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
