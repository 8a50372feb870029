//! The WebSocket protocol (RFC 6455 and 7692), sans-IO: no code here uses a socket or a clock.

pub(crate) mod assembler;
pub(crate) mod close;
#[cfg(feature = "deflate")]
pub(crate) mod deflate;
#[cfg(not(feature = "deflate"))]
#[path = "deflate/disabled.rs"]
pub(crate) mod deflate;
pub(crate) mod frame;
pub(crate) mod mask;
pub(crate) mod utf8;
