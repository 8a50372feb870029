//! The description of an outbound connection: URL, request, retries.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tungstenite::http::{
    HeaderMap, HeaderName, HeaderValue, Uri, header,
    uri::{PathAndQuery, Scheme},
};

use crate::{
    config::reconnect::Reconnect,
    error::{ConnectError, HeaderError},
};

/// The most headers of a request, far below the number at which `HeaderMap` panics.
const MAX_HEADERS: usize = 1000;

/// Policy for messages that are sent while an outbound connection is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhileDown {
    /// `send` returns [`SendError::Connecting`](crate::SendError::Connecting).
    #[default]
    Refuse,
    /// Keep the last messages, at most this many and at most `max_buffered` bytes, and send them
    /// first when the connection opens. Older ones are dropped and counted in
    /// [`Stats::dropped`](crate::Stats::dropped). Messages still kept when the connection fails for
    /// good are lost. Broadcasts (`broadcast`, `publish`) are never kept.
    KeepLast(usize),
}

/// Describes an outbound connection: its URL, its request, and what happens when it fails.
///
/// Every method takes and returns the description.
/// [`Server::connect_with`](crate::Server::connect_with) and
/// [`Client::connect_with`](crate::Client::connect_with) return the first error in it.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use tickws::{Connect, Reconnect, Server, WhileDown};
///
/// # fn fresh_token() -> String { String::new() }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind("127.0.0.1:0")?;
/// let connect = Connect::new("ws://feed.example/prices")
///     .header("user-agent", "ticker/1.0")
///     .subprotocols(["prices.v2", "prices.v1"])
///     .timeout(Duration::from_secs(5))
///     .reconnect(Reconnect::new())
///     .before_attempt(|attempt| attempt.header("authorization", &fresh_token()))
///     .while_down(WhileDown::KeepLast(100));
/// let client = server.connect_with(connect)?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is connected until `connect_with`"]
pub struct Connect {
    target: Result<Target, ConnectError>,
    plan: Plan,
    /// The first error, apart from that of the URL.
    error: Option<ConnectError>,
}

/// The settings of a [`Connect`]. Its target is set once it is checked.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) headers: HeaderMap,
    pub(crate) subprotocols: Vec<String>,
    /// Addresses that were given or need no resolver. Empty if the name has to be resolved.
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) while_down: WhileDown,
    pub(crate) before: Option<BeforeAttempt>,
}

pub(crate) type BeforeAttempt = Box<dyn FnMut(&mut Attempt<'_>) -> Result<(), ConnectError> + Send>;

/// The parts of a `ws://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The host, without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The value of the `Host` header (RFC 6455 §4.1: without the default port).
    pub(crate) authority: String,
    pub(crate) path: PathAndQuery,
}

impl Default for Target {
    fn default() -> Self {
        let path = PathAndQuery::from_static("/");
        Target { host: String::new(), port: 0, authority: String::new(), path }
    }
}

impl Connect {
    /// Describes a connection to `ws://host[:port][/path][?query]`, with a deadline of 10 s and a
    /// single attempt.
    pub fn new(url: impl AsRef<str>) -> Self {
        let plan = Plan { timeout: Duration::from_secs(10), ..Plan::default() };
        Connect { target: Target::parse(url.as_ref()), plan, error: None }
    }

