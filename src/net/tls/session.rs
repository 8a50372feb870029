//! The seam to rustls: records in, plaintext out, and the reverse. Everything that knows the
//! unbuffered API of rustls 0.23 is in this file, because 0.24 has another one.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use rustls::{
    AlertDescription, ClientConfig, Error, HandshakeKind, ProtocolVersion, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
    },
};

use crate::tls::info::{TlsFailure, TlsInfo, TlsVersion};

/// Bytes of ciphertext that are to be written to the socket.
#[derive(Debug, Default)]
pub(super) struct Ciphertext {
    /// Allocated and initialised up to its length; the first `filled` bytes count.
    bytes: Vec<u8>,
    filled: usize,
    /// Bytes that the socket has taken.
    sent: usize,
}

impl Ciphertext {
    pub(super) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..self.filled).unwrap_or_default()
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
    }

    pub(super) fn clear(&mut self) {
        (self.filled, self.sent) = (0, 0);
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// A copy of what is unsent, in no more memory than it needs.
    pub(super) fn exact(&self) -> Ciphertext {
        let bytes = self.unsent().to_vec();
        Ciphertext { filled: bytes.len(), sent: 0, bytes }
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let room = self.room(bytes.len());
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.filled += bytes.len();
    }

    /// Room for `len` more bytes. `filled` must follow.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.filled + len;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    /// Appends what `write` puts into the room that it gets: at first `len` bytes, and then as many
    /// as it asks for. `None`: it failed for another reason.
    fn append(
        &mut self,
        len: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
    ) -> Option<()> {
        let count = match write(self.room(len)) {
            Ok(count) => count,
            Err(Some(needed)) => write(self.room(needed)).ok()?,
            Err(None) => return None,
        };
        self.filled += count;
        Some(())
    }
}

/// Why rustls wrote nothing: with the number of bytes that it needs, or else for good.
fn needed(error: EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Some(required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Received bytes that the caller has not got yet.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// Mostly part of a record.
    pub(super) ciphertext: Vec<u8>,
    /// Plaintext for which the caller had no room.
    pub(super) plaintext: Vec<u8>,
    /// Bytes of the plaintext that the caller has got since.
    taken: usize,
    /// The peer's close_notify was found behind the plaintext.
    pub(super) is_closed: bool,
}

impl Received {
    /// Moves plaintext into `buf`, and frees it when it is all moved.
    pub(super) fn take_plaintext(&mut self, buf: &mut [u8]) -> usize {
        let left = self.plaintext.get(self.taken..).unwrap_or_default();
        let count = left.len().min(buf.len());
        buf.iter_mut().zip(left).for_each(|(to, from)| *to = *from);
        self.taken += count;
        if self.taken == self.plaintext.len() {
            (self.plaintext, self.taken) = (Vec::new(), 0);
        }
        count
    }
}

/// The next thing that a connection needs.
#[derive(Debug)]
pub(super) enum Next {
    /// Another call, with the input behind what was consumed.
    Again,
    /// More input; what is left of it is an incomplete record.
    Input,
    /// Nothing: the peer has sent close_notify (RFC 8446 §6.1).
    Closed,
    /// The connection has failed. An alert for the peer was appended to the output.
    Failed(Error),
}

/// One TLS connection, without its socket and without buffers.
pub(super) enum Session {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if matches!(self, Session::Server(_)) { "Server" } else { "Client" };
        f.debug_struct(role).field("is_handshaking", &self.is_handshaking()).finish_non_exhaustive()
    }
}

/// Runs the expression with the connection of either side.
macro_rules! both {
    ($session:expr, $connection:ident => $value:expr) => {
        match $session {
            Session::Server($connection) => $value,
            Session::Client($connection) => $value,
        }
    };
}

impl Session {
    /// The bytes that sealing adds to a payload at most: header, nonce, tag and content type.
    const OVERHEAD: usize = 64;

    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Session, Error> {
        Ok(Session::Server(Box::new(UnbufferedServerConnection::new(config)?)))
    }

