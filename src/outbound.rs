//! One outbound connection with a loop of its own.

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::{io, time::Duration};

use tungstenite::protocol::frame::coding::CloseCode;

use crate::{
    connect::Connect,
    error::{CloseError, ConnectError, NotConnected, SendError},
    event::Event,
    id::{ClientId, LinkId},
    proto::prepared::Outgoing,
    send_options::{LatestKey, SendTerms},
    server::Server,
    tick::Tick,
};

/// One outbound connection that its program polls, with the same shape as a [`Server`].
///
/// It is a server that listens nowhere and has one connection; [`server`](Client::server) gives it, with
/// everything that has no call here: timers, statistics, handles for other threads. Programs with several
/// connections, or with a server besides, want [`Server::connect`] and one loop.
///
/// The events are those of a server: one `Open`, then messages, then one `Close`; with a
/// [`Reconnect`](crate::Reconnect) policy [`Event::Reconnecting`] follows, and the same again.
/// [`id`](Client::id) is always the id of the connection that is open or to be.
///
/// # Examples
///
/// ```no_run
/// use tickws::{Client, Event};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = Client::connect("ws://127.0.0.1:9001/")?;
/// while !client.is_over() {
///     for event in &client.poll_wait(None)? {
///         match event {
///             Event::Open { .. } => client.send("hello")?,
///             Event::Message { message, .. } => println!("{message:?}"),
///             Event::Close { reason, .. } => println!("the end: {reason}"),
///             Event::ConnectFailed { error, .. } => println!("no connection: {error}"),
///             _ => {}
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    server: Server,
    id: ClientId,
    link: Option<LinkId>,
    over: bool,
}

impl Client {
    /// Begins to connect to `ws://host[:port][/path][?query]`; never blocks.
    ///
    /// # Errors
    ///
    /// As [`connect_with`](Client::connect_with).
    pub fn connect(url: impl AsRef<str>) -> Result<Client, ConnectError> {
        Client::connect_with(Connect::new(url))
    }

    /// Begins to connect; never blocks. With the defaults of a server's limits; for others see
    /// [`with_server`](Client::with_server).
    ///
    /// # Errors
    ///
    /// As [`Server::connect_with`], and [`ConnectError::Poller`] if the operating system gives no poller.
    pub fn connect_with(connect: Connect) -> Result<Client, ConnectError> {
        let server = Server::builder().build().map_err(|error| ConnectError::Poller(error.kind()))?;
        Client::with_server(server, connect)
    }

    /// As [`connect_with`](Client::connect_with), with limits of your own, and compression if they say so:
    /// `Server::builder().build()?`.
    ///
    /// # Errors
    ///
    /// As [`Server::connect_with`].
    pub fn with_server(mut server: Server, connect: Connect) -> Result<Client, ConnectError> {
        let id = server.connect_with(connect)?;
        let link = server.link(id);
        Ok(Client { server, id, link, over: false })
    }

    /// As [`Server::poll_once`]: never blocks.
    ///
    /// # Errors
    ///
    /// Only if the poller itself fails; what befalls the connection is an event.
    pub fn poll_once(&mut self) -> io::Result<Tick> {
        self.poll_for(Duration::ZERO)
    }

    /// As [`Server::poll_for`]: sleeps up to `timeout`.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Client::poll_once).
    pub fn poll_for(&mut self, timeout: Duration) -> io::Result<Tick> {
        self.poll_wait(Some(timeout))
    }

    /// As [`Server::poll_wait`]; `None` sleeps until something happens.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Client::poll_once).
    pub fn poll_wait(&mut self, timeout: Option<Duration>) -> io::Result<Tick> {
        let tick = self.server.poll_wait(timeout)?;
        for event in &tick {
            match event {
                Event::Reconnecting { client, link, .. } if Some(link) == self.link => {
                    (self.id, self.over) = (client, false);
                }
                Event::ConnectFailed { link, .. } if Some(link) == self.link => self.over = true,
                // Unless a `Reconnecting` follows in this tick, that was it.
                Event::Close { client, .. } if client == self.id => self.over = true,
                _ => {}
            }
        }
        Ok(tick)
    }

    /// As [`Server::flush`].
    pub fn flush(&mut self) {
        self.server.flush();
    }

    /// Queues a message. While there is no connection it is up to [`WhileDown`](crate::WhileDown).
    ///
    /// # Errors
    ///
    /// As [`Server::send`].
    pub fn send<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Result<(), SendError> {
        self.server.send(self.id, message)
    }

    /// As [`Server::send_latest`].
    ///
    /// # Errors
    ///
    /// As [`Server::send_latest`].
    pub fn send_latest<'m>(
        &mut self,
        key: impl Into<LatestKey>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), SendError> {
        self.server.send_latest(self.id, key, message)
    }

    /// As [`Server::send_with`].
    ///
    /// # Errors
    ///
    /// As [`Server::send_with`].
    pub fn send_with<'m>(
        &mut self,
        message: impl Into<Outgoing<'m>>,
        options: impl Into<SendTerms>,
    ) -> Result<(), SendError> {
        self.server.send_with(self.id, message, options)
    }

    /// Begins the close handshake behind what is queued, or gives up connecting. It is not connected again.
    ///
    /// # Errors
    ///
    /// As [`Server::close`].
    pub fn close(&mut self, code: impl Into<CloseCode>, reason: &str) -> Result<(), CloseError> {
        self.server.close(self.id, code, reason)
    }

    /// Drops the connection, or gives up connecting. It is not connected again.
    ///
    /// # Errors
    ///
    /// It is over already.
    pub fn disconnect(&mut self) -> Result<(), NotConnected> {
        self.server.disconnect(self.id)
    }

    /// As [`Server::next_timeout`].
    pub fn next_timeout(&mut self) -> Option<Duration> {
        self.server.next_timeout()
    }

    /// Whether the connection is open.
    pub fn is_open(&self) -> bool {
        self.server.remote_addr(self.id).is_some() && !self.over
    }

    /// Whether its last event was handed out: `Close` without a new attempt behind it, or `ConnectFailed`.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The id of the connection that is open, or to be.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// The server behind it.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// Readable when a poll would find I/O to do.
#[cfg(unix)]
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.server.as_fd()
    }
}

/// Readable when a poll would find I/O to do.
#[cfg(unix)]
impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.server.as_raw_fd()
    }
}
