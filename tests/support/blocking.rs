//! Blocking sockets for clients and servers that are not tickws.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// A stream whose reads and writes time out, so that a test fails rather than hangs. On Linux a
/// socket with a timeout returns `EINTR` when the process is stopped and continued, or frozen; such
/// a call is made again.
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
        retry_interrupted(|| self.0.read(block))
    }
}

impl Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        retry_interrupted(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn retry_interrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
