//! The opening handshake (RFC 6455 §4), both roles: bytes and decisions, without a socket.

pub(crate) mod client;
pub(crate) mod decision;
pub(crate) mod origin;
pub(crate) mod server;
