//! The server's end of TLS on the unbuffered connections of rustls, as bare as it goes: for the
//! second limit.

use std::{
    cell::RefCell,
    io::{self, ErrorKind, IoSlice, Read, Write},
    sync::Arc,
};

use mio::net::TcpStream;
use tickws::tls::rustls_0_23::rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use crate::Outcome;

/// The most payload of one record.
const RECORD: usize = 16 * 1024;

thread_local! {
    /// The block into which all connections read, one after the other.
    static BLOCK: RefCell<Vec<u8>> = RefCell::new(vec![0; 80 * 1024]);
}

/// A connection. It owns the bytes of incomplete records, and what the socket did not take.
pub struct Unbuffered {
    socket: TcpStream,
    tls: UnbufferedServerConnection,
    incoming: Vec<u8>,
    plaintext: Vec<u8>,
    out: Vec<u8>,
}

fn invalid<E>(_: E) -> io::Error {
    ErrorKind::InvalidData.into()
}

impl std::fmt::Debug for Unbuffered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unbuffered").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Unbuffered {
    pub fn new(socket: TcpStream, config: Arc<ServerConfig>) -> Outcome<Self> {
        let tls = UnbufferedServerConnection::new(config)?;
        Ok(Unbuffered { socket, tls, incoming: Vec::new(), plaintext: Vec::new(), out: Vec::new() })
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Writes ciphertext until the socket would block. Returns whether all has left.
    pub fn push(&mut self) -> io::Result<bool> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.socket.write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.out = if sent == self.out.len() { Vec::new() } else { self.out.split_off(sent) };
        Ok(self.out.is_empty())
    }

    /// Handles the records in `input`. Returns how many bytes are done with.
    fn process(&mut self, input: &mut [u8]) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut input[used..]);
            let mut over = false;
            match state.map_err(invalid)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        self.plaintext.extend_from_slice(record.payload);
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let start = self.out.len();
                    self.out.resize(start + 256, 0);
                    let mut outcome = data.encode(&mut self.out[start..]);
                    if let Err(EncodeError::InsufficientSize(needed)) = &outcome {
                        self.out.resize(start + needed.required_size, 0);
                        outcome = data.encode(&mut self.out[start..]);
                    }
                    self.out.truncate(start + outcome.map_err(invalid)?);
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                _ => over = true,
            }
            used += discard;
            if over {
                return Ok(used);
            }
        }
    }

    fn seal(&mut self, payload: &[u8]) -> io::Result<()> {
        // rustls remembers how much of the input it has seen, and panics if that is missing.
        let status = self.tls.process_tls_records(&mut self.incoming);
        let ConnectionState::WriteTraffic(mut traffic) = status.state.map_err(invalid)? else {
            return Err(ErrorKind::WouldBlock.into());
        };
        let start = self.out.len();
        self.out.resize(start + payload.len() + 64, 0);
        let mut outcome = traffic.encrypt(payload, &mut self.out[start..]);
        if let Err(EncryptError::InsufficientSize(needed)) = &outcome {
            self.out.resize(start + needed.required_size, 0);
            outcome = traffic.encrypt(payload, &mut self.out[start..]);
        }
        self.out.truncate(start + outcome.map_err(invalid)?);
        Ok(())
    }
}

impl Unbuffered {
    /// One read of the socket. Returns whether the socket may have more.
    fn fill(&mut self) -> io::Result<bool> {
        BLOCK.with_borrow_mut(|block| {
            let start = self.incoming.len();
            block[..start].copy_from_slice(&self.incoming);
            let count = self.socket.read(&mut block[start..])?;
            if count == 0 {
                return Err(io::Error::from(ErrorKind::UnexpectedEof));
            }
            let used = self.process(&mut block[..start + count])?;
            self.incoming = block[used..start + count].to_vec();
            Ok(start + count == block.len())
        })
    }
}

impl Read for Unbuffered {
    /// Fewer bytes than the buffer has room for: the socket is drained.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (mut filled, mut may_have_more) = (0, true);
        loop {
            let count = self.plaintext.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&self.plaintext[..count]);
            self.plaintext = self.plaintext.split_off(count);
            filled += count;
            if filled == buffer.len() || !may_have_more {
                break;
            }
            may_have_more = match self.fill() {
                Ok(may_have_more) => may_have_more,
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            };
        }
        self.push()?;
        if filled == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(filled) }
    }
}

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.push()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut total = 0;
        for payload in slices.iter().flat_map(|slice| slice.chunks(RECORD)) {
            self.seal(payload)?;
            total += payload.len();
        }
        self.push()?;
        Ok(total)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.push().map(drop)
    }
}
