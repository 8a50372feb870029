//! A socket with TLS against a client of rustls, over a pair of Unix sockets.

use std::io::{IoSlice, Read, Write};

use mio::net::UnixStream;
use rustls::ClientConnection;

use super::*;
use crate::{
    engine::HandshakeState,
    net::socket::Socket,
    tls::{client::TlsClient, server::Tls},
};

const CHAIN: &str = include_str!("tests/chain.pem");
const KEY: &str = include_str!("tests/key.pem");

/// Bytes behind a well-formed record with application data, which no key opens.
const FORGED: [u8; 45] = {
    let mut record = [7; 45];
    [record[0], record[1], record[2], record[3], record[4]] = [23, 3, 3, 0, 40];
    record
};

struct Pair {
    server: Socket,
    client: ClientConnection,
    far: UnixStream,
}

/// The fault that is done to the client's data on its way.
enum Harm {
    None,
    /// One byte is changed.
    Flip(usize),
    /// A record that the client has not sent.
    Forge,
}

impl Pair {
    fn new() -> Pair {
        let (near, far) = UnixStream::pair().unwrap();
        let mut acceptor = Acceptor::new(Tls::from_pem(CHAIN, KEY).unwrap());
        let server =
            TlsSocket::server(Socket::Unix(near), &mut acceptor, Arc::new(Blocks::new(Rearm::NATIVE)));
        let config = TlsClient::danger_trust_anything().config();
        let mut client = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        client.set_buffer_limit(None);
        Pair { server: Socket::Tls(Box::new(server)), client, far }
    }

    /// Moves everything from the server to the client.
    fn receive(&mut self, plaintext: &mut Vec<u8>) {
        while self.client.read_tls(&mut self.far).is_ok_and(|count| count > 0) {
            self.client.process_new_packets().unwrap();
            // rustls reads no more while much plaintext waits.
            let _ = self.client.reader().read_to_end(plaintext);
        }
    }

