//! The seam to the host: a byte stream, and how the host reports that it is ready.

use std::io::{self, Read, Write};

use crate::config::Config;

/// A non-blocking byte stream. The readiness source tells the engine when to use it.
pub(crate) trait Stream: Read + Write {
    /// Sends FIN; nothing is written afterwards.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// Whether a connection attempt has succeeded; an error if it failed.
    fn connected(&mut self) -> io::Result<bool>;

    /// Applies the socket options of the configuration, once the stream is connected.
    fn tune(&self, config: &Config);

    /// Sets the size of the kernel's send buffer, once the WebSocket is open.
    fn set_send_buffer(&self, bytes: usize);
}

/// Readiness of one stream, as the readiness source reports it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has sent FIN, or the connection failed.
    pub(crate) read_closed: bool,
    /// TCP urgent data has arrived.
    pub(crate) urgent: bool,
}
