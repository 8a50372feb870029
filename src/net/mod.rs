//! Sockets behind mio.

pub(crate) mod listener;
pub(crate) mod stream;
