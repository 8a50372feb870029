//! Without the feature `sim` nothing is recorded.

pub(crate) type Core = crate::engine::Engine<crate::net::socket::Socket>;
