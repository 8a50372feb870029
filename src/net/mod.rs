//! Sockets behind mio.

pub(crate) mod listener;
pub(crate) mod resolver;
#[cfg(feature = "sim")]
pub(crate) mod seat;
#[cfg(not(feature = "sim"))]
#[path = "seat_off.rs"]
pub(crate) mod seat;
#[cfg(feature = "sim")]
mod socket;
pub(crate) mod stream;
