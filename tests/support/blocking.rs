//! Blocking sockets, of clients and servers that are not ours.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// Fails rather than hangs. That it has a deadline makes the kernel interrupt its reads when the process is stopped
/// and continued, or frozen: those are begun again.
#[derive(Debug)]
pub struct Blocking(TcpStream);

impl Blocking {
    pub fn new(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Blocking(stream))
    }

    pub fn stream(&self) -> &TcpStream {
        &self.0
    }
}

impl Read for Blocking {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        again(|| self.0.read(block))
    }
}

impl Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        again(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn again(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
