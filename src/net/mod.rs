//! Sockets behind mio.

pub(crate) mod listener;
pub(crate) mod resolver;
pub(crate) mod stream;
