//! The client's end of TLS, for the peers of an encrypted host.

use std::io::{ErrorKind, Read, Write};

use rustls::{ClientConnection, pki_types::ServerName};

use crate::tls::client::TlsClient;

/// The connection of one peer. It is independent of the server's: of the buffered kind.
#[derive(Debug)]
pub(super) struct PeerTls(ClientConnection);

impl PeerTls {
    pub(super) fn new() -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut connection =
            ClientConnection::new(TlsClient::simulated(), name).expect("a configuration that works");
        connection.set_buffer_limit(None);
        PeerTls(connection)
    }

    /// The bytes to send for this plaintext. Until the end of the handshake it waits.
    pub(super) fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        self.0.writer().write_all(plaintext).expect("no limit");
        self.output()
    }

    /// The bytes with which the stream ends.
    pub(super) fn end(&mut self) -> Vec<u8> {
        self.0.send_close_notify();
        self.output()
    }

    /// Decrypts what has arrived. Returns the plaintext, and the bytes to send in return.
    pub(super) fn open(&mut self, mut ciphertext: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut plaintext = Vec::new();
        while !ciphertext.is_empty() {
            self.0.read_tls(&mut ciphertext).expect("bytes in memory");
            self.0.process_new_packets().expect("tickws sends valid records");
            match self.0.reader().read_to_end(&mut plaintext) {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        (plaintext, self.output())
    }

    fn output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut bytes).expect("bytes in memory");
        }
        bytes
    }
}
