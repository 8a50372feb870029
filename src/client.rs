//! A single outbound connection with its own loop.

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    close_code::CloseCode,
    config::{
        connect::Connect,
        send_options::{LatestKey, SendOptions},
    },
    error::{CloseError, ConnectError, NotConnectedError, SendError},
    event::{Event, tick::Tick},
    id::{ClientId, LinkId},
    outbox::outgoing::AsMessage,
    server::Server,
};

/// One outbound connection that a program polls like a [`Server`].
///
/// It wraps a [`Server`] without listeners and with one connection.
/// [`server_mut`](Client::server_mut) returns it, for timers, statistics and handles for other
/// threads. A program with several connections, or with a server, uses [`Server::connect`] and one
/// loop instead.
///
/// The events are those of a server: one `Open`, then messages, then one `Close`. With a
/// [`Reconnect`](crate::Reconnect) policy [`Event::Reconnecting`] follows, then the same again.
/// [`id`](Client::id) always returns the id of the current or next connection.
///
/// # Portability
///
/// As [`Server`]: on Unix a client has a descriptor for another event loop (`AsFd`, `AsRawFd`).
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
///             Event::Close { reason, .. } => println!("closed: {reason}"),
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
    /// Begins to connect to `ws://host[:port][/path][?query]`, with the default limits of a server.
    /// Never blocks. For other limits use
    /// [`with_server`](Client::with_server).
    ///
    /// # Errors
    ///
    /// As [`Server::connect`], and [`ConnectError::Poller`] if the operating system's poller
    /// cannot be created.
    pub fn connect(connect: impl Into<Connect>) -> Result<Client, ConnectError> {
        let server = Server::builder().build().map_err(|error| ConnectError::Poller(error.kind()))?;
        Client::with_server(server, connect)
    }

    /// Begins to connect, with the limits and compression of a server built with
    /// `Server::builder().build()?`. Never blocks.
    ///
    /// # Errors
    ///
    /// As [`Server::connect`].
    pub fn with_server(mut server: Server, connect: impl Into<Connect>) -> Result<Client, ConnectError> {
        let id = server.connect(connect)?;
        let link = server.link(id);
        Ok(Client { server, id, link, over: false })
    }

    /// As [`Server::poll_once`]: never blocks.
    ///
    /// # Errors
    ///
    /// The poller's own errors only. Errors of the connection are events.
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
    pub fn poll_wait(&mut self, mut timeout: Option<Duration>) -> io::Result<Tick> {
        if self.over {
            self.server.flush();
            // Nothing else is going to happen, unless the application uses the server's own calls.
            if self.is_over() {
                timeout = Some(Duration::ZERO);
            }
        }
        let tick = self.server.poll_wait(timeout)?;
        for event in &tick {
            match event {
                Event::Reconnecting { client, link, .. } if Some(link) == self.link => {
                    (self.id, self.over) = (client, false);
                }
                Event::ConnectFailed { link, .. } if Some(link) == self.link => self.over = true,
                // The connection is over, unless a `Reconnecting` follows in this tick.
                Event::Close { client, .. } if client == self.id => self.over = true,
                _ => {}
            }
        }
        Ok(tick)
    }

    /// As [`Server::poll_until`]: sleeps until `deadline` at the latest.
    ///
    /// # Errors
    ///
    /// As [`poll_once`](Client::poll_once).
    pub fn poll_until(&mut self, deadline: Instant) -> io::Result<Tick> {
        self.poll_for(deadline.saturating_duration_since(self.server.now()))
    }

    /// As [`Server::flush`].
    pub fn flush(&mut self) -> usize {
        self.server.flush()
    }

    /// Queues a message. [`WhileDown`](crate::WhileDown) applies while the connection is not open.
    ///
    /// # Errors
    ///
    /// As [`Server::send`].
    pub fn send(&mut self, message: impl AsMessage) -> Result<(), SendError> {
        self.server.send(self.id, message)
    }

    /// As [`Server::send_latest`].
    ///
    /// # Errors
    ///
    /// As [`Server::send_latest`].
    pub fn send_latest(
        &mut self,
        key: impl Into<LatestKey>,
        message: impl AsMessage,
    ) -> Result<(), SendError> {
        self.server.send_latest(self.id, key, message)
    }

    /// As [`Server::send_with`].
    ///
    /// # Errors
    ///
    /// As [`Server::send_with`].
    pub fn send_with(&mut self, message: impl AsMessage, options: &SendOptions) -> Result<(), SendError> {
        self.server.send_with(self.id, message, options)
    }

    /// Begins the close handshake after the queued messages, or cancels connecting. There is no
    /// reconnect.
    ///
    /// # Errors
    ///
    /// As [`Server::close`].
    pub fn close(&mut self, code: impl Into<CloseCode>, reason: &str) -> Result<(), CloseError> {
        self.server.close(self.id, code, reason)
    }

    /// Drops the connection, or cancels connecting. There is no reconnect.
    ///
    /// # Errors
    ///
    /// [`NotConnectedError`] if the connection is over already.
    pub fn disconnect(&mut self) -> Result<(), NotConnectedError> {
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

    /// Whether the connection is over: the last event was returned, a `Close` without a new attempt
    /// or a `ConnectFailed`, and the last byte has left or its deadline has passed. A close frame
    /// that is owed to the peer is so written by a loop that polls until then.
    pub fn is_over(&self) -> bool {
        self.over && !self.server.owes(self.id)
    }

    /// The id of the current or next connection.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// The wrapped server, for queries and statistics.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The wrapped server, for timers and handles.
    pub fn server_mut(&mut self) -> &mut Server {
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
