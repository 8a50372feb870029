//! Every public failure: small enums, one per operation, and the one map from a violation to its close code.

mod connect;

use std::{io, path::PathBuf, time::Duration};

use thiserror::Error;
use tungstenite::{
    http::{HeaderName, StatusCode},
    protocol::frame::coding::CloseCode,
};

use crate::id::{ClientId, RequestId, RoomId, UpgradeId};

pub use connect::{ConnectError, ConnectStep, Refusal};

/// The id is stale: its connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("client {0} is not connected: forget its id when you see its Close event")]
pub struct NotConnected(pub ClientId);

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The id is stale: its `Close` event was handed out, and a flush or poll has followed.
    #[error("client {0} is not connected: forget its id when you see its Close event")]
    NotConnected(ClientId),
    /// An outbound connection is not open yet, or not again, and its policy is
    /// [`WhileDown::Refuse`](crate::WhileDown::Refuse).
    #[error("client {0} is being connected: wait for its Open event, or have messages kept (WhileDown)")]
    Connecting(ClientId),
    /// The connection is closing; nothing may follow a close frame (RFC 6455 §5.5.1).
    #[error("client {0} is closing: nothing can be sent after the close frame")]
    Closing(ClientId),
    /// The message alone is larger than `max_buffered`; it was refused and nothing else changed.
    #[error(
        "a message of {len} bytes never fits into max_buffered ({max} bytes): send less or raise the limit"
    )]
    TooLarge {
        /// The framed length in bytes.
        len: usize,
        /// The client's cap in bytes.
        max: usize,
    },
    /// The outbox is full and the policy is [`Overflow::DropNewest`](crate::Overflow::DropNewest):
    /// this message was dropped, the connection stays.
    #[error("the outbox of client {0} is full: this message was dropped")]
    Dropped(ClientId),
    /// The outbox is full and the policy is [`Overflow::Disconnect`](crate::Overflow::Disconnect):
    /// the client is now being closed with 1013.
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
    /// The code may not stand in a close frame (RFC 6455 §7.4): it is below 1000, 1004, 1005, 1006, 1015,
    /// in 1016–2999 or above 4999.
    #[error("close code {0} may not be sent: use 1000, 1001, 1008, 1011 or one of 3000 to 4999")]
    InvalidCode(u16),
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
    /// The room would be new, and there are as many as there may be.
    #[error("there are {max} rooms already: let one become empty or raise the limit")]
    TooManyRooms {
        /// How many rooms there may be.
        max: usize,
    },
    /// The client is in as many rooms as it may be.
    #[error("client {client} is in {max} rooms already: let it leave one or raise the limit")]
    TooManyForClient {
        /// Who was to join.
        client: ClientId,
        /// How many rooms one client may be in.
        max: usize,
    },
    /// The room would be new, and its name is too long.
    #[error("a room name of {len} bytes is above the limit of {max}: use a shorter one or raise the limit")]
    NameTooLong {
        /// The length of the name in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The id is stale: its room became empty and vanished.
    #[error("{0:?} is gone, as a room vanishes with its last member: join it by name to begin it anew")]
    NoSuchRoom(RoomId),
}

/// Why a call of a [`Handle`](crate::Handle) was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandleError {
    /// As many commands wait as the queue holds. Nothing was queued.
    #[error("the handle's queue is full and nothing was queued: poll more often, or raise handle_queue")]
    Full,
    /// The server was dropped.
    #[error("the server is gone: it was dropped")]
    ServerGone,
    /// The close code or the reason cannot be sent.
    #[error(transparent)]
    Close(#[from] CloseError),
}

/// Why a header cannot stand in an answer. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name is no token, or the value has a line break or another control character in it
    /// (RFC 9110 §5.1, §5.5).
    #[error("{0:?} is no valid header: a name is a token, a value has no line breaks")]
    Invalid(String),
    /// The library sets this one itself, or it would change where the answer or the request ends.
    #[error("the header {0} belongs to the handshake or the framing: leave it out")]
    Reserved(HeaderName),
    /// The client did not offer this subprotocol (RFC 6455 §4.2.2).
    #[error("the client did not offer the subprotocol {0:?}: pick one that it offered, or none")]
    NotOffered(String),
    /// There are as many headers as may be added to an answer or a request.
    #[error("at most {0} headers can be added")]
    TooMany(usize),
    /// A subprotocol is picked already, and there can be only one.
    #[error("a subprotocol is picked already")]
    SecondSubprotocol,
}

/// Why an upgrade was not answered. If it waits still, it can be answered again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The id is stale: it was answered already, or the client is gone.
    #[error("upgrade {0} is answered already, or its client is gone")]
    Gone(UpgradeId),
    /// A header cannot stand in the answer.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// This status cannot end a request: 1xx promises another answer, 101 and 2xx would say that it is accepted.
    #[error("an upgrade cannot be rejected with {0}: use 3xx, 4xx or 5xx")]
    Status(StatusCode),
}

/// Why a request was not answered. If it waits still, it can be answered again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RespondError {
    /// The id is stale: it was answered already, or the client is gone.
    #[error("request {0} is answered already, or its client is gone")]
    Gone(RequestId),
    /// A header cannot stand in the answer.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// This status cannot end a request: 1xx promises another answer.
    #[error("a request cannot be answered with {0} alone")]
    Status(StatusCode),
}

