//! Without the feature `sim` there are no recordings, and the server has a plain engine.

pub(crate) type RecordedEngine = crate::engine::Engine<crate::net::socket::Socket>;
