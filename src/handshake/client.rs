//! The client's side of the opening handshake (RFC 6455 §4.1): a request to send, then received
//! bytes until the response is accepted or not.
//!
//! Sans-IO, like the server's side: [`ask`] writes the request, a [`ResponseReader`] collects the
//! response to it.

#![allow(
    clippy::indexing_slicing,
    reason = "`used` is at most the bytes given, and the places where the body is cut were found in it"
)]

use data_encoding::BASE64;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use tungstenite::handshake::{client::generate_request, derive_accept_key, machine::TryParse};

use crate::{
    error::{ConnectError, Refusal},
    http1::{
        head::{HeadLimits, RequestHead},
        head_machine::{HeadMachine, is_complete},
    },
    util::http_syntax::canonicalize,
};

/// Content of a request.
#[derive(Debug)]
pub(crate) struct RequestParts<'a> {
    /// Value of the `Host` header: without the default port.
    pub(crate) authority: &'a str,
    pub(crate) path: &'a PathAndQuery,
    /// Headers besides those of the handshake.
    pub(crate) headers: HeaderMap,
    pub(crate) subprotocols: &'a [String],
    /// Value of `Sec-WebSocket-Extensions`. The caller checks whether the response fits it.
    pub(crate) extensions: Option<HeaderValue>,
    /// RFC 6455 §4.1, 7: a random nonce, selected anew for each connection.
    pub(crate) nonce: [u8; 16],
}

/// Makes a request: as a value, as bytes to send, and the reader of the response to it.
pub(crate) fn ask(asking: RequestParts<'_>) -> Result<(RequestHead, Vec<u8>, ResponseReader), ConnectError> {
    let RequestParts { authority, path, headers: others, subprotocols, extensions, nonce } = asking;
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

    let mut request = RequestHead::new(());
    let scheme = Scheme::try_from("ws").map_err(|_| malformed())?;
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path.clone());
    *request.uri_mut() = uri.build().map_err(|_| malformed())?;
    *request.headers_mut() = headers;
    let (mut bytes, key) = generate_request(request.clone()).map_err(|_| malformed())?;
    canonicalize_fields(&mut bytes);
    let accept = derive_accept_key(key.as_bytes());
    let offered = subprotocols.iter().map(|name| name.as_str().into()).collect();
    Ok((
        request,
        bytes,
        ResponseReader { accept, offered, offers, head: None, body: Vec::new(), seen: 0, refused: None },
    ))
}

/// Writes the field names of a request head in their usual case.
fn canonicalize_fields(head: &mut [u8]) {
    for line in head.split_mut(|byte| *byte == b'\n').skip(1) {
        if let Some(name) = line.split_mut(|byte| *byte == b':').next() {
            name.make_ascii_lowercase();
            canonicalize(name);
        }
    }
}

/// Collects the response from pieces that are split anywhere, parses it with tungstenite's
/// handshake machine, and checks it against the request.
///
/// Each byte is examined once. Holds no more than the limit of a head, the machine's buffers, and
/// the beginning of the body of a refusal.
#[derive(Debug)]
pub(crate) struct ResponseReader {
    /// The required value of `Sec-WebSocket-Accept`.
    accept: String,
    offered: Box<[Box<str>]>,
    /// Whether extensions were offered.
    offers: bool,
    /// The head so far.
    head: Option<Box<HeadMachine>>,
    /// After the head of a refusal, its body so far.
    body: Vec<u8>,
    /// Bytes of earlier interim responses (1xx), which count for the limit of the head too.
    seen: usize,
    refused: Option<Refused>,
}

/// A refusal (a final response other than 101) whose body is arriving.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    headers: HeaderMap,
    chunked: bool,
    /// Length of the body in bytes, at most [`ResponseReader::MAX_BODY`].
    len: usize,
}

/// A successful handshake.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) response: Response<()>,
    pub(crate) subprotocol: Option<Box<str>>,
    /// How many of the bytes pushed last belong to the response; those behind it are frames.
    pub(crate) used: usize,
}

impl ResponseReader {
    /// How many bytes of the body of a refusal are kept.
    const MAX_BODY: usize = 1024;

    /// Upper limit of `HeadLimits::max_headers`.
    const MAX_HEADERS: usize = 256;