    /// Adds a header to the request, for instance `Authorization` or `Origin`. A name may be added
    /// several times. Headers of the handshake itself are errors.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match header_of(name, value) {
            Ok(_) if self.plan.headers.len() >= MAX_HEADERS => {
                self.fail(HeaderError::TooMany(MAX_HEADERS).into());
            }
            Ok((name, value)) => {
                self.plan.headers.append(name, value);
            }
            Err(error) => self.fail(error.into()),
        }
        self
    }

    /// Offers subprotocols, the preferred one first.
    /// [`Server::subprotocol`](crate::Server::subprotocol) returns the one that the server picked,
    /// if any.
    pub fn subprotocols<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        for name in names.into_iter().map(Into::into) {
            if !is_token(&name) || self.plan.subprotocols.contains(&name) {
                self.fail(ConnectError::Subprotocol(name.clone()));
            }
            self.plan.subprotocols.push(name);
        }
        self
    }

    /// Tries these addresses in turn, instead of resolving the URL's host. The request still names
    /// that host.
    pub fn addrs(mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.plan.addrs = addrs.into_iter().collect();
        self
    }

    /// Sets the deadline of one attempt, including resolving, all addresses and the handshake. Each
    /// of several addresses has an even share of the time left. Time in which the program does not
    /// poll counts, but input that arrived meanwhile is read first. Default 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.plan.timeout = timeout;
        self
    }

    /// Tries again when an attempt fails, including the first, and when the connection is lost, but
    /// not after `close`, `disconnect` or `shutdown`. Default: never.
    pub fn reconnect(mut self, policy: Reconnect) -> Self {
        self.plan.reconnect = Some(policy);
        self
    }

    /// Sets the policy for messages that are sent while the connection is not open. Default
    /// [`WhileDown::Refuse`].
    pub fn while_down(mut self, while_down: WhileDown) -> Self {
        self.plan.while_down = while_down;
        self
    }

    /// Sets a closure that runs before each attempt, including the first, for instance to set a
    /// fresh token. It runs inside a poll, so it must not block. Its changes apply to this attempt
    /// only. If it returns an error, no further attempt is made, and
    /// [`Event::ConnectFailed`](crate::Event::ConnectFailed) contains the error.
    pub fn before_attempt(
        mut self,
        before: impl FnMut(&mut Attempt<'_>) -> Result<(), ConnectError> + Send + 'static,
    ) -> Self {
        self.plan.before = Some(Box::new(before));
        self
    }

    fn fail(&mut self, error: ConnectError) {
        self.error.get_or_insert(error);
    }

    pub(crate) fn into_plan(self) -> Result<Plan, ConnectError> {
        let Connect { target, mut plan, error } = self;
        plan.target = target?;
        if let Some(error) = error {
            return Err(error);
        }
        if plan.addrs.is_empty() {
            plan.addrs = plan.target.known_addrs();
        }
        Ok(plan)
    }
}

impl<T: AsRef<str>> From<T> for Connect {
    fn from(url: T) -> Self {
        Connect::new(url)
    }
}

/// Omits headers and query, which may contain tokens.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.target.as_ref().map(|target| &target.authority);
        f.debug_struct("Connect").field("host", &host).field("plan", &self.plan).finish()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { subprotocols, addrs, timeout, reconnect, while_down, .. } = self;
        f.debug_struct("Plan")
            .field("subprotocols", subprotocols)
            .field("addrs", addrs)
            .field("timeout", timeout)
            .field("reconnect", reconnect)
            .field("while_down", while_down)
            .finish_non_exhaustive()
    }
}

/// An attempt that is about to begin, for [`Connect::before_attempt`].
#[derive(Debug)]
pub struct Attempt<'a> {
    number: u32,
    error: Option<&'a ConnectError>,
    pub(crate) headers: HeaderMap,
    pub(crate) path: PathAndQuery,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(number: u32, error: Option<&'a ConnectError>, plan: &Plan) -> Self {
        Attempt { number, error, headers: plan.headers.clone(), path: plan.target.path.clone() }
    }

    /// The number of the attempt: 0 for the first one, then counted from 1 as in
    /// [`Event::Reconnecting`](crate::Event::Reconnecting).
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Why the previous attempt failed. `None` if there was none, or if it succeeded and the
    /// connection was lost later.
    pub fn error(&self) -> Option<&'a ConnectError> {
        self.error
    }

    /// Sets a header, replacing those with the same name.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Header`] if the name or value is invalid, the header belongs to the
    /// handshake, or there are too many.
    pub fn header(&mut self, name: &str, value: &str) -> Result<(), ConnectError> {
        let (name, value) = header_of(name, value)?;
        if self.headers.len() >= MAX_HEADERS && !self.headers.contains_key(&name) {
            return Err(HeaderError::TooMany(MAX_HEADERS).into());
        }
        self.headers.insert(name, value);
        Ok(())
    }

    /// Sets the URL's query, the part after `?`.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Url`] if a character has to be escaped.
    pub fn query(&mut self, query: &str) -> Result<(), ConnectError> {
        let path = format!("{}?{query}", self.path.path());
        let invalid = ConnectError::Url("the query has characters that must be escaped");
        self.path = match path.parse() {
            Ok(path) if !query.contains('#') => path,
            _ => return Err(invalid),
        };
        Ok(())
    }
}