    pub(super) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Session, Error> {
        Ok(Session::Client(Box::new(UnbufferedClientConnection::new(config, name)?)))
    }

    pub(super) fn version(&self) -> Option<ProtocolVersion> {
        both!(self, connection => connection.protocol_version())
    }

    pub(super) fn is_handshaking(&self) -> bool {
        both!(self, connection => connection.is_handshaking())
    }

    /// Handles the records in `input` until one of them yields plaintext, which goes to `take`, or
    /// no complete one is left. Returns how many bytes of the input are done with. Appends to `out`
    /// what has to be sent.
    pub(super) fn receive(
        &mut self,
        input: &mut [u8],
        out: &mut Ciphertext,
        take: impl FnMut(&[u8]),
    ) -> (usize, Next) {
        let (consumed, next) = both!(&mut *self, connection => {
            advance(connection.process_tls_records(input), out, take)
        });
        if let Next::Failed(_) = next {
            self.drain_alert(input.get_mut(consumed..).unwrap_or_default(), out);
        }
        (consumed, next)
    }

    /// Takes the alert that rustls has queued with an error, and records that were queued before
    /// it. Behind the alert nothing may be called: rustls would look at the input again, and find
    /// the error a second time.
    fn drain_alert(&mut self, input: &mut [u8], out: &mut Ciphertext) {
        for _ in 0..16 {
            let before = out.filled;
            let (_, next) = both!(&mut *self, connection => {
                advance(connection.process_tls_records(input), out, |_| {})
            });
            if !matches!(next, Next::Again) || out.bytes.get(before..out.filled).is_some_and(is_alert) {
                return;
            }
        }
    }

    /// Seals one payload of at most 16 KiB into one record.
    pub(super) fn seal(
        &mut self,
        payload: &[u8],
        received: &mut Received,
        out: &mut Ciphertext,
    ) -> Result<(), Error> {
        self.with_traffic(received, out, |traffic, out| {
            out.append(payload.len() + Self::OVERHEAD, |room| traffic.encrypt(payload, room).map_err(needed))
        })
    }

    /// Appends close_notify (RFC 8446 §6.1).
    pub(super) fn close(&mut self, received: &mut Received, out: &mut Ciphertext) -> Result<(), Error> {
        self.with_traffic(received, out, |traffic, out| {
            out.append(Self::OVERHEAD, |room| traffic.queue_close_notify(room).map_err(needed))
        })
    }

    /// Calls `write` once the connection can send. A key update or a ticket may have to go first.
    ///
    /// rustls counts positions in the input that it has seen and not discarded, and panics if that
    /// is missing: so it gets what was received also where only output is wanted.
    fn with_traffic(
        &mut self,
        received: &mut Received,
        out: &mut Ciphertext,
        mut write: impl FnMut(&mut Traffic<'_, '_>, &mut Ciphertext) -> Option<()>,
    ) -> Result<(), Error> {
        loop {
            let Received { ciphertext, plaintext, is_closed, .. } = received;
            let keep = |payload: &[u8]| plaintext.extend_from_slice(payload);
            let (consumed, next) = match self {
                Session::Server(connection) => match connection.process_tls_records(ciphertext) {
                    UnbufferedStatus { state: Ok(ConnectionState::WriteTraffic(mut traffic)), .. } => {
                        return write(&mut Traffic::Server(&mut traffic), out).ok_or(Error::EncryptError);
                    }
                    status => advance(status, out, keep),
                },
                Session::Client(connection) => match connection.process_tls_records(ciphertext) {
                    UnbufferedStatus { state: Ok(ConnectionState::WriteTraffic(mut traffic)), .. } => {
                        return write(&mut Traffic::Client(&mut traffic), out).ok_or(Error::EncryptError);
                    }
                    status => advance(status, out, keep),
                },
            };
            ciphertext.drain(..consumed);
            match next {
                Next::Again => {}
                // The peer has ended its direction, which does not end this one. rustls tells once.
                Next::Closed if !*is_closed => *is_closed = true,
                Next::Failed(error) => {
                    self.drain_alert(ciphertext, out);
                    return Err(error);
                }
                Next::Input | Next::Closed => return Err(Error::EncryptError),
            }
        }
    }

