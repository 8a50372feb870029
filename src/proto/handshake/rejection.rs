//! Why a request is not upgraded, and what it is told.

use tungstenite::http::StatusCode;

/// Why a request is not upgraded, and the HTTP answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// No HTTP/1.1 request, or one that breaks RFC 6455 §4.2.1; the text says where.
    BadRequest(&'static str),
    /// Bytes came after the head, before our answer.
    JunkAfterRequest,
    /// The page is not of an origin that may connect (RFC 6455 §10.2).
    OriginForbidden,
    /// Neither GET nor HEAD.
    MethodNotAllowed,
    /// A plain GET.
    UpgradeRequired,
    /// A HEAD, which is answered as a GET but without the body.
    UpgradeRequiredNoBody,
    /// `Sec-WebSocket-Version` is missing or not 13.
    UnsupportedVersion,
    /// The head is longer than `max_head_bytes`.
    HeadTooLarge,
    /// The head has more than `max_headers` headers.
    TooManyHeaders,
    /// `max_connections` is reached.
    AtCapacity,
    /// `max_connections_per_ip` is reached.
    TooManyFromAddress,
    /// `max_total_buffered` is near.
    Overloaded,
    /// No path of the server's takes an upgrade there.
    NotFound,
    /// None of the client's subprotocols is one of the server's, and one is required.
    NoSubprotocol,
    /// The body is longer than `max_body_size`.
    BodyTooLarge,
    /// A body of unknown length.
    TransferEncoding,
    /// The application did not answer in time.
    Unanswered,
}

impl Rejection {
    /// The HTTP status code.
    pub(crate) fn status(self) -> u16 {
        self.code().as_u16()
    }

    /// The whole HTTP/1.1 answer; the connection is closed after it.
    pub(crate) fn response(self) -> Vec<u8> {
        let mut response = self.head();
        if self != Rejection::UpgradeRequiredNoBody {
            response.extend_from_slice(self.text().as_bytes());
            response.push(b'\n');
        }
        response
    }

    /// The answer's head alone: what a HEAD is told (RFC 9110 §9.3.2).
    pub(crate) fn head(self) -> Vec<u8> {
        let (connection, fields) = match self {
            // RFC 9110 §15.5.22: a 426 names the protocol; §7.8: Connection lists Upgrade whenever it is sent.
            // RFC 6455 §4.4: the versions that we speak.
            Rejection::UpgradeRequired | Rejection::UpgradeRequiredNoBody | Rejection::UnsupportedVersion => {
                ("close, Upgrade", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
            }
            // RFC 9110 §15.5.6: a 405 lists the methods.
            Rejection::MethodNotAllowed => ("close", "Allow: GET\r\n"),
            // RFC 9110 §10.2.3: in seconds.
            Rejection::AtCapacity
            | Rejection::TooManyFromAddress
            | Rejection::Overloaded
            | Rejection::Unanswered => ("close", "Retry-After: 10\r\n"),
            _ => ("close", ""),
        };
        format!(
            "HTTP/1.1 {}\r\nConnection: {connection}\r\n{fields}\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            self.code(),
            self.text().len() + 1,
        )
        .into_bytes()
    }

    fn code(self) -> StatusCode {
        match self {
            Rejection::BadRequest(_) | Rejection::JunkAfterRequest => StatusCode::BAD_REQUEST,
            Rejection::OriginForbidden => StatusCode::FORBIDDEN,
            Rejection::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Rejection::UpgradeRequired | Rejection::UpgradeRequiredNoBody | Rejection::UnsupportedVersion => {
                StatusCode::UPGRADE_REQUIRED
            }
            Rejection::HeadTooLarge | Rejection::TooManyHeaders => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Rejection::AtCapacity
            | Rejection::TooManyFromAddress
            | Rejection::Overloaded
            | Rejection::Unanswered => StatusCode::SERVICE_UNAVAILABLE,
            Rejection::NotFound => StatusCode::NOT_FOUND,
            Rejection::NoSubprotocol => StatusCode::BAD_REQUEST,
            Rejection::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            // RFC 9112 §6.1: 501 to a transfer coding that is not understood.
            Rejection::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// The body: what to do about it.
    fn text(self) -> &'static str {
        match self {
            Rejection::BadRequest(text) => text,
            Rejection::JunkAfterRequest => "wait for the 101 response before you send more",
            Rejection::OriginForbidden => "pages of this origin may not connect: the server has to allow it",
            Rejection::MethodNotAllowed => "this is a WebSocket endpoint: use GET with Upgrade: websocket",
            Rejection::UpgradeRequired | Rejection::UpgradeRequiredNoBody => {
                "this is a WebSocket endpoint: connect with ws:// or wss://"
            }
            Rejection::UnsupportedVersion => "this server speaks version 13 of the WebSocket protocol",
            Rejection::HeadTooLarge => {
                "the request head is too long: send fewer or shorter headers and cookies"
            }
            Rejection::TooManyHeaders => "the request has too many headers: send fewer",
            Rejection::AtCapacity => "the server has no room for another connection: try again later",
            Rejection::Overloaded => "the server is overloaded: try again later",
            Rejection::NotFound => "there is nothing here: is the path right?",
            Rejection::NoSubprotocol => "none of these subprotocols is spoken here",
            Rejection::BodyTooLarge => "the body is too long: send less",
            Rejection::TransferEncoding => "send the body with Content-Length, not with Transfer-Encoding",
            Rejection::Unanswered => "the application did not answer in time: try again later",
            Rejection::TooManyFromAddress => "too many connections from this address: close one first",
        }
    }
}
