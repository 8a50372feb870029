//! What a server can be told before it begins.

mod http;

use std::{
    io,
    net::{TcpListener, ToSocketAddrs},
    time::Duration,
};

use crate::{
    config::{Config, Limit, OriginPolicy, Overflow},
    error::ConfigError,
    server::Server,
    services::Services,
};

impl Server {
    /// A server on every address that `addrs` resolves to, with the defaults of the README's table.
    ///
    /// # Errors
    ///
    /// As [`ServerBuilder::bind`].
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let server = tickws::Server::bind("127.0.0.1:0")?;
    /// assert_ne!(server.local_addrs()[0].port(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn bind(addrs: impl ToSocketAddrs) -> io::Result<Server> {
        Server::builder().bind(addrs)
    }

    /// Sets limits, deadlines and policies before binding.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }
}

/// Configures a [`Server`]; see the README's table of limits and defaults.
///
/// Every method takes the builder and gives it back; [`bind`](ServerBuilder::bind) or
/// [`build`](ServerBuilder::build) ends the chain and checks the settings: one that cannot work is an
/// [`InvalidInput`](io::ErrorKind::InvalidInput) error with a [`ConfigError`](crate::ConfigError) inside.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tickws::Server;
///
/// # fn main() -> std::io::Result<()> {
/// let server = Server::builder()
///     .max_message_size(64 * 1024)
///     .allow_origins(["https://game.example"])
///     .ping_interval(Duration::from_secs(20))
///     .silence_timeout(Duration::from_secs(30))
///     .bind("127.0.0.1:0")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until `bind` or `build`"]
pub struct ServerBuilder {
    config: Config,
    services: Services,
    listeners: Vec<TcpListener>,
    /// The first of what cannot be served.
    error: Option<ConfigError>,
}

/// Declares builder methods that only store a value.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        $($(#[$doc])* pub fn $name(mut self, $name: $type) -> Self {
            self.config.$name = $name.into();
            self
        })*
    };
}