    /// The parameters of the handshake. `server_name` is the name that a client has asked for.
    pub(super) fn info(&self, server_name: Option<Box<str>>) -> TlsInfo {
        both!(self, connection => {
            let cipher = connection.negotiated_cipher_suite();
            let alpn = connection.alpn_protocol();
            let certificates = connection.peer_certificates().unwrap_or_default();
            TlsInfo {
                version: match connection.protocol_version() {
                    Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
                    _ => TlsVersion::V1_2,
                },
                cipher: cipher.and_then(|cipher| cipher.suite().as_str()).unwrap_or_default().into(),
                server_name,
                alpn: alpn.map(|name| String::from_utf8_lossy(name).into()),
                is_resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
                peer_certificates: certificates.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
            }
        })
    }
}

/// The two types of a connection that can send.
enum Traffic<'t, 'c> {
    Server(&'t mut WriteTraffic<'c, rustls::server::ServerConnectionData>),
    Client(&'t mut WriteTraffic<'c, rustls::client::ClientConnectionData>),
}

impl Traffic<'_, '_> {
    fn encrypt(&mut self, payload: &[u8], room: &mut [u8]) -> Result<usize, EncryptError> {
        match self {
            Traffic::Server(traffic) => traffic.encrypt(payload, room),
            Traffic::Client(traffic) => traffic.encrypt(payload, room),
        }
    }

    fn queue_close_notify(&mut self, room: &mut [u8]) -> Result<usize, EncryptError> {
        match self {
            Traffic::Server(traffic) => traffic.queue_close_notify(room),
            Traffic::Client(traffic) => traffic.queue_close_notify(room),
        }
    }
}

/// Whether these bytes are one record with an alert. An encrypted one of TLS 1.3 is recognised by
/// its length: two bytes, the content type and the tag (RFC 8446 §5.2). No other message is as
/// short.
fn is_alert(record: &[u8]) -> bool {
    matches!(record, [21, ..] | [23, _, _, 0, 19, ..])
}

/// Handles one state. Returns the bytes to discard, which counts only after the state was handled.
fn advance<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Ciphertext,
    mut take: impl FnMut(&[u8]),
) -> (usize, Next) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    take(record.payload);
                }
                Some(Err(error)) => break Next::Failed(error),
                None => break Next::Again,
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let encoded = out.append(256, |room| {
                data.encode(room).map_err(|error| match error {
                    EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                        Some(required_size)
                    }
                    EncodeError::AlreadyEncoded => None,
                })
            });
            encoded.map_or(Next::Failed(Error::EncryptError), |()| Next::Again)
        }
        // The encoded bytes are kept until the socket takes them.
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Next::Again
        }
        Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => Next::Input,
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Next::Closed,
        // Early data is refused when the server is built.
        Ok(_) => Next::Failed(Error::General("an unexpected state of the TLS connection".to_owned())),
        Err(error) => Next::Failed(error),
    };
    (discard, next)
}

/// The cause of a failure, as it is counted.
pub(super) fn cause_of(error: &Error) -> TlsFailure {
    match error {
        // The peer could not agree either.
        Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::NoApplicationProtocol)
        | Error::PeerIncompatible(_)
        | Error::NoApplicationProtocol => TlsFailure::NoCommonParameters,
        Error::AlertReceived(_) => TlsFailure::Alert,
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => TlsFailure::PeerCertificate,
        _ => TlsFailure::Malformed,
    }
}
