//! An HTTP request as the application gets it.

use std::{borrow::Cow, sync::Arc};

#[cfg(feature = "tls")]
use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};

use crate::{
    http1::head::RequestHead,
    peer_addr::{Endpoint, PeerAddr},
    tls::info::TlsInfo,
};

/// A request: of a client that opened a WebSocket or asks for one, or plain HTTP. Borrowed and
/// `Copy`.
///
/// [`Event::Open`](crate::Event::Open), [`Event::Upgrade`](crate::Event::Upgrade),
/// [`Event::Http`](crate::Event::Http), the closures of the builder and
/// [`Server::request`](crate::Server::request) give it.
///
/// # Examples
///
/// ```
/// use tickws::{Decision, Server, http::Response};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder()
///     .on_upgrade(|request, _| match request.query("token").as_deref() {
///         Some("let me in") => Decision::Accept,
///         _ if request.cookie("session").is_some() => Decision::Accept,
///         _ => Decision::Reject(Response::builder().status(401).body("sign in".into()).unwrap()),
///     })
///     .bind("127.0.0.1:0")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Request<'t> {
    head: &'t RequestHead,
    body: &'t [u8],
    endpoint: Endpoint,
}

impl<'t> Request<'t> {
    pub(crate) fn new(head: &'t RequestHead, body: &'t [u8], endpoint: Endpoint) -> Self {
        Request { head, body, endpoint }
    }

    /// The method (RFC 9110 §9).
    pub fn method(&self) -> &'t Method {
        self.head.method()
    }

    /// The request target: path and query; of an outbound connection the whole URL.
    pub fn uri(&self) -> &'t Uri {
        self.head.uri()
    }

    /// The header fields.
    pub fn headers(&self) -> &'t HeaderMap {
        self.head.headers()
    }

    /// The request's head as the type of the crate `http`.
    pub fn head(&self) -> &'t http::Request<()> {
        self.head
    }

    /// The value of the first header field with this name, compared without case; `None` if there
    /// is none or it is not ASCII text.
    pub fn header(&self, name: &str) -> Option<&'t str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    /// The whole body. Empty for a GET and for an upgrade.
    pub fn body(&self) -> &'t [u8] {
        self.body
    }

    /// The address of the client. Behind a proxy of
    /// [`trusted_proxies`](crate::ServerBuilder::trusted_proxies) it is the address that the proxy
    /// names. Of an outbound connection it is the server's.
    pub fn remote_addr(&self) -> PeerAddr {
        self.endpoint.remote
    }

    /// The address of the other end of the connection: of the client, or of the proxy in front of
    /// it.
    pub fn peer_addr(&self) -> PeerAddr {
        self.endpoint.peer
    }

    /// Whether the client's connection is encrypted: with TLS by this server, or as a proxy of
    /// [`trusted_proxies`](crate::ServerBuilder::trusted_proxies) says it is.
    pub fn is_secure(&self) -> bool {
        self.endpoint.secure
    }

    /// The parameters of the TLS handshake of this connection. `None` without TLS: also if a proxy
    /// in front has encrypted the client's connection.
    pub fn tls(&self) -> Option<&'t TlsInfo> {
        self.head.extensions().get::<Arc<TlsInfo>>().map(AsRef::as_ref)
    }

    /// The certificate chain of the client in DER form, its own first, as
    /// [`Tls::client_certificates`](crate::Tls::client_certificates) asks for it. It was verified.
    /// Empty if there is none.
    #[cfg(feature = "tls")]
    pub fn peer_certificates(&self) -> &'t [Bytes] {
        self.tls().map_or(&[], TlsInfo::peer_certificates)
    }

    /// The first value with this name in the query string, decoded as a form does
    /// (`application/x-www-form-urlencoded`: `+` is a space, `%41` is `A`). Bytes that are not
    /// UTF-8 become U+FFFD. A name without `=` has an empty value.
    pub fn query(&self, name: &str) -> Option<Cow<'t, str>> {
        let query = self.head.uri().query()?;
        form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// The first value of the cookie with this name (RFC 6265 §4.2.1), compared with case, without
    /// surrounding quotes and otherwise as it was sent.
    ///
    /// A browser sends the cookie with the longest path first. `None` if there is none, or the
    /// field is not ASCII text.
    pub fn cookie(&self, name: &str) -> Option<&'t str> {
        let lines = self.head.headers().get_all(header::COOKIE).into_iter();
        let pairs = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(';'));
        let mut values = pairs.filter_map(|pair| {
            let (found, value) = pair.split_once('=')?;
            (found.trim_ascii() == name).then(|| value.trim_ascii())
        });
        let value = values.next()?;
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        Some(quoted.unwrap_or(value))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn endpoint() -> Endpoint {
        let addr = SocketAddr::from(([127, 0, 0, 1], 9)).into();
        Endpoint { remote: addr, peer: addr, secure: false }
    }

    fn head(target: &str, headers: &[(&'static str, &str)]) -> RequestHead {
        let mut head = RequestHead::new(());
        *head.uri_mut() = target.parse().unwrap();
        for (name, value) in headers {
            head.headers_mut().append(*name, value.parse().unwrap());
        }
        head
    }

    #[test]
    fn a_query_is_decoded_and_the_first_value_counts() {
        let head = head("/?a=1&b=x+y%2Bz&a=2&empty=&bare&%C3%BC=%ff&=nameless", &[]);
        let request = Request::new(&head, &[], endpoint());
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("x y+z")),
            ("empty", Some("")),
            ("bare", Some("")),
            ("ü", Some("\u{fffd}")),
            ("", Some("nameless")),
            ("A", None),
            ("c", None),
        ] {
            assert_eq!(request.query(name).as_deref(), value, "{name:?}");
        }
        let without = self::head("/a?", &[]);
        assert_eq!(Request::new(&without, &[], endpoint()).query("a"), None);
    }

    #[test]
    fn a_cookie_is_found_in_any_line_and_only_by_its_whole_name() {
        let cookies = [
            ("cookie", "session=abc; theme=\"dark blue\";bare; token=a=b=="),
            ("cookie", "session=later;  spaced = 7 ; x-session=no"),
            ("cookie", "open=\"; empty="),
        ];
        let head = head("/", &cookies);
        let request = Request::new(&head, &[], endpoint());
        for (name, value) in [
            ("session", Some("abc")),
            ("theme", Some("dark blue")),
            ("token", Some("a=b==")),
            ("spaced", Some("7")),
            ("x-session", Some("no")),
            ("open", Some("\"")),
            ("empty", Some("")),
            ("bare", None),
            ("Session", None),
            ("sess", None),
        ] {
            assert_eq!(request.cookie(name), value, "{name}");
        }
    }

    #[test]
    fn parts_of_the_head_are_passed_through() {
        let head = head("/a?b", &[("X-Name", "v")]);
        let request = Request::new(&head, b"body", endpoint());
        assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/a"));
        assert_eq!((request.header("x-name"), request.header("not a name")), (Some("v"), None));
        assert_eq!((request.body(), request.is_secure()), (&b"body"[..], false));
        assert_eq!(request.remote_addr(), SocketAddr::from(([127, 0, 0, 1], 9)));
    }
}
