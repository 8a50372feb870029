//! An embeddable WebSocket server ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)) that a
//! program polls once per tick, with outbound connections in the same loop. One thread and no async
//! runtime; the only thread started in the background resolves host names, and only when a name has
//! to be resolved.
//!
//! ```no_run
//! use tickws::{Event, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut server = Server::bind("127.0.0.1:9001")?;
//! loop {
//!     let tick = server.poll_once()?; // never blocks
//!     for event in &tick {
//!         match event {
//!             Event::Message { client, message } => {
//!                 if let Err(error) = server.send(client, message) {
//!                     println!("no echo: {error}"); // it has left, or reads too slowly
//!                 }
//!             }
//!             Event::Close { client, reason } => println!("{client} left: {reason}"),
//!             _ => {}
//!         }
//!     }
//!     // ... simulate, then queue this tick's snapshots
//!     server.flush(); // one write per client
//! }
//! # }
//! ```
//!
//! # How the data flows
//!
//! ```text
//!          readiness          one read                 in place                borrowed
//! sockets ──────────► ready ──────────► receive block ────────► frames, UTF-8 ─────────► Tick
//!    ▲      (mio)     list,             of the tick    unmask,  messages                  │ Event
//!    │                in turns                         check                              ▼
//!    │     one write                    small: copied to a pooled tail               application
//!    └─────────────── dirty list ◄───── outbox ◄──────── framed once ◄── send, broadcast ─┘
//!          per client at flush          large: shared, control frames first when blocked
//! ```
//!
//! # The tick
//!
//! [`Server::poll_once`] flushes the queued messages, reads the ready sockets within its budgets,
//! fires due timers and returns a [`Tick`]. The tick owns the received bytes. Its [`Event`]s borrow
//! from the tick, not from the server, so a program can send while it iterates over them. Dropping
//! the tick returns its buffers.
//!
//! Sending only queues. Messages queued between two flushes are written with one write per client:
//! at [`Server::flush`], or at the beginning of the next poll. The exception is a payload of 16 KiB
//! or more to a client that has nothing queued: it is written directly, without a copy, and only
//! the part that the socket does not take is queued.
//!
//! # What is bounded
//!
//! The work of a poll is bounded: bytes per client, accepts, events, timers and, if configured,
//! time. Work that remains is carried over to the next poll, with clients served in turn, and
//! [`Tick::more`] is `true`. Memory is bounded: one message, one outbox, one request head and one
//! tick each have a limit; [`ServerBuilder`] lists the limits and what happens beyond them.
//!
//! [`guide`] has how-to pages: a game loop, authentication, rooms, HTTP, tests without sockets, ….
//! [`faults`] lists how the server reacts to faults of peers, of the network and of the host.
//! [`architecture`] describes the code for those who change it: laws, folders and data flow.
//!
//! # Features
//!
//! No feature is on by default. Each one adds API and leaves existing behaviour as it is.
//!
//! - `deflate`: `ServerBuilder::deflate` with `Deflate` and `DeflateMode`: compression of messages,
//!   RFC 7692.
//! - `sim`: `tickws::sim`, a whole server in memory under a virtual clock, for tests; recordings of
//!   real servers (`ServerBuilder::record`) and their replay.
//! - `json`: `Prepared::json`, `Message::parse_json`, `Envelope` and `JsonError`, with serde.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![deny(missing_docs, missing_debug_implementations)]
// A call that can panic needs an `allow` with a reason.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]
// Fuzz builds compile the models that tests use, but not the tests that use them.
#![cfg_attr(fuzzing, allow(dead_code, unused_imports))]

#[doc = include_str!("../ARCHITECTURE.md")]
pub mod architecture {}
mod client;
mod close_code;
mod config;
mod connection;
mod engine;
mod error;
mod event;
#[doc = include_str!("faults.md")]
pub mod faults {}
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(any(not(doctest), all(feature = "json", feature = "deflate", feature = "sim", feature = "tls")))]
pub mod guide;
mod handshake;
mod http1;
mod id;
#[cfg(feature = "json")]
mod json;
mod message;
mod net;
mod outbox;
mod peer_addr;
mod proto;
#[cfg(feature = "sim")]
mod record;
#[cfg(not(feature = "sim"))]
#[path = "record/disabled.rs"]
mod record;
mod server;
#[cfg(feature = "sim")]
pub mod sim;
mod stats;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
mod tls;
mod util;

pub use bytes::{self, Bytes};
pub use client::Client;
pub use close_code::CloseCode;
pub use config::audience::{Audience, OwnedAudience};
#[cfg(feature = "deflate")]
pub use config::compression::{Deflate, DeflateMode};
pub use config::connect::{Attempt, Connect, WhileDown};
pub use config::reconnect::Reconnect;
pub use config::send_options::{LatestKey, Priority, SendOptions};
pub use config::{OverflowPolicy, RateLimitPolicy};
#[cfg(feature = "tls")]
pub use error::TlsError;
pub use error::{
    AdoptError, BindError, CloseError, ConfigError, ConnectError, ConnectStep, HandleError, HeaderError,
    JoinError, NotConnectedError, ProtocolError, Refusal, RespondError, SendError, UpgradeError,
};
pub use event::close_reason::{CloseReason, TimeoutKind};
pub use event::delivery::Delivery;
pub use event::pressure::Pressure;
pub use event::tick::Tick;
pub use event::{Event, Events};
pub use handshake::decision::{Decision, UpgradeResponse};
pub use http;
pub use http1::request::Request;
pub use id::{ClientId, ExchangeId, LinkId, Room, RoomId, TimerId, UpgradeId};
#[cfg(feature = "json")]
pub use json::{Envelope, JsonError};
pub use message::Message;
pub use net::listener::Listener;
pub use net::socket::AdoptedStream;
#[cfg(unix)]
pub use net::unix::UnixSocket;
pub use outbox::{
    outgoing::{AsMessage, Outgoing},
    prepared::Prepared,
};
pub use peer_addr::{PeerAddr, UnixCredentials};
pub use server::builder::ServerBuilder;
pub use server::{Handle, Server};
pub use stats::{CloseCounts, RejectCounts, Stats, client_stats::ClientStats, tls_stats::TlsFailureCounts};
pub use tls::info::{TlsInfo, TlsVersion};
#[cfg(feature = "tls")]
pub use tls::{
    client::TlsClient,
    server::{ClientCertificates, Tls},
};

/// Compiles the README's programs as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
