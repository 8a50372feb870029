//! The public error types, one small enum per operation, and the mapping from protocol violations
//! to close codes.

mod bind;
mod connect;
#[cfg(feature = "tls")]
mod tls;

use std::{io, path::PathBuf, time::Duration};

use http::{HeaderName, StatusCode};
use thiserror::Error;

use crate::{
    close_code::CloseCode,
    id::{ClientId, ExchangeId, RoomId, UpgradeId},
};

pub use bind::BindError;
pub use connect::{ConnectError, ConnectStep, Refusal};
#[cfg(feature = "tls")]
pub use tls::TlsError;

/// The id is stale: its connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("client {0} is not connected: forget its id when you see its Close event")]
pub struct NotConnectedError(pub ClientId);

macro_rules! from_not_connected {
    ($($error:ident)*) => {$(
        impl From<NotConnectedError> for $error {
            fn from(NotConnectedError(client): NotConnectedError) -> Self {
                $error::NotConnected(client)
            }
        }
    )*};
}

from_not_connected!(SendError CloseError JoinError);

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The id is stale: its `Close` event was returned, and a flush or poll has followed.
    #[error("client {0} is not connected: forget its id when you see its Close event")]
    NotConnected(ClientId),
    /// The outbound connection is not open (yet, or it is reconnecting), and its policy is
    /// [`WhileDown::Refuse`](crate::WhileDown::Refuse).
    #[error("client {0} is being connected: wait for its Open event, or set WhileDown to keep messages")]
    Connecting(ClientId),
    /// The connection is closing; nothing may follow a close frame (RFC 6455 §5.5.1).
    #[error("client {0} is closing: nothing can be sent after the close frame")]
    Closing(ClientId),
    /// The message alone is larger than `max_buffered`. It was not queued, and nothing else
    /// changed.
    #[error(
        "a message of {len} bytes never fits into max_buffered ({max} bytes): send less or raise the limit"
    )]
    TooLarge {
        /// The framed length in bytes.
        len: usize,
        /// The client's cap in bytes.
        max: usize,
    },
    /// The outbox is full and the policy is
    /// [`OverflowPolicy::DropNewest`](crate::OverflowPolicy::DropNewest): this message was dropped,
    /// the connection stays.
    #[error("the outbox of client {0} is full: this message was dropped")]
    Dropped(ClientId),
    /// The outbox is full and the policy is
    /// [`OverflowPolicy::Disconnect`](crate::OverflowPolicy::Disconnect): the client is now being
    /// closed with 1013.
    #[error("the outbox of client {0} is full: it is being disconnected")]
    Overflow(ClientId),
}

/// Why a close could not be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The id is stale.
    #[error("client {0} is not connected: forget its id when you see its Close event")]
    NotConnected(ClientId),
    /// The connection is closing already; the first code stands.
    #[error("client {0} is closing already")]
    Closing(ClientId),
    /// The code is not allowed in a close frame (RFC 6455 §7.4): it is below 1000, 1004, 1005,
    /// 1006, 1015, in 1016–2999 or above 4999.
    #[error("close code {0} may not be sent: use 1000, 1001, 1008, 1011 or one of 3000 to 4999")]
    InvalidCode(CloseCode),
    /// The reason is longer than 123 bytes of UTF-8 (RFC 6455 §5.5.1).
    #[error("a close reason holds at most 123 bytes, not {0}")]
    ReasonTooLong(usize),
}

/// Why a client did not join a room. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The id is stale.
    #[error("client {0} is not connected: forget its id when you see its Close event")]
    NotConnected(ClientId),
    /// The room does not exist, and the server has as many rooms as `max_rooms` allows.
    #[error("there are {max} rooms already: let one become empty or raise the limit")]
    TooManyRooms {
        /// The limit, `max_rooms`.
        max: usize,
    },
    /// The client is in as many rooms as `max_rooms_per_client` allows.
    #[error("client {client} is in {max} rooms already: let it leave one or raise the limit")]
    TooManyForClient {
        /// The client that did not join.
        client: ClientId,
        /// The limit, `max_rooms_per_client`.
        max: usize,
    },
    /// The room does not exist, and its name is longer than `max_room_name`.
    #[error("a room name of {len} bytes is above the limit of {max}: use a shorter one or raise the limit")]
    NameTooLong {
        /// The length of the name in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The id is stale: its room became empty and was removed.
    #[error("room {0} is gone, because its last member left: join the room by name to create it again")]
    NoSuchRoom(RoomId),
}