/// Why a configuration was refused. Comes out of `bind` as the source of an
/// [`InvalidInput`](std::io::ErrorKind::InvalidInput) error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A limit of zero would refuse everything.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// A setting is above what the implementation can hold.
    #[error("{setting} must not be above {max}")]
    TooLarge {
        /// The builder method.
        setting: &'static str,
        /// The largest value it takes.
        max: usize,
    },
    /// A setting is outside of what there is.
    #[error("{setting} must be from {min} to {max}")]
    OutOfRange {
        /// The method that sets it.
        setting: &'static str,
        /// The smallest value it takes.
        min: usize,
        /// The largest value it takes.
        max: usize,
    },
    /// A peer would be given up before it is pinged.
    #[error("silence_timeout ({silence:?}) must be longer than ping_interval ({ping:?})")]
    SilenceBeforePing {
        /// The configured `ping_interval`.
        ping: Duration,
        /// The configured `silence_timeout`.
        silence: Duration,
    },
    /// An origin is no `scheme://host[:port]`.
    #[error("{0:?} is no origin: write it as a browser does, for instance https://example.com")]
    InvalidOrigin(String),
    /// No request can be for this path, or nothing can be served at it. A `*` may stand at the end of a path for
    /// upgrades, and nowhere else.
    #[error("{0:?} is no path: begin it with '/', without '//', '..', backslashes or controls")]
    InvalidPath(String),
    /// A subprotocol is no token (RFC 6455 §4.1).
    #[error("{0:?} is no subprotocol: letters, digits and !#$%&'*+-.^_`|~")]
    InvalidSubprotocol(String),
    /// A subprotocol is required and none is configured.
    #[error("require_subprotocol needs subprotocols to choose from")]
    NoSubprotocols,
    /// A content type is no MIME type.
    #[error("{0:?} is no content type: write it as type/subtype, for instance text/html")]
    InvalidMime(String),
    /// What is to be served from is not there, cannot be entered or is no folder.
    #[error("cannot serve the folder {}: {error}", dir.display())]
    NoFolder {
        /// The folder as it was given.
        dir: PathBuf,
        /// What the system says.
        error: io::ErrorKind,
    },
}

/// How a peer broke RFC 6455. Names the culprit: it is always the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeerMisbehaved {
    /// A client must mask every frame (§5.1).
    #[error("the client sent an unmasked frame")]
    UnmaskedFrame,
    /// A server must not mask (§5.1).
    #[error("the server sent a masked frame")]
    MaskedFrame,
    /// RSV1–3 are reserved for extensions, and none was negotiated that gives them a meaning here (§5.2).
    #[error("a reserved bit is set and no extension was negotiated that gives it a meaning there")]
    ReservedBits,
    /// The opcode has no meaning (§5.2).
    #[error("opcode {0:#x} is reserved")]
    ReservedOpcode(u8),
    /// A control frame must not be fragmented (§5.5).
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame carries at most 125 bytes (§5.5).
    #[error("a control frame is longer than 125 bytes")]
    ControlTooLong,
    /// The length is not written in the fewest bytes (§5.2).
    #[error("a payload length is not in its shortest form")]
    LengthNotMinimal,
    /// The most significant bit of a 64-bit length must be zero (§5.2).
    #[error("a payload length has its highest bit set")]
    LengthOverflow,
    /// A continuation without a message to continue (§5.4).
    #[error("a continuation frame without a message")]
    UnexpectedContinuation,
    /// A new message before the last fragment of the one before (§5.4).
    #[error("a new message began inside a fragmented one")]
    ExpectedContinuation,
    /// A text message is not UTF-8 (§8.1).
    #[error("a text message is not valid UTF-8")]
    InvalidUtf8,
    /// One frame claims more than `max_frame_size`.
    #[error("a frame of {len} bytes is above the limit of {max}")]
    FrameTooBig {
        /// The payload length in the frame's header, in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The message would grow above `max_message_size`.
    #[error("a message of at least {len} bytes is above the limit of {max}")]
    MessageTooBig {
        /// What had been announced of the message, in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A compressed message is cut off or damaged (RFC 7692 §7.2.2).
    #[error("a compressed message cannot be inflated")]
    CorruptDeflate,
    /// Too many fragments without a byte in them, one after the other.
    #[error("too many empty fragments")]
    EmptyFragments,
    /// A close body of one byte holds no code (§5.5.1).
    #[error("a close frame has a body of one byte")]
    CloseBodyTooShort,
    /// The code may not stand in a close frame (§7.4).
    #[error("close code {0} may not be sent")]
    InvalidCloseCode(u16),
    /// The reason in a close frame is not UTF-8 (§5.5.1).
    #[error("the reason in a close frame is not valid UTF-8")]
    InvalidCloseReason,
}

impl PeerMisbehaved {
    /// The close code that answers this violation (RFC 6455 §7.4.1). The one place that decides it.
    pub fn close_code(self) -> CloseCode {
        match self {
            PeerMisbehaved::InvalidUtf8
            | PeerMisbehaved::InvalidCloseReason
            | PeerMisbehaved::CorruptDeflate => CloseCode::Invalid,
            PeerMisbehaved::FrameTooBig { .. } | PeerMisbehaved::MessageTooBig { .. } => CloseCode::Size,
            PeerMisbehaved::EmptyFragments => CloseCode::Policy,
            _ => CloseCode::Protocol,
        }
    }
}
