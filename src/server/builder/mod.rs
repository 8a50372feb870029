//! The builder of a server.

mod http;

use std::{io, net::ToSocketAddrs, time::Duration};

#[cfg(unix)]
use crate::net::unix::UnixSocket;
#[cfg(feature = "tls")]
use crate::tls::server::Tls;
use crate::{
    config::{Config, OriginPolicy, OverflowPolicy, RateLimitPolicy, hosts::HostPolicy},
    engine::hooks::Hooks,
    error::{BindError, ConfigError},
    http1::request::Request,
    net::listener::{self, Listener},
    server::Server,
    util::exclusive::Exclusive,
};

impl Server {
    /// Binds a server to every address that `addrs` resolves to, with the defaults of
    /// [`ServerBuilder`].
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
    pub fn bind(addrs: impl ToSocketAddrs) -> Result<Server, BindError> {
        Server::builder().bind(addrs)
    }

    /// Returns a builder, which sets limits, deadlines and policies before binding.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }
}

/// Configures a [`Server`]: limits, deadlines, policies and what it serves.
///
/// Every method takes and returns the builder. [`bind`](ServerBuilder::bind) or
/// [`build`](ServerBuilder::build) ends the chain and checks the settings. An invalid one is a
/// [`BindError::Config`].
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
#[doc = include_str!("limits.md")]
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until `bind` or `build`"]
pub struct ServerBuilder {
    config: Config,
    hooks: Hooks,
    listeners: Vec<Listener>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    /// The first error of `serve_bytes` or `serve_dir`.
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
        /// Time in which a client must send its whole request head. Default 10 s.
        handshake_timeout: Duration;
        /// Largest request head in bytes, at most 64 KiB. A larger one gets a 431. Default 16 KiB.
        max_head_bytes: usize;
        /// Most header lines of a request, at most 256. A request with more gets a 431. Default
        /// 100.
        max_headers: usize;
        /// Whether to keep each client's upgrade request for [`Server::request`], which costs a
        /// buffer per client. Default off.
        keep_requests: bool;

        /// Largest incoming message in bytes, after inflation. A larger one closes the client with
        /// 1009 (RFC 6455 §7.4.1). Default 1 MiB.
        max_message_size: usize;
        /// Largest payload of an incoming frame in bytes. A larger one closes the client with 1009.
        /// Default: `max_message_size`.
        max_frame_size: usize;

        /// Interval between pings to each client (RFC 6455 §5.5.2). `None`: no pings. Default 54 s.
        ping_interval: impl Into<Option<Duration>>;
        /// Time without a received byte after which a client is dropped. `None`: never. Must be
        /// longer than `ping_interval`. If pings are on, a client is dropped only after it was
        /// pinged and had `silence_timeout` − `ping_interval` to answer, even if the program was
        /// suspended meanwhile. Default 60 s.
        silence_timeout: impl Into<Option<Duration>>;
        /// Time without a written byte, while bytes are queued, after which a client is dropped.
        /// Default 10 s.
        write_timeout: Duration;
        /// Time to wait for the peer's part of a close handshake. Default 10 s.
        close_timeout: Duration;
        /// Age at which a connection is closed with 1001. `None`: never. Default `None`.
        max_lifetime: impl Into<Option<Duration>>;

        /// Most bytes queued for one client, framing included. Default 1 MiB and the header of a
        /// frame, so that the largest message received by default can be sent.
        max_buffered: usize;
        /// Policy for a message that does not fit into `max_buffered`. Default
        /// [`OverflowPolicy::Disconnect`].
        overflow: OverflowPolicy;

        /// Memory limit for all connections together, in bytes: partial messages, request heads and
        /// queued messages. A frame queued for several clients counts once. While the input exceeds
        /// a quarter of the limit, large messages are read a few at a time, each to its end. A
        /// client that sends less than 8 KiB of one in 250 ms gives its place to another. Clients
        /// with small messages, up to 4 KiB, are read as always. Near the limit the server
        /// reduces load in this order. Above 3/4 it rejects new connections with 503. Above
        /// 7/8 it stops reading. When reading has been stopped for 250 ms, or immediately above the
        /// limit, it closes the clients with the most buffered bytes with 1013
        /// ([`CloseReason::Shed`](crate::CloseReason::Shed)), or without a close frame if most of a
        /// client's bytes are a partly sent frame. [`Event::Pressure`](crate::Event::Pressure) and
        /// [`Stats`](crate::Stats) report this. Not included are spare buffers and ticks, some 32
        /// MiB at most, and the copies of a small broadcast, one per recipient, until the call
        /// returns. `None`: no limit. Default 1 GiB.
        max_total_buffered: impl Into<Option<usize>>;