/// Why a call of a [`Handle`](crate::Handle) was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The command queue is full. Nothing was queued.
    #[error("the handle's queue is full and nothing was queued: poll more often, or raise handle_queue")]
    Full,
    /// The server was dropped.
    #[error("the server is gone: it was dropped")]
    ServerGone,
    /// The close code or the reason cannot be sent.
    #[error("{0}")]
    Close(#[from] CloseError),
}

/// Why a header cannot be part of a request or a response. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name is not a token, or the value contains a line break or another control character
    /// (RFC 9110 §5.1, §5.5).
    #[error("{0:?} is not a valid header: a name is a token, a value has no line breaks")]
    Invalid(String),
    /// The library sets this header itself, or the header would change the message framing (RFC
    /// 9112 §6).
    #[error("the header {0} belongs to the handshake or the framing: leave it out")]
    Reserved(HeaderName),
    /// The client did not offer this subprotocol (RFC 6455 §4.2.2).
    #[error("the client did not offer the subprotocol {0:?}: pick one that it offered, or none")]
    NotOffered(String),
    /// No more headers can be added to the request or response.
    #[error("at most {0} headers can be added")]
    TooMany(usize),
    /// A subprotocol has been picked already; only one is allowed (RFC 6455 §4.2.2).
    #[error("a subprotocol is picked already")]
    SecondSubprotocol,
}

/// Why no response was sent to an upgrade request. If the request is still waiting, another
/// response can be tried.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The id is stale: a response was sent already, or the client is gone.
    #[error("upgrade {0} already has a response, or its client is gone")]
    Gone(UpgradeId),
    /// A header cannot be part of the response.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// This status cannot reject an upgrade: 1xx is not a final response, 101 and 2xx mean
    /// acceptance.
    #[error("an upgrade cannot be rejected with {0}: use 3xx, 4xx or 5xx")]
    Status(StatusCode),
}

/// Why a connection was not taken over. The stream is closed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// A shutdown has begun.
    #[error("the server is shutting down and takes no more connections")]
    ShuttingDown,
    /// `max_connections`, `max_connections_per_ip` or `max_total_buffered` allows no more.
    #[error("the server is at a limit on connections or memory: try again later, or raise the limit")]
    AtLimit,
    /// More bytes were read behind the request than can be handed over.
    #[error("{len} bytes were read behind the request, above the limit of {max}: read less there")]
    LeftoverTooLarge {
        /// The bytes given.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The server has no certificates for an encrypted connection.
    #[error("the server has no certificates: set ServerBuilder::tls")]
    NoTls,
    /// The stream is not connected, or cannot be polled.
    #[error("the stream cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// Why no response was sent to a request. If the request is still waiting, another response can be
/// tried.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RespondError {
    /// The id is stale: a response was sent already, or the client is gone.
    #[error("request {0} already has a response, or its client is gone")]
    Gone(ExchangeId),
    /// A header cannot be part of the response.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// This status cannot end a request: 1xx is not a final response (RFC 9110 §15.2).
    #[error("{0} is not a final response: use a status of 200 or above")]
    Status(StatusCode),
}

/// Why a configuration is invalid, in [`BindError::Config`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The setting is zero, which would allow nothing.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// The setting is above what the implementation supports.
    #[error("{setting} must not be above {max}")]
    TooLarge {
        /// The builder method.
        setting: &'static str,
        /// The largest value it takes.
        max: usize,
    },
    /// The setting is outside its range.
    #[error("{setting} must be from {min} to {max}")]
    OutOfRange {
        /// The builder method.
        setting: &'static str,
        /// The smallest value it takes.
        min: usize,
        /// The largest value it takes.
        max: usize,
    },
    /// A silent peer would be closed before it is pinged.
    #[error("silence_timeout ({silence:?}) must be longer than ping_interval ({ping:?})")]
    SilenceBeforePing {
        /// The configured `ping_interval`.
        ping: Duration,
        /// The configured `silence_timeout`.
        silence: Duration,
    },
    /// The origin does not have the form `scheme://host[:port]` or `scheme://*.host[:port]`, and is
    /// neither `null` nor `file://`.
    #[error("{0:?} is not an origin: write it as a browser does, for instance https://example.com")]
    InvalidOrigin(String),
    /// No browser sends this host, so it would never match.
    #[error(
        "{0:?} is not a host: write it as browsers send it, in ASCII, for instance game.example or *.game.example:8080"
    )]
    InvalidHost(String),
    /// The proxy is neither a network nor an address.
    #[error("{0:?} is not a network: write it as 10.0.0.0/8, 192.0.2.1, fd00::/8 or unix:")]
    InvalidProxy(String),
    /// A listener requires the PROXY protocol, but no proxy is trusted.
    #[error("a listener with proxy_protocol needs trusted_proxies: the networks of the proxies")]
    NoTrustedProxies,
    /// A listener requires TLS, but there are no certificates.
    #[error("a listener with TLS needs certificates: set ServerBuilder::tls")]
    NoTls,
    /// There are certificates, but no listener uses them.
    #[error("no listener uses the certificates of ServerBuilder::tls: use bind_tls or Listener::tls")]
    UnusedTls,
    /// No request can have this path, or nothing can be served at it. A `*` is allowed only at the
    /// end of a path for upgrades.
    #[error(
        "{0:?} is not a valid path: begin it with '/', and use no '..', '?', '#', backslashes or control characters"
    )]
    InvalidPath(String),
    /// The health check and the metrics have the same path.
    #[error("{0:?} is the path of health already: choose another one for metrics")]
    SamePath(String),
    /// The subprotocol is not a token (RFC 6455 §4.1).
    #[error("{0:?} is not a subprotocol: use letters, digits and !#$%&'*+-.^_`|~")]
    InvalidSubprotocol(String),
    /// A subprotocol is required, but none is configured.
    #[error("require_subprotocol needs subprotocols to choose from")]
    NoSubprotocols,
    /// The content type is not a MIME type.
    #[error("{0:?} is not a content type: write it as type/subtype, for instance text/html")]
    InvalidMime(String),
    /// A server with `serve_dir` cannot be recorded: the content of its files is not part of the
    /// recording.
    #[error("a server with serve_dir cannot be recorded: serve the files with serve_bytes")]
    RecordedFolder,
    /// The folder to serve does not exist, cannot be opened or is not a folder.
    #[error("cannot serve the folder {}: {error}", dir.display())]
    NoFolder {
        /// The folder as it was given.
        dir: PathBuf,
        /// The error of the operating system.
        error: io::ErrorKind,
    },
}

