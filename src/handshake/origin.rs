//! The origin policy: which web pages may connect (RFC 6455 §10.2).

use http::header;

use crate::{
    config::OriginPolicy,
    http1::{
        authority::Authority,
        head::{RequestHead, single},
    },
};

/// Whether the policy allows the request's page. A request without `Origin` is not from a browser.
pub(super) fn is_allowed(request: &RequestHead, policy: &OriginPolicy) -> bool {
    if *policy == OriginPolicy::Any || !request.headers().contains_key(header::ORIGIN) {
        return true;
    }
    // Several values, `null` (a sandboxed frame, a local file) and malformed ones match no origin.
    let value = single(request, header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let Some(origin) = value.and_then(Origin::parse) else { return false };
    // RFC 9112 §3.2.2: the authority of an absolute request target takes the place of Host.
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => single(request, header::HOST).and_then(|host| host.to_str().ok()),
    };
    let same = host.and_then(Authority::parse).is_some_and(|host| origin.is_at(&host));
    same || match policy {
        OriginPolicy::AllowList(list) => {
            list.iter().filter_map(|entry| Origin::parse(entry)).any(|entry| entry.equals(&origin))
        }
        OriginPolicy::SameOrigin | OriginPolicy::Any => false,
    }
}

/// A serialized origin, `scheme://host[:port]` (RFC 6454 §6.2).
#[derive(Debug)]
struct Origin<'a> {
    scheme: &'a str,
    authority: Authority<'a>,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        Some(Origin { scheme, authority: Authority::parse(authority)? })
    }

    fn default_port(&self) -> Option<u16> {
        let is_one_of = |names: [&str; 2]| names.iter().any(|name| self.scheme.eq_ignore_ascii_case(name));
        if is_one_of(["http", "ws"]) {
            Some(80)
        } else if is_one_of(["https", "wss"]) {
            Some(443)
        } else {
            None
        }
    }

    fn port(&self) -> Option<u16> {
        self.authority.port.or(self.default_port())
    }

    /// Whether this origin is `host`, reached with the origin's own scheme: the scheme of the page
    /// cannot be seen behind a proxy that ends TLS. An origin with another scheme (a browser
    /// extension) is never that of a server.
    fn is_at(&self, host: &Authority<'_>) -> bool {
        self.default_port().is_some()
            && self.port() == host.port.or(self.default_port())
            && self.authority.host.eq_ignore_ascii_case(host.host)
    }

    fn equals(&self, other: &Origin<'_>) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme)
            && self.authority.host.eq_ignore_ascii_case(other.authority.host)
            && self.port() == other.port()
    }
}