        /// Most rooms at a time. [`Server::join`] creates no more. Default 65,536.
        max_rooms: usize;
        /// Most rooms that one client may be in at a time. Default 1,024.
        max_rooms_per_client: usize;
        /// Longest name of a room in bytes. Default 256.
        max_room_name: usize;

        /// Most connections at a time, including handshakes. Further ones get a 503. A closed
        /// connection that only waits for the peer to disconnect is not counted. `None`: only the
        /// descriptor limit applies. Default `None`.
        max_connections: impl Into<Option<usize>>;
        /// Most connections at a time from one IP address, including handshakes. Further ones get
        /// a 503. An IPv4 address and its IPv6-mapped form count as one, and so do the addresses of
        /// an IPv6 /64, which a single host usually has. Clients behind
        /// [`trusted_proxies`](ServerBuilder::trusted_proxies) are counted by their own address,
        /// once their request names it. `None`: no limit. Default `None`.
        max_connections_per_ip: impl Into<Option<usize>>;
        /// Most bytes read from one client in one poll. Default 256 KiB.
        read_budget: usize;
        /// Most connections accepted in one poll. The same number of outbound attempts may begin.
        /// Default 64.
        accept_budget: usize;
        /// The listen(2) backlog: connections that the system completes and keeps between two
        /// polls. The system cuts it to its own limit (Linux: `net.core.somaxconn`, 4,096). With a
        /// small one, clients that reconnect all at once wait for seconds, until they try again.
        /// For the sockets that [`bind`](ServerBuilder::bind) opens. Default 4,096.
        backlog: usize;
        /// Most events in one tick; further ones wait for the next poll. A frame that yields no
        /// event, such as a ping or a fragment, counts as 16. `Close`, `Drained`, `Reconnecting`
        /// and `ConnectFailed` are not counted; a tick has at most one of each per client. Default
        /// 2,048.
        event_budget: usize;
        /// Time after which a `poll_*` or a `flush` ends; the rest is carried over, and
        /// [`Tick::more`](crate::Tick::more) and the result of [`flush`](Server::flush) say so. All
        /// work takes turns, one step at a time: output, input, ends of connections, timers,
        /// accepts, commands of handles and outbound attempts. Each gets at least one step in each
        /// call. A step is at most one write of 64 KiB, or one read and the messages in it.
        /// The time that a poll sleeps does not count; closures and
        /// [`Handle::call`](crate::Handle::call) take as long as the application lets them.
        ///
        /// No client is closed because the budget is too small: time in which the server did not
        /// reach a client does not count towards its timeouts, and a message that finds its outbox
        /// full for this reason is dropped. [`Stats::budget_cuts`](crate::Stats::budget_cuts)
        /// counts the calls that left output over, and one line in the log warns if that lasts a
        /// second.
        /// `None`: no time limit; what peers cause is bounded by counts. Default `None`.
        time_budget: impl Into<Option<Duration>>;

        /// Most messages from one client per second, control frames excluded. A burst of one
        /// second's worth is allowed. Messages that arrive while the program does not poll or
        /// pauses the client are treated as sent evenly over that time. `None`: no limit. Default
        /// `None`.
        max_messages_per_second: impl Into<Option<u32>>;
        /// Most bytes from one client per second after the handshake, including framing and control
        /// frames. Bursts are treated as for `max_messages_per_second`. Only this setting limits a
        /// flood of pings or pongs. `None`: no limit. Default `None`.
        max_bytes_per_second: impl Into<Option<usize>>;
        /// Policy for a client above either rate limit. A closing client is read without limit, so
        /// that its close handshake can complete. Under [`RateLimitPolicy::Pause`] the remaining
        /// input of a broken connection is read without limit too. Default
        /// [`RateLimitPolicy::Close`].
        rate_limit: RateLimitPolicy;

