//! A client at the level of bytes: a test can make it slow, and can make it break the protocol.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

/// An upgrade request with the key of RFC 6455 §1.3. `extra` holds complete header lines.
pub fn upgrade_request(path: &str, extra: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    )
}

/// How the server's side of the stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Fin,
    Failed(ErrorKind),
}

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

pub const CONTINUE: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

impl Frame {
    /// A whole frame as a server sends it.
    pub fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Frame { fin: true, opcode, payload: payload.as_ref().to_vec() }
    }

    /// A close frame with a body.
    pub fn close(code: u16, reason: &str) -> Self {
        Frame::new(CLOSE, close_body(code, reason))
    }
}

/// The payloads of text frames, as strings.
pub fn texts(frames: Vec<Frame>) -> Vec<String> {
    let texts = frames.into_iter().map(|frame| String::from_utf8(frame.payload));
    texts.collect::<Result<_, _>>().expect("a server sends UTF-8")
}

/// A frame as a client sends it: masked.
pub fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(KEY);
    bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ KEY[i % 4]));
    bytes
}

/// A whole text message, masked.
pub fn text(text: &str) -> Vec<u8> {
    masked(true, TEXT, text.as_bytes())
}

/// A whole binary message, masked.
pub fn binary(payload: &[u8]) -> Vec<u8> {
    masked(true, BINARY, payload)
}

/// A masked close frame.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    masked(true, CLOSE, &close_body(code, reason))
}

fn close_body(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// Handles what was read. The alert of an error is sent.
#[cfg(feature = "tls")]
fn process(
    tls: &mut tickws::tls::rustls_0_23::rustls::ClientConnection,
    stream: &mut TcpStream,
) -> io::Result<()> {
    tls.process_new_packets().map(drop).map_err(|error| {
        let _ = tls.write_tls(stream);
        io::Error::new(ErrorKind::InvalidData, error)
    })
}

/// A non-blocking connection. With `TICKWS_TEST_TLS=1` it is encrypted.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<Box<tickws::tls::rustls_0_23::rustls::ClientConnection>>,
    input: Vec<u8>,
    /// Bytes of `input` that the test has already taken.
    at: usize,
    pub end: Option<End>,
}

impl Raw {
    pub fn connect(addr: SocketAddr) -> Self {
        let raw = Raw::from_stream(TcpStream::connect(addr).expect("the listener's backlog has room"));
        #[cfg(feature = "tls")]
        if super::tls::is_server(addr) {
            return raw.encrypted(super::tls::client(), "localhost");
        }
        raw
    }

    /// Speaks TLS from now on. The handshake goes on with each read and write.
    #[cfg(feature = "tls")]
    pub fn encrypted(
        mut self,
        config: std::sync::Arc<tickws::tls::rustls_0_23::rustls::ClientConfig>,
        name: &'static str,
    ) -> Self {
        use tickws::tls::rustls_0_23::rustls::ClientConnection;
        let mut tls = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
        tls.set_buffer_limit(None);
        self.tls = Some(Box::new(tls));
        self
    }

    #[cfg(feature = "tls")]
    pub fn tls(&mut self) -> Option<&mut tickws::tls::rustls_0_23::rustls::ClientConnection> {
        self.tls.as_deref_mut()
    }

