//! Sockets, listeners and the clock: those of the kernel, through mio, or of a simulated network.

pub(crate) mod host;
pub(crate) mod kernel;
pub(crate) mod listener;
mod options;
pub(crate) mod resolver;
#[cfg(any(feature = "sim", test, fuzzing))]
#[cfg_attr(not(feature = "sim"), allow(dead_code, unused_imports))]
pub(crate) mod sim;
#[cfg(feature = "sim")]
pub(crate) mod sim_host;
pub(crate) mod socket;
pub(crate) mod tcp;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(unix)]
pub(crate) mod unix;
