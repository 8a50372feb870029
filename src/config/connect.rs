//! The description of an outbound connection: URL, request, retries.

use std::{fmt, net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::PathAndQuery};

use super::url::{Target, percent_encoded};
use crate::{
    config::reconnect::Reconnect,
    error::{ConnectError, HeaderError},
    util::{
        exclusive::Exclusive,
        http_syntax::{is_handshake_field, is_token},
    },
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
/// [`Server::connect`](crate::Server::connect) and
/// [`Client::connect`](crate::Client::connect) return the first error in it.
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
/// let client = server.connect(connect)?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is connected until `connect`"]
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
    /// `None`: Mozilla's authorities are trusted.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::client::TlsClient>,
}

pub(crate) type BeforeAttempt = Box<dyn FnMut(&mut Attempt<'_>) -> Result<(), ConnectError> + Send + Sync>;

impl Connect {
    /// Describes a connection to `ws://host[:port][/path][?query]`, or with the feature `tls` to
    /// `wss://…` (RFC 6455 §3), with a deadline of 10 s and a
    /// single attempt. On Unix also to a Unix domain socket, `ws+unix:///path/of/socket:/path`, and
    /// on Linux with an abstract name, `ws+unix://@name:/path`; the request then names `localhost`.
    /// Characters that are not ASCII are percent-encoded, but a host must be ASCII.
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
            if !is_token(name.as_bytes()) || self.plan.subprotocols.contains(&name) {
                self.fail(ConnectError::Subprotocol(name.clone()));
            }
            self.plan.subprotocols.push(name);
        }
        self
    }

    /// Tries these addresses in this order, instead of resolving the URL's host. The request still
    /// names that host.
    pub fn addrs(mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.plan.addrs = addrs.into_iter().collect();
        self
    }

    /// Sets whom a connection to `wss://` trusts, and the client's own certificate. Without it
    /// Mozilla's authorities are trusted, as of [`TlsClient::new`](crate::TlsClient::new).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::client::TlsClient) -> Self {
        self.plan.tls = Some(tls);
        self
    }

    /// Sets the deadline of one attempt, including resolving, all addresses and the handshake. Of
    /// several addresses the next one is tried too if one has not responded within 250 ms (RFC
    /// 8305), and the first connection is kept. Time in which the program does not poll counts, but
    /// input that arrived meanwhile is read first. Default 10 s.
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
        let mut before = Exclusive::new(before);
        self.plan.before = Some(Box::new(move |attempt| (before.get_mut())(attempt)));
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

    /// Sets the URL's query, the part after `?`. Characters that are not ASCII are
    /// percent-encoded.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Url`] if a character has to be escaped.
    pub fn query(&mut self, query: &str) -> Result<(), ConnectError> {
        let path = format!("{}?{}", self.path.path(), percent_encoded(query));
        let invalid = ConnectError::Url("the query has characters that must be escaped");
        self.path = match path.parse() {
            Ok(path) if !query.contains('#') => path,
            _ => return Err(invalid),
        };
        Ok(())
    }
}

fn header_of(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), HeaderError> {
    // The error omits the value, which may be a token.
    let invalid = || HeaderError::Invalid(name.to_owned());
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
    let value = HeaderValue::from_str(value).map_err(|_| invalid())?;
    // RFC 6455 §4.1, 3 and 8 of the request: the URL gives Host, `subprotocols` its own field.
    let is_own = matches!(header, header::HOST | header::SEC_WEBSOCKET_PROTOCOL);
    if is_own || is_handshake_field(&header) {
        Err(HeaderError::Reserved(header))
    } else {
        Ok((header, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_addresses_replace_those_of_the_url() {
        let given: SocketAddr = "127.0.0.1:5".parse().unwrap();
        for url in ["ws://a.example/", "ws://127.0.0.1:9/"] {
            assert_eq!(Connect::new(url).addrs([given]).into_plan().unwrap().addrs, [given]);
        }
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
