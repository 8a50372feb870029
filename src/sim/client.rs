//! A client in a simulated network.

#![allow(clippy::indexing_slicing, reason = "up to a length that is below the slice's")]

use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use crate::{
    message::Message,
    net::sim::{Received, Shared},
};

/// One client of a simulated server, as a test plays it.
///
/// It speaks RFC 6455 by itself: masks what it says, answers pings and close frames when they arrive, and hangs
/// up when the server does. Everything else is the test's. Dropping it closes its socket, as a process that ends
/// does.
///
/// # Panics
///
/// Where anything arrives for it that a server may not send, be it a frame behind the close frame or an answer to
/// another client's key: then this library is at fault.
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
///     Event::Close { .. } => server.shutdown(1001, std::time::Duration::ZERO),
///     _ => {}
/// })?;
/// assert_eq!(client.status(), Some(101));
/// assert_eq!(client.received()[0], Received::Text("hi".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a client that is dropped hangs up"]
pub struct SimClient {
    network: Shared,
    number: usize,
}

impl SimClient {
    pub(super) fn new(network: Shared, host: usize) -> Self {
        let number = network.lock().add_speaker(host);
        SimClient { network, number }
    }

    pub(super) fn ask(&mut self, path: &str, headers: &[(&str, &str)]) {
        self.network.lock().ask(self.number, path, headers);
    }

    /// Sends a message in one frame, as soon as the server has opened the WebSocket. What the network has no room
    /// for waits here. After [`close`](Self::close) and the like, and where the server has refused, it goes nowhere.
    pub fn send<'m>(&mut self, message: impl Into<Message<'m>>) {
        let message = message.into();
        let opcode = match message {
            Message::Text(_) => Data::Text,
            Message::Binary(_) => Data::Binary,
        };
        self.network.lock().say_frame(self.number, OpCode::Data(opcode), message.as_bytes());
    }

    /// Sends a ping; of more than 125 bytes only the first 125 (RFC 6455 §5.5).
    pub fn ping(&mut self, body: &[u8]) {
        let body = &body[..body.len().min(125)];
        self.network.lock().say_frame(self.number, OpCode::Control(Control::Ping), body);
    }

    /// Begins the close handshake; the reason is cut at 123 bytes. 1005 sends an empty frame.
    pub fn close(&mut self, code: impl Into<CloseCode>, reason: &str) {
        let code = u16::from(code.into());
        let mut end = reason.len().min(123);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let body = [&code.to_be_bytes()[..], &reason.as_bytes()[..end]].concat();
        let body = if code == 1005 { &[] } else { &body[..] };
        self.network.lock().say_frame(self.number, OpCode::Control(Control::Close), body);
    }

    /// Sends bytes as they are: a plain request, half a frame, garbage.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.network.lock().say(self.number, bytes);
    }

    /// Sends FIN behind everything said, and goes on hearing.
    pub fn finish(&mut self) {
        self.network.lock().say_end(self.number);
    }

    /// Resets the connection: both sides see it at once, and what was on its way is lost.
    pub fn reset(&mut self) {
        self.network.lock().say_reset(self.number);
    }

    /// Reads nothing until [`resume`](Self::resume), not even pings: the buffers fill, and the server has to
    /// wait. What was [`received`](Self::received) before stays.
    pub fn stall(&mut self) {
        self.network.lock().stall(self.number, true);
    }

    /// Reads again, beginning with what has come meanwhile.
    pub fn resume(&mut self) {
        self.network.lock().stall(self.number, false);
    }

    /// The status of the server's answer, 101 for a WebSocket; `None` before it has arrived.
    pub fn status(&self) -> Option<u16> {
        self.network.lock().status(self.number)
    }

    /// The head of the server's answer, up to the empty line; empty before it has arrived.
    pub fn response_head(&self) -> String {
        self.network.lock().response_head(self.number)
    }

    /// Takes what has arrived behind an answer that opened no WebSocket.
    pub fn body(&mut self) -> Vec<u8> {
        self.network.lock().body(self.number)
    }

    /// Takes what has arrived since the last call, in order.
    pub fn received(&mut self) -> Vec<Received> {
        self.network.lock().heard(self.number)
    }

    /// Whether the connection has ended for this client: nothing more will be received.
    pub fn is_over(&self) -> bool {
        self.network.lock().is_over(self.number)
    }
}

impl Drop for SimClient {
    fn drop(&mut self) {
        self.network.lock().hang_up(self.number);
    }
}
