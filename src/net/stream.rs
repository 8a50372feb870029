//! A client's socket.

use std::{io, net::Shutdown};

use mio::net::TcpStream;

use crate::engine::Stream;

impl Stream for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}
