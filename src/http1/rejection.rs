//! Rejected requests and the HTTP responses to them.

use http::StatusCode;

/// Why a request is rejected; determines the HTTP response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// The request is not HTTP/1.1, or violates RFC 6455 §4.2.1; the text says where.
    BadRequest(&'static str),
    /// Data arrived behind the head before the response was sent.
    JunkAfterRequest,
    /// The origin policy does not allow the page (RFC 6455 §10.2).
    OriginForbidden,
    /// The host policy does not allow the host.
    HostForbidden,
    /// The method is neither GET nor HEAD.
    MethodNotAllowed,
    /// A GET without `Upgrade: websocket`.
    UpgradeRequired,
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
    /// The server accepts no upgrade at this path.
    NotFound,
    /// A subprotocol is required, and the server supports none that the client offers.
    NoSubprotocol,
    /// The body is longer than `max_body_size`.
    BodyTooLarge,
    /// The body has a transfer coding, and so no known length.
    TransferEncoding,
    /// The application did not respond in time.
    NoResponse,
    /// The body did not arrive within `body_timeout`.
    BodyTimeout,
    /// The connection does not begin with a header of the PROXY protocol.
    NoProxyHeader,
    /// The request came in plain text on a port with TLS.
    TlsRequired,
}

impl Rejection {
    /// The HTTP status code.
    pub(crate) fn status(self) -> u16 {
        self.code().as_u16()
    }

    /// The complete HTTP/1.1 response; the connection is closed after it. `date` is the value of
    /// `Date`, or empty.
    pub(crate) fn response(self, date: &str) -> Vec<u8> {
        let mut response = self.response_to_head(date);
        response.extend_from_slice(self.text().as_bytes());
        response.push(b'\n');
        response
    }

    /// The response to a HEAD: that to a GET without its body (RFC 9110 §9.3.2).
    pub(crate) fn response_to_head(self, date: &str) -> Vec<u8> {
        self.head(self.text().len() + 1, date)
    }

    /// The response to a connection whose request was not read. It has no body, because the request
    /// may be a HEAD.
    pub(crate) fn response_to_unread(self, date: &str) -> Vec<u8> {
        self.head(0, date)
    }

    fn head(self, len: usize, date: &str) -> Vec<u8> {
        let (connection, fields) = match self {
            // RFC 9110 §15.5.22: a 426 must name the protocol in Upgrade. §7.8: Connection lists
            // Upgrade wherever that is sent. RFC 6455 §4.4: Sec-WebSocket-Version names the
            // supported version.
            Rejection::UpgradeRequired | Rejection::UnsupportedVersion => {
                ("close, Upgrade", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
            }
            // RFC 9110 §15.5.6: a 405 must list the allowed methods.
            Rejection::MethodNotAllowed => ("close", "Allow: GET\r\n"),
            // RFC 9110 §10.2.3: Retry-After in seconds.
            Rejection::AtCapacity
            | Rejection::TooManyFromAddress
            | Rejection::Overloaded
            | Rejection::NoResponse => ("close", "Retry-After: 10\r\n"),
            _ => ("close", ""),
        };
        let date = if date.is_empty() { String::new() } else { format!("Date: {date}\r\n") };
        format!(
            "HTTP/1.1 {}\r\nConnection: {connection}\r\n{fields}{date}\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n\r\n",
            self.code(),
        )
        .into_bytes()
    }

    fn code(self) -> StatusCode {
        match self {
            Rejection::BadRequest(_)
            | Rejection::JunkAfterRequest
            | Rejection::NoProxyHeader
            | Rejection::TlsRequired => StatusCode::BAD_REQUEST,
            Rejection::OriginForbidden => StatusCode::FORBIDDEN,
            Rejection::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Rejection::UpgradeRequired | Rejection::UnsupportedVersion => StatusCode::UPGRADE_REQUIRED,
            // RFC 9110 §7.4, §15.5.20: the server is not the one that the request names.
            Rejection::HostForbidden => StatusCode::MISDIRECTED_REQUEST,
            Rejection::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Rejection::HeadTooLarge | Rejection::TooManyHeaders => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Rejection::AtCapacity
            | Rejection::TooManyFromAddress
            | Rejection::Overloaded
            | Rejection::NoResponse => StatusCode::SERVICE_UNAVAILABLE,
            Rejection::NotFound => StatusCode::NOT_FOUND,
            Rejection::NoSubprotocol => StatusCode::BAD_REQUEST,
            Rejection::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            // RFC 9112 §6.1: a transfer coding that the server does not understand gets a 501.
            Rejection::TransferEncoding => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// Text of the body: what is wrong and what to do about it.
    fn text(self) -> &'static str {
        match self {
            Rejection::BadRequest(text) => text,
            Rejection::JunkAfterRequest => "wait for the 101 response before you send more",
            Rejection::OriginForbidden => "pages of this origin may not connect unless the server allows it",
            Rejection::MethodNotAllowed => "this is a WebSocket endpoint: use GET with Upgrade: websocket",
            Rejection::HostForbidden => "this server is not the host of the URL: check the URL",
            Rejection::NoProxyHeader => "this port is for a proxy that speaks the PROXY protocol",
            Rejection::TlsRequired => "this port speaks TLS: use https:// or wss://",
            Rejection::BodyTimeout => "the body did not arrive in time: send it faster",
            Rejection::UpgradeRequired => "this is a WebSocket endpoint: connect with ws:// or wss://",
            Rejection::UnsupportedVersion => "this server supports only version 13 of the WebSocket protocol",
            Rejection::HeadTooLarge => {
                "the request head is too long: send fewer or shorter headers and cookies"
            }
            Rejection::TooManyHeaders => "the request has too many headers: send fewer",
            Rejection::AtCapacity => "the server has no room for another connection: try again later",
            Rejection::Overloaded => "the server is overloaded: try again later",
            Rejection::NotFound => "there is no WebSocket endpoint at this path: check the URL",
            Rejection::NoSubprotocol => "the server supports none of the offered subprotocols",
            Rejection::BodyTooLarge => "the body is too long: send less",
            Rejection::TransferEncoding => "send the body with Content-Length, not with Transfer-Encoding",
            Rejection::NoResponse => "the application did not respond in time: try again later",
            Rejection::TooManyFromAddress => "too many connections from this address: close one first",
        }
    }
}