        /// Whether to set `TCP_NODELAY` on accepted sockets. Default on, because all queued
        /// messages are written with one write anyway.
        nodelay: bool;
        /// Size of the kernel's send buffer of each client, `SO_SNDBUF`, in bytes, set when its
        /// WebSocket opens; the kernel may round it. Messages in this buffer can no longer be
        /// replaced by [`send_latest`](Server::send_latest), expire or be overtaken. A small
        /// buffer, 16 to 64 KiB, keeps the data of slow clients recent and memory low, but limits
        /// throughput, because no more than this is in flight to a client. `None`: the system's
        /// choice, which may grow to megabytes. Linux doubles the number for its own bookkeeping.
        /// Default `None`.
        send_buffer: impl Into<Option<usize>>;
        /// Most commands of all [`Handle`](crate::Handle)s that wait for a poll, at most 1,048,576.
        /// Further ones fail with [`HandleError::Full`](crate::HandleError::Full). The limit is a
        /// number, independent of their size. Default 1,024.
        handle_queue: usize;
    }

    /// Sets the certificates for [`bind_tls`](ServerBuilder::bind_tls) and for listeners with
    /// [`Listener::tls`]. A listener without it speaks plain text as before.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Most TLS handshakes in one poll without a [`time_budget`](ServerBuilder::time_budget). With
    /// one, a poll does one handshake, and more only when all input is read and time is left. Each
    /// signs, which takes 0.1 ms with a P-256 key and 0.6 ms with one of RSA-2048. The others wait
    /// for the next polls, first come first served; clients whose handshake is done are always
    /// served first. Default 4.
    #[cfg(feature = "tls")]
    pub fn tls_handshakes_per_poll(mut self, handshakes: usize) -> Self {
        self.config.tls_handshakes_per_poll = handshakes;
        self
    }

    /// Redirects plain HTTP on a TLS port to `https://` with a 308, for the host and path that were
    /// asked for. Without it such a request gets a 400 that names the fault. Default off.
    #[cfg(feature = "tls")]
    pub fn redirect_to_https(mut self, redirect: bool) -> Self {
        self.config.redirect_to_https = redirect;
        self
    }

    /// Enables compression (permessage-deflate, RFC 7692) with clients that offer it, and offers it
    /// on outbound connections. The contexts of
    /// [`DeflateMode::Dedicated`](crate::DeflateMode::Dedicated) are not included in
    /// `max_total_buffered`. Default off.
    #[cfg(feature = "deflate")]
    pub fn deflate(mut self, deflate: crate::config::compression::Deflate) -> Self {
        self.config.deflate = Some(deflate);
        self
    }

    /// Allows browser pages of these origins (RFC 6454), in addition to those of the server's own
    /// host. Write each one as a browser sends it: `https://example.com` or
    /// `http://localhost:8080`.
    ///
    /// `https://*.game.example` allows the subdomains of `game.example`, of any depth, and not
    /// `game.example` itself. The words `null` and `file://` allow pages without a host: browsers
    /// send `null` for local files and sandboxed frames, and some apps that are built from pages
    /// send `file://`. Any local file and any sandboxed frame of any site has the origin `null`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let origins = ["https://game.example", "https://*.game.example", "null"];
    /// let server = tickws::Server::builder().allow_origins(origins).bind("127.0.0.1:0")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow_origins<I>(mut self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.hooks.check_origin = None;
        self.config.origins = OriginPolicy::AllowList(origins.into_iter().map(Into::into).collect());
        self
    }

    /// Decides by a closure which upgrade requests may pass, in place of the rules above, as
    /// gorilla's `CheckOrigin` does. It is called for each valid upgrade request, with or without
    /// an `Origin`; `false` rejects it with 403. It runs inside a poll, so it must not block.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let server = tickws::Server::builder()
    ///     .check_origin(|request| match request.header("origin") {
    ///         Some(origin) => origin.ends_with(".game.example"),
    ///         None => request.header("authorization").is_some(), // not a browser
    ///     })
    ///     .bind("127.0.0.1:0")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_origin(mut self, check: impl FnMut(&Request<'_>) -> bool + Send + 'static) -> Self {
        let mut check = Exclusive::new(check);
        self.hooks.check_origin = Some(Box::new(move |request| (check.get_mut())(request)));
        self.config.origins = OriginPolicy::Custom;
        self
    }

    /// Allows browser pages of any origin, which connect with the user's cookies. Only for servers
    /// that do not authenticate by cookies (RFC 6455 §10.2).
    pub fn allow_any_origin(mut self) -> Self {
        self.hooks.check_origin = None;
        self.config.origins = OriginPolicy::Any;
        self
    }

    /// Allows requests to these hosts only, as a protection against DNS rebinding: a page whose
    /// name was changed to point at this machine reaches the server with its own name as `Host`,
    /// and its origin is then the same. Others get a 421, health, metrics and files too.
    ///
    /// Write each as a browser sends it, in ASCII: `game.example` for any port, or
    /// `game.example:8080`. `*.game.example` allows the subdomains, of any depth.
    ///
    /// Without a call all hosts are allowed, unless the server has listeners on loopback addresses
    /// only. Then names of the loopback interface are (`localhost`, `127.0.0.1`, `[::1]`, also
    /// `app.localhost`), if there are no [`trusted_proxies`](ServerBuilder::trusted_proxies)
    /// either.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let hosts = ["game.example", "*.game.example", "localhost"];
    /// let server = tickws::Server::builder().allow_hosts(hosts).bind("127.0.0.1:0")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow_hosts<I>(mut self, hosts: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.config.hosts = HostPolicy::AllowList(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// Believes what these proxies say about their clients. Each is a network in CIDR form, an
    /// address, or `unix:` for all peers on Unix domain sockets.
    ///
    /// - `X-Forwarded-For` and `Forwarded` (RFC 7239) name the client. They are read from the
    ///   right, and only through trusted proxies; what stands further left may be forged. The
    ///   result is [`remote_addr`](crate::Server::remote_addr), which log lines and
    ///   [`max_connections_per_ip`](ServerBuilder::max_connections_per_ip) use too;
    ///   [`peer_addr`](crate::Server::peer_addr) is the proxy's address.
    /// - `X-Forwarded-Proto` and `-Host` (or `proto` and `host` of `Forwarded`) name the scheme and
    ///   the host that the client has asked for, for
    ///   [`Request::is_secure`](crate::Request::is_secure) and the check of the origin.
    ///
    /// A proxy must set or remove each of these fields. Most set the `X-` ones, and pass on a
    /// `Forwarded` as the client has sent it. Therefore a request that has both kinds is believed
    /// only where they agree. The fields of other peers are ignored.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let proxies = ["127.0.0.1", "::1", "10.0.0.0/8"];
    /// let server = tickws::Server::builder().trusted_proxies(proxies).bind("127.0.0.1:0")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn trusted_proxies<I>(mut self, proxies: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let proxies: Result<_, _> = proxies.into_iter().map(|proxy| proxy.as_ref().parse()).collect();
        match proxies {
            Ok(proxies) => self.config.trusted_proxies = proxies,
            Err(error) => self.error = self.error.or(Some(error)),
        }
        self
    }

    /// Records all inputs of the server: bytes from the sockets, readiness, the time, the
    /// application's calls with their arguments, and the return values of its closures.
    /// [`Replay`](crate::sim::Replay) runs them again. Needs the feature `sim`.
    ///
    /// Each poll with something to record does one write. To write less often, wrap a file in a
    /// [`BufWriter`](io::BufWriter); the last polls are then lost if the process is killed. The
    /// buffer holds the record of one poll, and keeps at most 128 KiB afterwards. The recording
    /// stops, and the server continues, if a write fails, a closure of the application panics or
    /// `before_attempt` returns an error; the log and [`Server::recording`] report it. An error of
    /// the last flush, when the server is dropped, is only logged.
    ///
    /// **The recording contains payloads, headers, cookies and addresses in the clear**: protect it
    /// like the traffic itself. It contains the bytes from clients, the messages that the
    /// application sent, a digest of the bytes written, and the content of `serve_bytes`. A server
    /// with `serve_dir` cannot be recorded: `build` fails. Recording costs a copy of every payload
    /// and an encoded event. It costs nothing when off.
    #[cfg(feature = "sim")]
    pub fn record(mut self, out: impl io::Write + Send + 'static) -> Self {
        self.hooks.record = Some(crate::engine::hooks::Sink::new(out));
        self
    }

    /// Adds a socket that is already listening, for instance from socket activation or with other
    /// options: a `TcpListener`, on Unix a `UnixListener`, or a [`Listener`] with the PROXY
    /// protocol. It is made non-blocking.
    pub fn listener(mut self, listener: impl Into<Listener>) -> Self {
        self.listeners.push(listener.into());
        self
    }

    /// Listens on a Unix domain socket, given by its path or as a [`UnixSocket`], in addition to
    /// the listeners given.
    ///
    /// # Errors
    ///
    /// A setting is invalid, or the socket cannot listen there: the path exists, is too long (about
    /// 100 bytes) or not writable.
    #[cfg(unix)]
    pub fn bind_unix(mut self, socket: impl Into<UnixSocket>) -> Result<Server, BindError> {
        let socket = socket.into();
        match socket.listen(self.config.backlog) {
            Ok(listener) => self.listeners.push(listener.into()),
            Err(error) => return Err(BindError::ListenUnix { path: socket.shown(), error }),
        }
        self.build()
    }

    /// Listens on every address that `addrs` resolves to, in addition to the listeners given.
    ///
    /// If all listeners have loopback addresses, the server takes requests to names of the loopback
    /// interface only; see [`allow_hosts`](ServerBuilder::allow_hosts).
    ///
    /// # Errors
    ///
    /// A setting is invalid, a name does not resolve, or an address cannot be bound. If a name
    /// resolves to several addresses (`localhost`), those that this machine does not have are
    /// skipped as long as one remains.
    pub fn bind(mut self, addrs: impl ToSocketAddrs) -> Result<Server, BindError> {
        self.listen(addrs, |listener| listener)?;
        self.build()
    }

    /// As [`bind`](ServerBuilder::bind), with TLS and the certificates of
    /// [`tls`](ServerBuilder::tls). For plain text on another port of the same server add a
    /// [`listener`](ServerBuilder::listener).
    ///
    /// # Errors
    ///
    /// As [`bind`](ServerBuilder::bind), or there are no certificates.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::net::TcpListener;
    /// use tickws::{Server, Tls};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder()
    ///     .tls(Tls::from_pem_files("fullchain.pem", "privkey.pem")?)
    ///     .listener(TcpListener::bind("127.0.0.1:9001")?) // plain, for tools on this machine
    ///     .bind_tls("0.0.0.0:443")?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn bind_tls(mut self, addrs: impl ToSocketAddrs) -> Result<Server, BindError> {
        self.listen(addrs, Listener::tls)?;
        self.build()
    }

    fn listen(
        &mut self,
        addrs: impl ToSocketAddrs,
        finish: impl Fn(Listener) -> Listener,
    ) -> Result<(), BindError> {
        let (mut bound, mut missing) = (0, None);
        for addr in addrs.to_socket_addrs().map_err(BindError::Resolve)? {
            match listener::bind(addr, self.config.backlog) {
                Ok(listener) => {
                    bound += 1;
                    self.listeners.push(finish(listener.into()));
                }
                Err(error) if is_missing(&error) => {
                    log::warn!("not listening on {addr}: {error}");
                    missing = Some(BindError::Listen { addr, error });
                }
                Err(error) => return Err(BindError::Listen { addr, error }),
            }
        }
        match missing {
            Some(error) if bound == 0 => Err(error),
            None if bound == 0 => Err(BindError::NoAddress),
            _ => Ok(()),
        }
    }

    /// Builds the server on the listeners given so far.
    ///
    /// # Errors
    ///
    /// A setting is invalid, or the operating system's poller cannot be created.
    pub fn build(self) -> Result<Server, BindError> {
        #[cfg(feature = "tls")]
        let tls = self.tls.clone();
        let (config, hooks, listeners) = self.into_parts()?;
        let server = Server::new(config, hooks, listeners).map_err(BindError::Poller)?;
        #[cfg(feature = "tls")]
        let server = server.with_tls(tls);
        Ok(server)
    }

    #[cfg(all(feature = "sim", feature = "tls"))]
    pub(crate) fn certificates(&self) -> Option<Tls> {
        self.tls.clone()
    }

    /// Checks the settings and returns them.
    pub(crate) fn into_parts(self) -> Result<(Config, Hooks, Vec<Listener>), ConfigError> {
        self.error.map_or(Ok(()), Err)?;
        self.config.validate()?;
        if self.config.trusted_proxies.is_empty() && self.listeners.iter().any(|socket| socket.proxy_protocol)
        {
            return Err(ConfigError::NoTrustedProxies);
        }
        #[cfg(feature = "tls")]
        match (&self.tls, self.listeners.iter().any(|listener| listener.is_tls)) {
            (None, true) => return Err(ConfigError::NoTls),
            // Without listeners there is `adopt_tls`.
            (Some(_), false) if !self.listeners.is_empty() => return Err(ConfigError::UnusedTls),
            _ => {}
        }
        #[cfg(feature = "sim")]
        if self.hooks.record.is_some() && self.hooks.static_files.has_folders() {
            return Err(ConfigError::RecordedFolder);
        }
        Ok((self.config, self.hooks, self.listeners))
    }
}

/// Whether the machine lacks the address or its address family.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
}