impl ServerBuilder {
    settings! {
        /// How long a client may take for its whole request head. Default 10 s.
        handshake_timeout: Duration;
        /// Bytes of a request head, at most 64 KiB; more is answered with 431. Default 16 KiB.
        max_head_bytes: usize;
        /// Header lines of a request, at most 256; more is answered with 431. Default 100.
        max_headers: usize;
        /// Keep each client's upgrade request for [`Server::request`]. Default off: ten thousand kept
        /// requests are ten thousand buffers.
        keep_requests: bool;

        /// Bytes of an incoming message, inflated; more closes with 1009 (RFC 6455 §7.4.1). Default 1 MiB.
        max_message_size: usize;
        /// Bytes in one incoming frame; more closes with 1009. Default: as `max_message_size`.
        max_frame_size: usize;

        /// How often each client is pinged (RFC 6455 §5.5.2); `None` never. Default 54 s.
        ping_interval: impl Into<Option<Duration>>;
        /// A client of which no byte arrived for this long is given up; `None` never. Must be longer than
        /// `ping_interval`. With pings on, nobody is given up who was not pinged first and had
        /// `silence_timeout` − `ping_interval` to answer, also if the program slept. Default 60 s.
        silence_timeout: impl Into<Option<Duration>>;
        /// A client that takes no byte for this long while bytes wait for it is given up. Default 10 s.
        write_timeout: Duration;
        /// How long to wait for the peer's part of a close handshake. Default 10 s.
        close_timeout: Duration;
        /// A connection older than this is closed with 1001; `None` never. Default `None`.
        max_lifetime: impl Into<Option<Duration>>;

        /// Bytes that may wait in one client's outbox, framing included. Default 1 MiB.
        max_buffered: usize;
        /// What happens to a message that does not fit into `max_buffered`. Default
        /// [`Overflow::Disconnect`].
        overflow: Overflow;

        /// Bytes held for all connections together: partial messages, request heads, and what waits to be
        /// written, a frame that many wait for counting once. As it nears, the server sheds, in this order:
        /// above 3/4 it refuses new connections with 503, above 7/8 it stops reading, and when reading has
        /// been stopped for 250 ms, or at once above the ceiling, it closes those that hold the most with
        /// 1013 ([`CloseReason::Shed`](crate::CloseReason::Shed)), or without a word where a half-sent frame
        /// is most of what they hold. [`Event::Pressure`](crate::Event::Pressure)
        /// and [`Stats`](crate::Stats) tell. Spare buffers and the ticks come on top, some 32 MiB at most, and,
        /// until the call returns, a small message times those it goes to: what many share counts once.
        /// `None`: no ceiling. Default 1 GiB.
        max_total_buffered: impl Into<Option<usize>>;

        /// Rooms at a time; [`Server::join`] refuses to begin more. Default 65,536.
        max_rooms: usize;
        /// Rooms that one client may be in at a time. Default 1,024.
        max_rooms_per_client: usize;
        /// Bytes of a room's name. Default 256.
        max_room_name: usize;

        /// Connections at a time, handshakes included; those beyond are answered with 503. One that has
        /// been closed and only waits for the peer to hang up is not counted. `None` leaves it to the
        /// descriptor limit. Default `None`.
        max_connections: impl Into<Option<usize>>;
        /// Connections at a time from one IP address, handshakes included; those beyond are answered with
        /// 503. An IPv4 address counts once, however it was mapped. `None`: no limit. Default `None`.
        max_connections_per_ip: impl Into<Option<usize>>;
        /// Bytes read from one client in one poll. Default 256 KiB.
        read_budget: usize;
        /// Connections accepted in one poll; as many may begin to go out. Default 64.
        accept_budget: usize;
        /// Events in one tick; what the limit leaves over waits. A frame of which none comes, such as a ping or a
        /// fragment, counts as 16. `Close`, `Drained`, `Reconnecting` and `ConnectFailed`
        /// come on top, one of each per client at most. Default 2,048.
        event_budget: usize;
        /// Stop reading in a poll after this long; the rest is carried over. At least one client is
        /// served, and flushing, accepting and timers are bounded by the other budgets. `None`: the other budgets are enough. Default `None`.
        time_budget: impl Into<Option<Duration>>;

        /// Messages that one client may send per second, control frames not counted; one second's worth
        /// may come at once. Time in which the program did not poll, or kept the client paused, counts as
        /// time in which the client sent evenly. `None`: no limit. Default `None`.
        max_messages_per_second: impl Into<Option<u32>>;
        /// Bytes that one client may send per second once the handshake is over, framing and control frames
        /// included; as `max_messages_per_second` otherwise. Only this limits a flood of pings or pongs.
        /// `None`: no limit. Default `None`.
        max_bytes_per_second: impl Into<Option<usize>>;
        /// What happens to a client above either. A client that is closing is read without limit, so that
        /// its close handshake can end; so is, under [`Limit::Pause`], what a broken connection has left.
        /// Default [`Limit::Close`].
        rate_limit: Limit;

        /// Set `TCP_NODELAY` on accepted sockets. Default on: everything queued leaves in one write
        /// anyway.
        nodelay: bool;
        /// Bytes that the kernel holds for each client, its `SO_SNDBUF`; it rounds the number up or down as
        /// it likes. What it holds can no longer be replaced by [`send_latest`](Server::send_latest), does
        /// not expire, and lets nothing pass. A small one, 16 to 64 KiB, keeps what slow clients get fresh
        /// and memory low, at the price of throughput: no more than this is on its way to a client at a
        /// time. `None` leaves it to the system, which lets it grow to megabytes. Default `None`.
        send_buffer: impl Into<Option<usize>>;
        /// Commands of all [`Handle`](crate::Handle)s that may wait for a poll, at most 1,048,576; more are
        /// refused with [`HandleError::Full`](crate::HandleError::Full). They are counted, whatever they
        /// hold. Default 1,024.
        handle_queue: usize;
    }

    /// Compresses messages (permessage-deflate, RFC 7692) to and from clients that offer it, and
    /// offers it to the servers that this one connects to. The contexts of
    /// [`DeflateMode::Dedicated`](crate::DeflateMode::Dedicated) come on top of `max_total_buffered`. Default off.
    #[cfg(feature = "deflate")]
    pub fn deflate(mut self, deflate: crate::deflate::Deflate) -> Self {
        self.config.deflate = Some(deflate);
        self
    }