/// How the peer violated RFC 6455 or exceeded a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A client must mask every frame (§5.1).
    #[error("the client sent an unmasked frame")]
    UnmaskedFrame,
    /// A server must not mask a frame (§5.1).
    #[error("the server sent a masked frame")]
    MaskedFrame,
    /// A bit of RSV1–3 is set, and no negotiated extension defines it here (§5.2).
    #[error("a reserved bit is set, and no negotiated extension defines it for this frame")]
    ReservedBits,
    /// The opcode is reserved (§5.2).
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    /// A control frame is fragmented (§5.5).
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame has a payload of more than 125 bytes (§5.5).
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// The length is not encoded in the fewest bytes (§5.2).
    #[error("a payload length is not in its shortest form")]
    LengthNotMinimal,
    /// The most significant bit of a 64-bit length is set (§5.2).
    #[error("a payload length has its highest bit set")]
    LengthOverflow,
    /// A continuation frame without a message to continue (§5.4).
    #[error("a continuation frame without a message")]
    UnexpectedContinuation,
    /// A new message began before the last fragment of the previous message (§5.4).
    #[error("a new message began inside a fragmented one")]
    ExpectedContinuation,
    /// A text message is not UTF-8 (§8.1).
    #[error("a text message is not valid UTF-8")]
    InvalidUtf8,
    /// A frame header announces more than `max_frame_size`.
    #[error("a frame of {len} bytes is above the limit of {max}")]
    FrameTooBig {
        /// The payload length in the frame's header, in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The message is larger than `max_message_size`.
    #[error("a message of at least {len} bytes is above the limit of {max}")]
    MessageTooBig {
        /// The bytes of the message that the peer had announced.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A compressed message is truncated or corrupt (RFC 7692 §7.2.2).
    #[error("a compressed message cannot be inflated")]
    CorruptDeflate,
    /// Too many empty fragments in succession.
    #[error("too many empty fragments")]
    EmptyFragments,
    /// A close body of one byte holds no code (§5.5.1).
    #[error("a close frame has a body of one byte")]
    CloseBodyTooShort,
    /// The code is not allowed in a close frame (§7.4).
    #[error("close code {0} may not be sent")]
    InvalidCloseCode(u16),
    /// The reason in a close frame is not UTF-8 (§5.5.1).
    #[error("the reason in a close frame is not valid UTF-8")]
    InvalidCloseReason,
}

impl ProtocolError {
    /// The close code to send for this violation (RFC 6455 §7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            ProtocolError::InvalidUtf8
            | ProtocolError::InvalidCloseReason
            | ProtocolError::CorruptDeflate => CloseCode::INVALID_PAYLOAD_DATA,
            ProtocolError::FrameTooBig { .. } | ProtocolError::MessageTooBig { .. } => {
                CloseCode::MESSAGE_TOO_BIG
            }
            ProtocolError::EmptyFragments => CloseCode::POLICY_VIOLATION,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}
