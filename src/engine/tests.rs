//! Tests of the engine in memory, under a simulated clock.

mod actor;
mod broadcast_batch;
mod browsing;
mod budgets;
mod close_events;
#[cfg(feature = "deflate")]
mod compression;
mod deadlines;
mod direct_write;
mod faults;
mod files;
mod handshake;
mod host;
pub(crate) mod http_fuzz;
mod invariants;
mod isolation;
mod memory_limit;
mod outbound;
mod outbox_limits;
mod outbox_model;
mod priorities;
mod proxied;
mod receiver;
mod requests;
mod rooms;
mod simulation;
mod starvation;
mod throttle;
mod time_budget;
mod web;
mod world;

use std::time::Duration;

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{
    ClientId, CloseReason, Event, Tick,
    config::Config,
    net::sim::{Frame, Peer},
};
use host::{Host, has_windows_readiness};

const TEXT: OpCode = OpCode::Data(Data::Text);
const BINARY: OpCode = OpCode::Data(Data::Binary);
const CONTINUE: OpCode = OpCode::Data(Data::Continue);
const PING: OpCode = OpCode::Control(Control::Ping);
const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// The messages of a tick, by client.
fn messages(tick: &Tick) -> Vec<(ClientId, Vec<u8>)> {
    let message = |event: Event<'_>| match event {
        Event::Message { client, message } => Some((client, message.as_bytes().to_vec())),
        _ => None,
    };
    tick.iter().filter_map(message).collect()
}

fn closes(tick: &Tick) -> Vec<(ClientId, CloseReason)> {
    let close = |event: Event<'_>| match event {
        Event::Close { client, reason } => Some((client, reason.clone())),
        _ => None,
    };
    tick.iter().filter_map(close).collect()
}

fn count(tick: &Tick, what: impl Fn(&Event<'_>) -> bool) -> usize {
    tick.iter().filter(what).count()
}

fn text(text: &str) -> Frame {
    Frame::Text(text.to_owned())
}