    /// Whether all that was written has left, behind a complete TLS handshake if there is one.
    pub fn is_flushed(&mut self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            let gone = self.exchange().is_err() || self.end.is_some();
            return gone || self.tls.as_ref().is_some_and(|tls| !tls.is_handshaking() && !tls.wants_write());
        }
        true
    }

    /// Writes the ciphertext that waits, and during the handshake reads.
    #[cfg(feature = "tls")]
    fn exchange(&mut self) -> io::Result<()> {
        let Raw { stream, tls: Some(tls), .. } = self else { return Ok(()) };
        loop {
            while tls.wants_write() {
                match tls.write_tls(stream) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    outcome => outcome?,
                };
            }
            if !tls.is_handshaking() {
                return Ok(());
            }
            match tls.read_tls(stream) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => process(tls, stream)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
        }
    }

    fn read_stream(&mut self, block: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            self.exchange()?;
            let Raw { stream, tls: Some(tls), .. } = self else { unreachable!() };
            loop {
                match tls.reader().read(block) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    outcome => return outcome,
                }
                tls.read_tls(stream)?;
                process(tls, stream)?;
            }
        }
        self.stream.read(block)
    }

    pub fn from_stream(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket can be non-blocking");
        stream.set_nodelay(true).expect("a socket can send at once");
        Raw {
            stream,
            #[cfg(feature = "tls")]
            tls: None,
            input: Vec::new(),
            at: 0,
            end: None,
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// Writes as much as the kernel's buffer has room for, perhaps nothing.
    pub fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            let count =
                if tls.wants_write() && !tls.is_handshaking() { 0 } else { tls.writer().write(bytes)? };
            return self.exchange().map(|()| count);
        }
        match self.stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            outcome => outcome,
        }
    }

    /// Reads until the socket would block, 1 MiB at most. Gives the number of bytes.
    pub fn read_some(&mut self) -> usize {
        let mut total = 0;
        let mut block = [0; 16 * 1024];
        while self.end.is_none() && total < 1 << 20 {
            match self.read_stream(&mut block) {
                Ok(0) => self.end = Some(End::Fin),
                Ok(count) => {
                    total += count;
                    self.input.extend_from_slice(&block[..count]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.end = Some(End::Failed(error.kind())),
            }
        }
        total
    }

    /// Reads once, up to `most` bytes. Gives the number of bytes.
    pub fn read_up_to(&mut self, most: usize) -> usize {
        let mut block = vec![0; most];
        match self.read_stream(&mut block) {
            Ok(0) => self.end = Some(End::Fin),
            Ok(count) => {
                self.input.extend_from_slice(&block[..count]);
                return count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.end = Some(End::Failed(error.kind())),
        }
        0
    }

    /// Sends FIN, over TLS behind its close_notify.
    pub fn half_close(&mut self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = self.exchange();
        }
        self.stream.shutdown(Shutdown::Write).expect("a connected socket can be shut down");
    }

    /// Ends the connection with RST instead of FIN.
    #[cfg(unix)]
    pub fn reset(#[cfg_attr(not(feature = "tls"), allow(unused_mut))] mut self) {
        #[cfg(feature = "tls")]
        drop(self.tls.take());
        let linger = Some(std::time::Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&self.stream, linger).expect("a socket can linger");
    }

    /// Bytes that were read and not taken.
    pub fn input(&self) -> &[u8] {
        &self.input[self.at..]
    }

    /// Takes the first `len` bytes that were read and not taken.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let bytes = self.input()[..len].to_vec();
        self.at += len;
        bytes
    }

    pub fn take_all(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.input);
        all.drain(..std::mem::take(&mut self.at));
        all
    }

    pub fn take_head(&mut self) -> Option<String> {
        let end = self.input().windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.input()[..end].to_vec()).expect("a head is ASCII");
        self.at += end;
        Some(head)
    }

    /// The next frame, if all of it has been read. Checks that a server may send it.
    pub fn take_frame(&mut self) -> Option<Frame> {
        let input = self.input();
        let (&first, &second) = (input.first()?, input.get(1)?);
        assert_eq!(first & 0x70, 0, "no extension was negotiated");
        assert_eq!(second & 0x80, 0, "a server must not mask");
        let (start, len) = match second {
            126 => (4, u16::from_be_bytes(input.get(2..4)?.try_into().unwrap()) as usize),
            127 => (10, u64::from_be_bytes(input.get(2..10)?.try_into().unwrap()) as usize),
            len => (2, len as usize),
        };
        let payload = input.get(start..start + len)?.to_vec();
        self.at += start + len;
        if self.at > 1 << 20 {
            self.input.drain(..std::mem::take(&mut self.at));
        }
        Some(Frame { fin: first & 0x80 != 0, opcode: first & 0x0f, payload })
    }

    /// All frames that have been read whole.
    pub fn take_frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.take_frame()).collect()
    }
}

/// A client that leaves ends its encrypted stream, as all but the careless do.
#[cfg(feature = "tls")]
impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(tls) = self.tls.as_mut().filter(|tls| !tls.is_handshaking()) {
            tls.send_close_notify();
            let _ = self.exchange();
        }
    }
}
