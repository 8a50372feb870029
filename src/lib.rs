//! tickws
#![forbid(unsafe_code)]
#![deny(missing_docs, missing_debug_implementations)]

mod builder;
mod client;
mod close_reason;
mod config;
mod deadlines;
mod engine;
mod error;
mod event;
mod id;
mod message;
mod net;
mod outbox;
mod pool;
mod proto;
mod server;
mod stats;
mod tick;
mod tick_data;
mod wheel;

pub use builder::ServerBuilder;
pub use close_reason::{CloseReason, Timeout};
pub use config::Overflow;
pub use engine::Delivery;
pub use error::{CloseError, ConfigError, NotConnected, PeerMisbehaved, SendError};
pub use event::{Event, Events};
pub use id::{ClientId, TimerId};
pub use message::{Message, NotData};
pub use server::Server;
pub use stats::{Closed, Rejected, Stats};
pub use tick::Tick;
pub use tungstenite::{handshake::server::Request, http, protocol::frame::coding::CloseCode};
