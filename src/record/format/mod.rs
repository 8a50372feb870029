//! The bytes of a recording.
//!
//! A change to anything that is encoded here needs a new [`header::VERSION`].

pub(super) mod block;
pub(super) mod codec;
pub(super) mod digest;
pub(super) mod entry;
mod error_kind;
mod handshake;
pub(super) mod header;
