//! A client's socket.

use std::{io, net::Shutdown};

use mio::net::TcpStream;
use socket2::SockRef;

use crate::{config::Config, engine::Stream};

impl Stream for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        match self.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn tune(&self, config: &Config) {
        if config.nodelay
            && let Err(error) = self.set_nodelay(true)
        {
            // The peer has reset it already; the first read will tell.
            log::debug!("no TCP_NODELAY: {error}");
        }
        // Not set on the listener: not every system hands it on to what is accepted.
        if let Some(bytes) = config.send_buffer
            && let Err(error) = SockRef::from(self).set_send_buffer_size(bytes)
        {
            log::debug!("no send buffer of {bytes} bytes: {error}");
        }
    }
}