    fn ciphertext(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Makes the handshake, with the client's bytes in pieces.
    fn shake_hands(&mut self, piece: usize) {
        for _ in 0..10 {
            for piece in self.ciphertext().chunks(piece.max(1)) {
                self.far.write_all(piece).unwrap();
                match self.server.handshake(&[]).state {
                    HandshakeState::Complete(info) => {
                        assert_eq!(info.server_name(), Some("localhost"));
                        // The client has sent nothing behind its handshake yet.
                        return;
                    }
                    HandshakeState::Waiting => {}
                    other => panic!("{other:?}"),
                }
            }
            self.receive(&mut Vec::new());
        }
        panic!("the handshake does not end");
    }
}

/// Reads all there is, into buffers of this size. Returns how the stream ended, if it did.
fn read_all(socket: &mut Socket, size: usize, into: &mut Vec<u8>) -> Option<Result<(), ErrorKind>> {
    let mut buf = vec![0; size];
    loop {
        match socket.read(&mut buf) {
            Ok(0) => return Some(Ok(())),
            Ok(count) => into.extend_from_slice(&buf[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => return Some(Err(error.kind())),
        }
    }
}

/// A fuzz target: any bytes in place of a hello, or data with one fault behind a handshake.
pub(crate) fn target(data: &[u8]) {
    let [mode, size, piece, at, data @ ..] = data else { return };
    let mut pair = Pair::new();
    if mode & 1 == 0 {
        return instead_of_a_hello(pair, usize::from(*piece) * 8 + 1, data);
    }
    pair.shake_hands(if mode & 2 == 0 { usize::MAX } else { usize::from(*piece) + 1 });
    let harm = match mode >> 2 & 3 {
        0 => Harm::Forge,
        1 => Harm::Flip(usize::from(*at) * 7),
        _ => Harm::None,
    };
    transfer(pair, usize::from(*size) * 16 + 1, usize::from(*piece) * 8 + 1, data, &harm);
}

fn instead_of_a_hello(mut pair: Pair, piece: usize, data: &[u8]) {
    for piece in data.chunks(piece) {
        pair.far.write_all(piece).unwrap();
        match pair.server.handshake(&[]).state {
            HandshakeState::Waiting => {}
            HandshakeState::Complete(_) => panic!("a handshake without the client's keys"),
            HandshakeState::PlainText => {
                let mut read = Vec::new();
                assert_eq!(read_all(&mut pair.server, 7, &mut read), None);
                assert!(data.starts_with(&read) && !read.is_empty());
                return;
            }
            HandshakeState::Failed { .. } | HandshakeState::Gone(_) => return,
        }
        assert!(pair.server.memory() < 128 * 1024, "{}", pair.server.memory());
    }
}

fn transfer(mut pair: Pair, size: usize, piece: usize, data: &[u8], harm: &Harm) {
    // Messages of many sizes, each in one or more records.
    let mut sent = Vec::new();
    let mut ciphertext = Vec::new();
    for (number, chunk) in data.chunks(64).enumerate() {
        let message = chunk.repeat(1 << (number % 11));
        pair.client.writer().write_all(&message).unwrap();
        sent.extend_from_slice(&message);
        ciphertext.extend(pair.ciphertext());
    }
    pair.client.send_close_notify();
    ciphertext.extend(pair.ciphertext());
    match harm {
        Harm::None => {}
        Harm::Flip(at) => {
            let at = at % ciphertext.len();
            ciphertext[at] ^= 1;
        }
        Harm::Forge => {
            ciphertext.splice(0..0, FORGED);
        }
    }
    let (mut received, mut end) = (Vec::new(), None);
    for piece in ciphertext.chunks(piece) {
        let mut at = 0;
        while at < piece.len() && end.is_none() {
            at += pair.far.write(&piece[at..]).unwrap_or(0);
            end = read_all(&mut pair.server, size, &mut received);
        }
        assert!(sent.starts_with(&received), "plaintext that was not sent");
        // At most a record, and what the caller had no room for.
        assert!(pair.server.memory() < 4 * RECORD_MAX, "{}", pair.server.memory());
    }
    match harm {
        Harm::None => {
            assert_eq!((received.len(), end), (sent.len(), Some(Ok(()))));
            reply(pair, &sent, size);
        }
        // A changed length may wait for bytes that do not come, and the version in a header has no
        // meaning (RFC 8446 §5.1).
        Harm::Flip(_) => assert!(end != Some(Ok(())) || received == sent),
        Harm::Forge => assert_eq!((received.len(), end), (0, Some(Err(ErrorKind::InvalidData)))),
    }
}

/// Writes `data` back in parts of these sizes, and ends the stream.
fn reply(mut pair: Pair, data: &[u8], size: usize) {
    let parts: Vec<IoSlice<'_>> = data.chunks(size).map(IoSlice::new).collect();
    let mut got = Vec::new();
    for parts in parts.chunks(32) {
        let mut parts = parts.to_vec();
        let mut parts = &mut parts[..];
        while !parts.is_empty() {
            match pair.server.write_vectored(parts) {
                Ok(count) => IoSlice::advance_slices(&mut parts, count),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            pair.receive(&mut got);
        }
    }
    pair.server.end_after_output();
    while pair.server.flush().is_err() {
        pair.receive(&mut got);
    }
    pair.receive(&mut got);
    assert_eq!(got.len(), data.len());
    assert!(got == data, "what was written arrives");
    let end = pair.client.reader().read(&mut [0]);
    assert!(matches!(end, Ok(0)), "close_notify behind the data: {end:?}");
    assert_eq!(pair.server.memory(), 0);
}

#[cfg(test)]
mod cases {
    use super::*;

    #[test]
    fn data_arrives_whole_however_it_is_cut_and_whatever_room_there_is() {
        let data: Vec<u8> = (0..1500_u32).map(|at| (at * 7) as u8).collect();
        for size in [1, 5, 64, 1000, 16_384, 100_000] {
            for piece in [1, 4, 21, 1000, 20_000] {
                let mut pair = Pair::new();
                pair.shake_hands(piece.max(3));
                transfer(
                    pair,
                    size,
                    piece,
                    &data[..if size * piece < 1000 { 200 } else { 700 }],
                    &Harm::None,
                );
            }
        }
    }

    #[test]
    fn a_fault_ends_the_stream_and_yields_nothing_that_was_not_sent() {
        let data = [5; 300];
        for at in (0..400).step_by(13) {
            let mut pair = Pair::new();
            pair.shake_hands(usize::MAX);
            transfer(pair, 100, 50, &data, &Harm::Flip(at));
        }
        let mut pair = Pair::new();
        pair.shake_hands(usize::MAX);
        transfer(pair, 100, 50, &data, &Harm::Forge);
    }
    #[test]
    fn one_read_takes_a_bounded_number_of_tiny_records_and_tells_that_there_is_more() {
        let mut pair = Pair::new();
        pair.shake_hands(usize::MAX);
        let sent = 4000;
        for _ in 0..sent {
            pair.client.writer().write_all(&[7]).unwrap();
        }
        let records = pair.ciphertext();
        assert!(records.len() > 20 * sent, "each byte is a record of its own");
        pair.far.write_all(&records).unwrap();
        let mut got = pair.server.read(&mut [0; 2048]).unwrap();
        assert!(got < 256, "one read handles about as much input as its buffer holds, not {got} records");
        while got < sent {
            assert!(pair.server.has_input(), "no readable event follows, and {got} bytes have arrived");
            got += pair.server.read(&mut [0; 2048]).unwrap();
        }
        let end = pair.server.read(&mut [0; 2048]).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
        assert!(!pair.server.has_input());
    }

    #[test]
    fn a_server_that_sends_tickets_without_end_is_not_read_without_end() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let trusting = TlsClient::danger_trust_anything().config();
        let client = TlsSocket::client(
            Socket::Unix(near),
            trusting,
            "localhost".try_into().unwrap(),
            Arc::new(Blocks::new(Rearm::NATIVE)),
        );
        let mut client = Socket::Tls(Box::new(client));
        let mut config = ServerConfig::clone(&Tls::from_pem(CHAIN, KEY).unwrap().current());
        config.send_tls13_tickets = 2000;
        let mut server = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let (mut tickets, mut is_flooded) = (Vec::new(), false);
        for _ in 0..4 {
            if client.needs_handshake().is_some() {
                client.handshake(&[]);
            }
            client.flush().unwrap();
            while server.read_tls(&mut far).is_ok_and(|count| count > 0) {
                server.process_new_packets().unwrap();
            }
            tickets.clear();
            while server.wants_write() {
                server.write_tls(&mut tickets).unwrap();
            }
            is_flooded = tickets.len() > RECEIVE;
            far.write_all(&tickets[..tickets.len().min(RECEIVE + RECORD_MAX)]).unwrap();
            if is_flooded {
                break;
            }
        }
        assert!(is_flooded, "the tickets follow the handshake");
        let end = client.read(&mut [0; 2048]).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::InvalidData);
    }
}