    /// Browser pages of these origins may connect, besides those of the server's own host. Each is
    /// written as a browser sends it: `https://example.com` or `http://localhost:8080`.
    pub fn allow_origins<I>(mut self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.config.origins = OriginPolicy::AllowList(origins.into_iter().map(Into::into).collect());
        self
    }

    /// Any page on the web may connect, with its user's cookies. Only for servers that authenticate in
    /// another way, or not at all (RFC 6455 §10.2).
    pub fn allow_any_origin(mut self) -> Self {
        self.config.origins = OriginPolicy::Any;
        self
    }

    /// Records everything that the server is told: bytes from the sockets, readiness, the time, what the application
    /// calls with all it passes, and what its closures answer. [`Replay`](crate::sim::Replay) does it all again.
    /// Needs the feature `sim`.
    ///
    /// One write per poll that had something to record; wrap a file in a [`BufWriter`](io::BufWriter) if that is
    /// too many, and lose the last polls if the process is killed. Memory: what one poll records, and then at most
    /// 128 KiB. If a write fails, a closure of the application panics, or `before_attempt` gives an error, the
    /// recording stops there and the server goes on; the log and [`Server::recording`] say so. What the last flush
    /// says, as the server is dropped, only the log tells.
    ///
    /// **Payloads, headers, cookies and addresses are in it as they are**: keep it as safe as the traffic itself.
    /// What clients send is recorded, and of what is sent to them what the application passed, with a digest of the
    /// bytes that left. What `serve_bytes` serves stands at its beginning. A server with `serve_dir` cannot be
    /// recorded: `build` fails. Recording costs a copy of every payload and a formatted event; off, it costs nothing.
    #[cfg(feature = "sim")]
    pub fn record(mut self, out: impl io::Write + Send + 'static) -> Self {
        self.services.record = Some(crate::services::Sink(Box::new(out)));
        self
    }

    /// Adds a socket that listens already: from socket activation, or bound with options of your own.
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Listens on every address that `addrs` resolves to, and on the listeners given. The backlog is the
    /// standard library's, 128 connections between two polls; for a larger one bring a
    /// [`listener`](ServerBuilder::listener) of your own.
    ///
    /// # Errors
    ///
    /// A setting cannot work, a name does not resolve, or an address cannot be bound. When a name
    /// resolves to several addresses (`localhost`), those that this machine does not have are skipped as
    /// long as one remains.
    pub fn bind(mut self, addrs: impl ToSocketAddrs) -> io::Result<Server> {
        let (mut bound, mut missing) = (0, None);
        for addr in addrs.to_socket_addrs()? {
            match TcpListener::bind(addr) {
                Ok(listener) => {
                    bound += 1;
                    self.listeners.push(listener);
                }
                Err(error) if is_missing(&error) => {
                    log::warn!("not listening on {addr}: {error}");
                    missing = Some(io::Error::new(error.kind(), format!("{addr}: {error}")));
                }
                Err(error) => return Err(io::Error::new(error.kind(), format!("{addr}: {error}"))),
            }
        }
        match missing {
            Some(error) if bound == 0 => Err(error),
            None if bound == 0 => Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to bind")),
            _ => self.build(),
        }
    }

    /// Builds the server on the listeners given so far.
    ///
    /// # Errors
    ///
    /// A setting cannot work, or the operating system gives no poller.
    pub fn build(self) -> io::Result<Server> {
        let (config, services, listeners) = self.into_parts()?;
        Server::new(config, services, listeners)
    }

    /// What it has been told, if that can work.
    pub(crate) fn into_parts(self) -> io::Result<(Config, Services, Vec<TcpListener>)> {
        let checked = self.error.map_or(Ok(()), Err).and_then(|()| self.config.validate());
        checked.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        #[cfg(feature = "sim")]
        if self.services.record.is_some() && self.services.site.has_folders() {
            let text =
                "a server with serve_dir cannot be recorded: the contents of its files would be missing";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok((self.config, self.services, self.listeners))
    }
}

/// The machine has no such address, or no such address family.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
}
