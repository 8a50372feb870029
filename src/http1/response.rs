//! Plain HTTP/1.1 on the WebSocket port (RFC 9112): the body length of a request, and the head of a
//! response.
//!
//! A request that two parsers could read in different ways is rejected, because request smuggling
//! past a proxy begins with one.

#[cfg(test)]
mod tests;

use std::io::Write;

use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};

use crate::{
    error::HeaderError,
    http1::{
        head::{RequestHead, check_host, check_target, has_token, single},
        rejection::Rejection,
    },
    util::http_syntax::write_field,
};

/// The length of a plain request's body, in bytes (RFC 9112 §6.3).
///
/// # Errors
/// The request is malformed, or its body is longer than `max` or of unknown length. The connection
/// must be closed: the start of the next request is unknown.
pub(crate) fn body_len(request: &RequestHead, max: usize) -> Result<usize, Rejection> {
    // §3.2: only HTTP/1.1 requires Host, and the health checks of load balancers use HTTP/1.0
    // without.
    if request.version() == Version::HTTP_11 || request.headers().contains_key(header::HOST) {
        check_host(request)?;
    }
    check_target(request)?;
    // RFC 9110 §9.3.6, §9.3.8: CONNECT asks for a tunnel, TRACE echoes a request with its cookies.
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Rejection::MethodNotAllowed);
    }
    let headers = request.headers();
    let length = headers.contains_key(header::CONTENT_LENGTH);
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // §6.1: together with Content-Length, or in HTTP/1.0, the framing is faulty.
        let faulty = length || request.version() != Version::HTTP_11;
        return Err(match faulty {
            true => Rejection::BadRequest("send either Content-Length or Transfer-Encoding"),
            false => Rejection::TransferEncoding,
        });
    }
    if !length {
        return Ok(0);
    }
    // §6.3, 5: a list of equal values may be rejected too.
    let digits = single(request, header::CONTENT_LENGTH).map(|value| value.as_bytes()).unwrap_or_default();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Rejection::BadRequest("send one Content-Length, in digits"));
    }
    let len = digits.iter().try_fold(0usize, |len, digit| {
        len.checked_mul(10)?.checked_add(usize::from(digit - b'0')).filter(|len| *len <= max)
    });
    len.ok_or(Rejection::BodyTooLarge)
}

/// Whether the client waits for a 100 (Continue) before it sends its body (RFC 9110 §10.1.1).
pub(crate) fn expects_continue(request: &RequestHead) -> bool {
    request.version() == Version::HTTP_11 && has_token(request, header::EXPECT, "100-continue")
}

/// Interim response that lets the client send its body (RFC 9110 §15.2.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Whether the connection has to be closed after the response to this request (RFC 9112 §9.3).
pub(crate) fn is_last(request: &RequestHead) -> bool {
    request.version() != Version::HTTP_11 || has_token(request, header::CONNECTION, "close")
}

/// Why a response cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unfit {
    Status(StatusCode),
    Header(HeaderError),
}

/// Head of a response, whether a body follows it, and whether the connection ends after it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) bytes: Vec<u8>,
    pub(crate) has_body: bool,
    pub(crate) close: bool,
}

/// Writes the head of a response with a body of `len` bytes. `to_head`: the request is a HEAD.
/// `close`: the connection ends after this response. `date` is the value of `Date`, or empty.
///
/// # Errors
/// The status is a 1xx, which announces another response, or a header would change where the
/// response ends.
pub(crate) fn response_head(
    status: StatusCode,
    headers: &HeaderMap,
    len: u64,
    to_head: bool,
    close: bool,
    date: &str,
) -> Result<ResponseHead, Unfit> {
    if status.is_informational() {
        return Err(Unfit::Status(status));
    }
    // RFC 9110 §15.3.5, §15.4.5: a 204 and a 304 have no body.
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut close = close;
    let mut declared = None;
    for (name, value) in headers {
        match *name {
            header::CONTENT_LENGTH => {
                let value = value.to_str().ok().and_then(|value| value.parse::<u64>().ok());
                // RFC 9110 §8.6: a response to HEAD may name the length that the body would have.
                let known = value.filter(|value| *value == len || (to_head && len == 0) || bodiless);
                if declared.is_some() || known.is_none() {
                    return Err(Unfit::Header(HeaderError::Reserved(name.clone())));
                }
                declared = known;
            }
            header::CONNECTION if value.as_bytes().eq_ignore_ascii_case(b"close") => close = true,
            _ if is_connection_field(name) => return Err(Unfit::Header(HeaderError::Reserved(name.clone()))),
            _ => {}
        }
    }
    let mut bytes = Vec::with_capacity(256);
    // Writing to memory cannot fail.
    let _ = write!(bytes, "HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        if !matches!(*name, header::CONTENT_LENGTH | header::CONNECTION) {
            write_field(&mut bytes, name, value.as_bytes());
        }
    }
    // RFC 9110 §6.6.1: a server with a clock sends Date.
    if !date.is_empty() && !headers.contains_key(header::DATE) {
        let _ = write!(bytes, "Date: {date}\r\n");
    }
    // RFC 9110 §8.6: a 204 must not have a Content-Length, a 304 only that of the 200.
    if !bodiless || (status == StatusCode::NOT_MODIFIED && declared.is_some()) {
        let _ = write!(bytes, "Content-Length: {}\r\n", declared.unwrap_or(len));
    }
    if close {
        bytes.extend_from_slice(b"Connection: close\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    Ok(ResponseHead { bytes, has_body: !bodiless && !to_head && len > 0, close })
}

/// Whether the field belongs to the connection or the framing, which only this library may set.
fn is_connection_field(name: &HeaderName) -> bool {
    const RESERVED: [HeaderName; 4] =
        [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TRAILER];
    RESERVED.contains(name) || name.as_str() == "keep-alive"
}