impl Target {
    fn parse(url: &str) -> Result<Target, ConnectError> {
        // RFC 6455 §3: fragments have no meaning and must not be used.
        if url.contains('#') {
            return Err(ConnectError::Url("remove the fragment (#)"));
        }
        let uri: Uri = url
            .parse()
            .map_err(|_| ConnectError::Url("write it as ws://host:port/path, with % for other characters"))?;
        match uri.scheme().map(Scheme::as_str) {
            Some(scheme) if scheme.eq_ignore_ascii_case("ws") => {}
            Some(scheme) if scheme.eq_ignore_ascii_case("wss") => return Err(ConnectError::Tls),
            Some(_) => return Err(ConnectError::Url("it must begin with ws://")),
            None => return Err(ConnectError::Url("write it as ws://host:port/path")),
        }
        let authority = uri.authority().ok_or(ConnectError::Url("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(ConnectError::Url("a user and a password belong in an Authorization header"));
        }
        let (host, digits) = (authority.host(), authority.port());
        let port = match digits {
            None if authority.as_str().ends_with(':') => 80,
            None if authority.as_str().len() > host.len() => 0,
            None => 80,
            Some(port) => port.as_u16(),
        };
        if host.is_empty() || port == 0 {
            return Err(ConnectError::Url("it needs a host, and a port from 1 to 65535 if any"));
        }
        let authority = if port == 80 { host.to_owned() } else { format!("{host}:{port}") };
        let bare = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => Some(address).filter(|address| address.parse::<Ipv6Addr>().is_ok()),
            None => Some(host).filter(|host| host.bytes().all(is_host_character)),
        };
        let bare = bare.ok_or(ConnectError::Url("its host is neither a name nor an address"))?;
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        // `ws://host?query` has an empty path, which means "/" (RFC 6455 §3).
        let path = match path.as_str().starts_with('/') {
            true => path,
            false => {
                format!("/{}", path.as_str()).parse().map_err(|_| ConnectError::Url("its path is invalid"))?
            }
        };
        Ok(Target { host: bare.to_owned(), port, authority, path })
    }

    /// The addresses of a host that needs no resolver.
    fn known_addrs(&self) -> Vec<SocketAddr> {
        let ips: Vec<IpAddr> = match self.host.parse() {
            Ok(ip) => vec![ip],
            // RFC 6761 §6.3: `localhost` is always the loopback address, even if a resolver knows
            // another.
            Err(_) if self.host.eq_ignore_ascii_case("localhost") => {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            }
            Err(_) => vec![],
        };
        ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect()
    }
}

/// Whether a host name may contain this byte: the subset of RFC 3986 that DNS uses. The server
/// accepts the same in `Host`.
fn is_host_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)
}

fn header_of(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderError> {
    // The error omits the value, which may be a token.
    let invalid = || HeaderError::Invalid(name.to_owned());
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
    let value = HeaderValue::from_str(value).map_err(|_| invalid())?;
    if is_reserved(&header) { Err(HeaderError::Reserved(header)) } else { Ok((header, value)) }
}

/// Whether a header belongs to the handshake or would give the request a body.
fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [HeaderName; 10] = [
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::SEC_WEBSOCKET_VERSION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
    ];
    RESERVED.contains(name)
}