    /// Takes newly read bytes. `Ok(None)`: all of them were taken, and more are needed.
    ///
    /// # Errors
    /// Returned as soon as the response cannot be a valid one; a refusal is returned when its body
    /// has arrived. The error does not depend on how the response was split.
    pub(crate) fn push(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Opened>, ConnectError> {
        let mut used = 0;
        while self.refused.is_none() && used < bytes.len() {
            let (taken, end) = self.gather(&bytes[used..], limits)?;
            used += taken;
            if let Some(len) = end
                && let Some(mut machine) = self.head.take()
            {
                let Parsed(response) = machine.finish(len).map_err(|_| malformed())?;
                let response = response?;
                if response.headers().len() > limits.max_headers {
                    return Err(ConnectError::BadResponse("it has too many headers"));
                }
                match response.status() {
                    StatusCode::SWITCHING_PROTOCOLS => {
                        let subprotocol = self.check(&response)?;
                        return Ok(Some(Opened { response, subprotocol, used }));
                    }
                    // RFC 9110 §15.2: a client must be able to parse interim responses before the
                    // final one.
                    status if status.is_informational() => self.seen += len,
                    _ => self.refused = Some(refused(response)?),
                }
            }
        }
        if self.refused.is_some() {
            let room = (2 * Self::MAX_BODY).saturating_sub(self.body.len());
            self.body.extend(&bytes[used..][..(bytes.len() - used).min(room)]);
            if self.body_is_complete() {
                return Err(self.end());
            }
        }
        Ok(None)
    }

    /// Ends the response, because the server has closed the connection or the deadline has passed.
    pub(crate) fn end(&mut self) -> ConnectError {
        let Some(Refused { status, headers, chunked, len }) = self.refused.take() else {
            return ConnectError::HungUp;
        };
        let mut body = std::mem::take(&mut self.body);
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

    /// Memory held for the response, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.memory()) + self.body.capacity()
    }

    /// Takes bytes up to the end of a head. Returns how many, and the length of the head if it is
    /// complete.
    fn gather(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<(usize, Option<usize>), ConnectError> {
        let machine = self.head.get_or_insert_with(|| Box::new(HeadMachine::new()));
        let before = machine.bytes().len();
        let allowed = limits.max_bytes.saturating_sub(self.seen + before).min(bytes.len());
        machine.push(&bytes[..allowed], limits.max_bytes);
        if let Some(end) = find_end(machine.bytes(), before)? {
            return Ok((end - before, Some(end)));
        }
        if allowed < bytes.len() {
            return Err(ConnectError::BadResponse("its head is too long"));
        }
        machine.advance::<Parsed>().map_err(|_| malformed())?;
        Ok((bytes.len(), None))
    }

    /// Applies the numbered checks that RFC 6455 §4.1 requires of a 101. Returns the subprotocol.
    fn check(&self, response: &Response<()>) -> Result<Option<Box<str>>, ConnectError> {
        // 2: Upgrade is "websocket", and no other protocol beside it.
        let upgrades = || items(response, header::UPGRADE);
        if upgrades().next().is_none() || !upgrades().all(|item| item.eq_ignore_ascii_case(b"websocket")) {
            return Err(ConnectError::BadResponse("Upgrade must be websocket"));
        }
        // 3: Connection contains "upgrade".
        if !items(response, header::CONNECTION).any(|item| item.eq_ignore_ascii_case(b"upgrade")) {
            return Err(ConnectError::BadResponse("Connection must contain upgrade"));
        }
        // 4: Sec-WebSocket-Accept proves that the server has read the key.
        if single(response, header::SEC_WEBSOCKET_ACCEPT).is_none_or(|accept| *accept != *self.accept) {
            return Err(ConnectError::BadResponse("Sec-WebSocket-Accept does not match the key"));
        }
        // 5: no extension that was not offered. The caller checks extensions that were.
        // An empty list names none.
        if !self.offers && items(response, header::SEC_WEBSOCKET_EXTENSIONS).any(|item| !item.is_empty()) {
            return Err(ConnectError::BadResponse("it has an extension that was not offered"));
        }
        // 6: no subprotocol that was not offered.
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
            let (body, complete) = unchunked(&self.body);
            return complete || body.len() >= refused.len || self.body.len() >= 2 * Self::MAX_BODY;
        }
        self.body.len() >= refused.len
    }
}

/// The length of the head of which `bytes[from..]` is new; `None` if it is not complete. Another
/// protocol or an older HTTP is reported at its first byte that differs.
fn find_end(bytes: &[u8], from: usize) -> Result<Option<usize>, ConnectError> {
    const START: &[u8] = b"HTTP/1.1 ";
    if START.iter().zip(bytes).any(|(expected, byte)| expected != byte) {
        return Err(ConnectError::BadResponse("it is not HTTP/1.1: is this the right port?"));
    }
    let mut next = from;
    while let Some(len) = bytes[next..].iter().position(|&byte| byte == b'\n') {
        next += len + 1;
        // As on the server's side, a head that two parsers could read in different ways is
        // rejected.
        if !bytes[..next].ends_with(b"\r\n") {
            return Err(ConnectError::BadResponse("its lines must end with CRLF"));
        }
        if bytes[..next].ends_with(b"\r\n\r\n") {
            return Ok(Some(next));
        }
    }
    Ok(None)
}

fn malformed() -> ConnectError {
    ConnectError::BadResponse("its head is malformed")
}

/// The head of a response as the handshake machine parses it.
struct Parsed(Result<Response<()>, ConnectError>);

impl TryParse for Parsed {
    fn try_parse(data: &[u8]) -> tungstenite::Result<Option<(usize, Self)>> {
        Ok(is_complete(data).then(|| (data.len(), Parsed(parse(data)))))
    }
}

/// Parses a head, which ends with an empty line.
fn parse(head: &[u8]) -> Result<Response<()>, ConnectError> {
    let mut slots = [httparse::EMPTY_HEADER; ResponseReader::MAX_HEADERS];
    let mut raw = httparse::Response::new(&mut slots);
    match raw.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(ConnectError::BadResponse("it has too many headers"));
        }
        // httparse found the end of the head elsewhere: an ambiguous head is rejected.
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

/// Handles a final response other than 101. A redirect is an error at once, others when their body
/// has arrived.
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
    // RFC 9110 §15.3.5, §15.4.5: a 204 and a 304 have no body.
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let len = if bodiless { 0 } else { len.filter(|_| !chunked).unwrap_or(usize::MAX) };
    Ok(Refused { status, headers, chunked, len: len.min(ResponseReader::MAX_BODY) })
}

/// Decodes a chunked body (RFC 9112 §7.1) as far as it has arrived; returns its content and whether
/// it is complete. A malformed chunk ends it.
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

/// The elements of a list (RFC 9110 §5.6.1), over one header line or several.
fn items(response: &Response<()>, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = response.headers().get_all(name).into_iter();
    lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii)
}

/// The value of the header if exactly one line has this name.
fn single(response: &Response<()>, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = response.headers().get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
