//! Blocking sockets for clients and servers that are not tickws.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A stream whose reads and writes time out, so that a test fails rather than hangs. On Linux a
/// socket with a timeout returns `EINTR` when the process is stopped and continued, or frozen; such
/// a call is made again. With `TICKWS_TEST_TLS=1` it is encrypted.
#[derive(Debug)]
pub struct Blocking(Inner);

#[derive(Debug)]
enum Inner {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Encrypted(
        Box<
            tickws::tls::rustls_0_23::rustls::StreamOwned<
                tickws::tls::rustls_0_23::rustls::ClientConnection,
                TcpStream,
            >,
        >,
    ),
}

impl Blocking {
    pub fn new(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Blocking(Inner::Plain(stream)))
    }

    /// Speaks TLS if the server at this address does.
    pub fn encrypted_for(self, addr: SocketAddr) -> Self {
        let _ = addr;
        #[cfg(feature = "tls")]
        if super::tls::is_server(addr)
            && let Inner::Plain(stream) = self.0
        {
            use tickws::tls::rustls_0_23::rustls::{ClientConnection, StreamOwned};
            let connection =
                ClientConnection::new(super::tls::client(), "localhost".try_into().unwrap()).unwrap();
            return Blocking(Inner::Encrypted(Box::new(StreamOwned::new(connection, stream))));
        }
        self
    }

    pub fn stream(&self) -> &TcpStream {
        match &self.0 {
            Inner::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Inner::Encrypted(stream) => &stream.sock,
        }
    }
}

impl Read for Blocking {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(stream) => retry_interrupted(|| stream.read(block)),
            #[cfg(feature = "tls")]
            Inner::Encrypted(stream) => retry_interrupted(|| stream.read(block)),
        }
    }
}

impl Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(stream) => retry_interrupted(|| stream.write(bytes)),
            #[cfg(feature = "tls")]
            Inner::Encrypted(stream) => retry_interrupted(|| stream.write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(stream) => stream.flush(),
            #[cfg(feature = "tls")]
            Inner::Encrypted(stream) => stream.flush(),
        }
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