/// Whether `text` is a token (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(url: &str) -> Plan {
        Connect::new(url).into_plan().unwrap()
    }

    #[test]
    fn urls_are_split_into_their_parts() {
        for (url, host, port, authority, path) in [
            ("ws://a.example", "a.example", 80, "a.example", "/"),
            ("WS://a.example:80/", "a.example", 80, "a.example", "/"),
            ("ws://a.example:8080/x/y?z=1&w", "a.example", 8080, "a.example:8080", "/x/y?z=1&w"),
            ("ws://a.example?z", "a.example", 80, "a.example", "/?z"),
            ("ws://[::1]:9001/", "::1", 9001, "[::1]:9001", "/"),
            ("ws://127.0.0.1:1", "127.0.0.1", 1, "127.0.0.1:1", "/"),
        ] {
            let Target { host: h, port: p, authority: a, path: q } = plan(url).target;
            assert_eq!((&*h, p, &*a, q.as_str()), (host, port, authority, path), "{url}");
        }
    }

    #[test]
    fn unusable_urls_are_errors() {
        for url in [
            "",
            "a.example",
            "/x",
            "ws://",
            "ws:///x",
            "ws://:80/",
            "http://a.example/",
            "ws://a.example/#x",
            "ws://user:secret@a.example/",
            "ws://a.example:0/",
            "ws://a.example:65536/",
            "ws://a.example:x/",
            "ws://a.example/\r\nx: y",
            "ws://a b/",
            "ws://a.example/ x",
            "ws://[8:1]:9001/",
            "ws://[v1.a]/",
            "ws://a,b/",
        ] {
            assert!(matches!(Connect::new(url).into_plan(), Err(ConnectError::Url(_))), "{url}");
        }
        assert!(matches!(Connect::new("wss://a.example/").into_plan(), Err(ConnectError::Tls)));
    }

    #[test]
    fn literals_and_localhost_need_no_resolver() {
        let addrs = |url| plan(url).addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>();
        assert_eq!(addrs("ws://127.0.0.1:9/"), ["127.0.0.1:9"]);
        assert_eq!(addrs("ws://[2001:db8::1]:9/"), ["[2001:db8::1]:9"]);
        assert_eq!(addrs("ws://LocalHost:9/"), ["127.0.0.1:9", "[::1]:9"]);
        assert_eq!(addrs("ws://a.example:9/"), [""; 0]);
        let given: SocketAddr = "127.0.0.1:5".parse().unwrap();
        assert_eq!(Connect::new("ws://a.example/").addrs([given]).into_plan().unwrap().addrs, [given]);
    }

    #[test]
    fn headers_and_subprotocols_are_checked() {
        let error = |connect: Connect| connect.into_plan().map(drop).unwrap_err();
        let url = "ws://a.example/";
        for name in ["Host", "upgrade", "Connection", "Sec-WebSocket-Key", "sec-websocket-protocol"] {
            let error = error(Connect::new(url).header(name, "x"));
            assert!(matches!(error, ConnectError::Header(HeaderError::Reserved(_))), "{name}");
        }
        for (name, value) in [("a b", "x"), ("", "x"), ("a", "x\r\ny: z"), ("a", "x\0")] {
            let error = error(Connect::new(url).header(name, value));
            assert_eq!(error, ConnectError::Header(HeaderError::Invalid(name.to_owned())));
        }
        let many = (0..40_000).fold(Connect::new(url), |connect, at| connect.header(&format!("x-{at}"), "y"));
        assert_eq!(error(many), ConnectError::Header(HeaderError::TooMany(1000)));
        let plan = (0..1000).fold(Connect::new(url), |connect, at| connect.header(&format!("x-{at}"), "y"));
        let plan = plan.into_plan().unwrap();
        let mut attempt = Attempt::new(0, None, &plan);
        assert!(attempt.header("x-7", "z").is_ok() && attempt.header("x-more", "z").is_err());
        for names in [vec!["a", "a"], vec![""], vec!["a b"]] {
            assert!(matches!(error(Connect::new(url).subprotocols(names)), ConnectError::Subprotocol(_)));
        }
    }

    #[test]
    fn an_attempt_may_change_headers_and_query_only() {
        let plan =
            Connect::new("ws://a.example/x?token=old").header("authorization", "old").into_plan().unwrap();
        let mut attempt = Attempt::new(3, Some(&ConnectError::HungUp), &plan);
        assert_eq!((attempt.number(), attempt.error()), (3, Some(&ConnectError::HungUp)));
        attempt.header("Authorization", "new").unwrap();
        attempt.query("token=new").unwrap();
        assert_eq!(
            (&attempt.headers["authorization"], attempt.path.as_str()),
            (&"new".parse().unwrap(), "/x?token=new")
        );
        assert!(attempt.header("Host", "b").is_err());
        for query in ["a b", "a\r\nb", "#a"] {
            assert!(attempt.query(query).is_err(), "{query}");
        }
        assert_eq!(plan.target.path.as_str(), "/x?token=old");
    }

    #[test]
    fn debug_output_contains_no_secrets() {
        let connect = Connect::new("ws://a.example/?token=secret").header("authorization", "secret");
        assert!(!format!("{connect:?}").contains("secret"));
    }
}
