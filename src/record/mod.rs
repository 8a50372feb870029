//! A recording holds everything that an engine is told and answered; a replay tells another engine
//! the same and compares what it does.
//!
//! ```text
//! file    = "tickws\0tape" version(1 byte) block*
//! block   = length(u32, little endian) digest(u64, little endian, FNV-1a of the content) content
//! content = (header | entry)*
//! ```
//!
//! The contents of all blocks, one behind the other, are a header (what the server was built with)
//! and entries: a number and its fields, see `format/entry.rs`. Numbers are varints, see
//! `format/codec.rs`. A block ends with each poll, so a process that dies loses only the poll in
//! which it dies. No entry is split between two blocks.
//!
//! ```text
//! server ──► RecordedEngine ──► Engine ──► RecordedStream ──► socket
//!                  └────────────── Recorder ─────┘               entries in the order of the calls
//! Replayer ──────────────────► Engine ──► ReplayedStream
//!     └────────────── SharedReader ──────────────┘
//! ```

mod engine;
mod format;
mod hooks;
mod recorder;
mod replay;
mod stream;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

pub(crate) use engine::RecordedEngine;
pub use recorder::Recording;
pub(crate) use replay::Replayer;
pub use replay::{Divergence, ReplayError};
