//! A client in a simulated network.

#![allow(clippy::indexing_slicing, reason = "the end of each range is at most the length of the slice")]

use std::mem;

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::{
    close_code::CloseCode,
    message::Kind,
    net::sim::{Received, Shared},
    outbox::outgoing::AsMessage,
};

/// One client of a simulated server, controlled by a test.
///
/// It follows RFC 6455: it masks its frames, replies to pings and close frames when they arrive,
/// and closes its socket when the server does. Dropping it closes its socket, like the exit of a
/// process.
///
/// # Panics
///
/// If the server violates the protocol, for example with a frame after its close frame or a wrong
/// `Sec-WebSocket-Accept`. This is a bug of the library.
///
/// # Examples
///
/// ```
/// use tickws::{Event, Server, sim::{Received, Sim}};
///
/// # fn main() -> std::io::Result<()> {
/// let sim = Sim::new(1);
/// let mut server = sim.server(Server::builder())?;
/// let mut client = sim.connect(&server, "/?name=ada");
/// client.send("hi");
/// client.close(1000, "");
/// server.run(|server, event| match event {
///     Event::Message { client, message } => server.send(client, message).unwrap(),
///     Event::Close { .. } => server.shutdown(1001, "", std::time::Duration::ZERO),
///     _ => {}
/// })?;
/// assert_eq!(client.status(), Some(101));
/// assert_eq!(client.received()[0], Received::Text("hi".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping the client closes its socket"]
pub struct SimClient {
    network: Shared,
    number: usize,
}

impl SimClient {
    pub(super) fn new(network: Shared, host: usize) -> Self {
        let number = network.lock().add_client(host);
        SimClient { network, number }
    }

    pub(super) fn request_upgrade(&mut self, path: &str, headers: &[(&str, &str)]) {
        self.network.lock().request_upgrade(self.number, path, headers);
    }

    /// Sends a message in one frame, once the response 101 has arrived. Bytes for which the network
    /// has no room are queued. The message is dropped after [`close`](Self::close),
    /// [`finish`](Self::finish) or [`reset`](Self::reset), and if the server rejected the upgrade.
    pub fn send(&mut self, message: impl AsMessage) {
        let message = message.as_message();
        let opcode = match message.kind() {
            Kind::Text => Data::Text,
            Kind::Binary => Data::Binary,
        };
        self.network.lock().send_frame(self.number, OpCode::Data(opcode), message.payload());
    }

    /// Sends a ping with the body, cut at 125 bytes (RFC 6455 §5.5).
    pub fn ping(&mut self, body: &[u8]) {
        let body = &body[..body.len().min(125)];
        self.network.lock().send_frame(self.number, OpCode::Control(Control::Ping), body);
    }

    /// Starts the closing handshake (RFC 6455 §7.1.2). The reason is cut at 123 bytes. The code
    /// 1005 sends an empty close frame.
    pub fn close(&mut self, code: impl Into<CloseCode>, reason: &str) {
        let code = u16::from(code.into());
        let reason = (0..=123).rev().find_map(|end| reason.get(..end)).unwrap_or_default();
        self.network.lock().send_close(self.number, code, reason);
    }

    /// Sends bytes unchanged, for plain requests, partial frames or invalid input.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.network.lock().send(self.number, bytes);
    }

    /// Sends FIN behind everything queued. The client still receives.
    pub fn finish(&mut self) {
        self.network.lock().send_fin(self.number);
    }

    /// Resets the connection on both sides at once. Bytes in flight are lost.
    pub fn reset(&mut self) {
        self.network.lock().reset_peer(self.number);
    }

    /// Stops reading until [`resume`](Self::resume): buffers fill up and writes of the server would
    /// block. Pings get no reply. Messages that arrived before can still be
    /// [`received`](Self::received).
    pub fn stall(&mut self) {
        self.network.lock().set_paused(self.number, true);
    }

    /// Resumes reading with the bytes that arrived during the pause.
    pub fn resume(&mut self) {
        self.network.lock().set_paused(self.number, false);
    }

    /// The status of the response, 101 for a WebSocket; `None` before the response has arrived.
    pub fn status(&self) -> Option<u16> {
        self.network.lock().peer(self.number).inbox.status
    }

    /// The head of the response, up to the empty line; empty before the response has arrived.
    pub fn response_head(&self) -> String {
        self.network.lock().peer(self.number).head.clone()
    }

    /// Takes the bytes that arrived behind the head of a response other than 101.
    pub fn body(&mut self) -> Vec<u8> {
        let mut network = self.network.lock();
        let inbox = &mut network.peer(self.number).inbox;
        if inbox.status == Some(101) { Vec::new() } else { mem::take(&mut inbox.bytes) }
    }

    /// Takes the input since the last call, in order.
    pub fn received(&mut self) -> Vec<Received> {
        mem::take(&mut self.network.lock().peer(self.number).received)
    }

    /// Whether the connection has ended for this client. It receives nothing more.
    pub fn is_over(&self) -> bool {
        self.network.lock().peer(self.number).ended
    }
}

impl Drop for SimClient {
    fn drop(&mut self) {
        self.network.lock().close_socket(self.number);
    }
}
