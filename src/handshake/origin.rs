//! The origin policy: which web pages may connect (RFC 6455 §10.2).

#[cfg(any(test, fuzzing))]
use http::HeaderValue;
use http::header;

#[cfg(any(test, fuzzing))]
use crate::config::{Config, hosts::HostPolicy};
use crate::{
    config::OriginPolicy,
    config::hosts::is_host,
    http1::{
        forwarded::Forwarded,
        head::{RequestHead, single},
    },
    util::authority::Authority,
};

/// Whether the policy allows the request's page. A request without `Origin` is not from a browser.
/// Host and scheme of the server are those that a trusted proxy was asked for, if it says so.
pub(super) fn is_allowed(request: &RequestHead, forwarded: &Forwarded, policy: &OriginPolicy) -> bool {
    if matches!(policy, OriginPolicy::Any | OriginPolicy::Custom)
        || !request.headers().contains_key(header::ORIGIN)
    {
        return true;
    }
    // Several values and malformed ones match no origin.
    let Some(value) = single(request, header::ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        return false;
    };
    let list = match policy {
        OriginPolicy::AllowList(list) => &list[..],
        OriginPolicy::SameOrigin | OriginPolicy::Any | OriginPolicy::Custom => &[],
    };
    // Origins without a host: `null` of a sandboxed frame or a local file, `file://` of a shell
    // around a browser.
    if value == "null" || value.eq_ignore_ascii_case("file://") {
        return list.iter().any(|entry| entry.eq_ignore_ascii_case(value));
    }
    let Some(origin) = Origin::parse(value) else { return false };
    // RFC 9112 §3.2.2: the authority of an absolute request target takes the place of Host.
    let host = match (&forwarded.host, request.uri().authority()) {
        (Some(host), _) => Some(host.as_str()),
        (None, Some(authority)) => Some(authority.as_str()),
        (None, None) => single(request, header::HOST).and_then(|host| host.to_str().ok()),
    };
    let host = host.and_then(Authority::parse);
    let same = host.is_some_and(|host| origin.is_at(&host)) && origin.has_security(forwarded.secure);
    same || list.iter().any(|entry| origin.matches(entry))
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

    /// Whether the page was loaded over an encrypted connection, or not, like the connection of its
    /// request. `None`: that is not known.
    fn has_security(&self, secure: Option<bool>) -> bool {
        secure.is_none_or(|secure| self.default_port() == Some(if secure { 443 } else { 80 }))
    }

    /// Whether this is the origin of `entry`, or with `scheme://*.host` at a subdomain of the host,
    /// of any depth. The host itself is no subdomain.
    fn matches(&self, entry: &str) -> bool {
        let Some((scheme, authority)) = entry.split_once("://") else { return false };
        let base = authority.strip_prefix("*.");
        let Some(authority) = Authority::parse(base.unwrap_or(authority)) else { return false };
        let other = Origin { scheme, authority };
        if !self.scheme.eq_ignore_ascii_case(other.scheme) || self.port() != other.port() {
            return false;
        }
        is_host(self.authority.host, other.authority.host, base.is_some())
    }
}

/// The fuzz target: an origin that the settings accept is that of a page, and a host that they
/// accept is one of a request.
#[cfg(any(test, fuzzing))]
pub(crate) fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (host, origin) = text.split_once('\n').unwrap_or((text, text));
    let policy = OriginPolicy::AllowList(vec![origin.to_owned()]);
    let hosts = HostPolicy::AllowList(vec![host.to_owned()]);
    let config = Config { origins: policy.clone(), ..Config::default() };
    if config.validate().is_ok() && !origin.contains('*') {
        let mut request = RequestHead::new(());
        let value = HeaderValue::from_str(origin).expect("a valid origin is ASCII");
        request.headers_mut().insert(header::ORIGIN, value);
        assert!(is_allowed(&request, &Forwarded::default(), &policy), "{origin:?} matches itself");
    }
    let config = Config { hosts: hosts.clone(), ..Config::default() };
    if config.validate().is_ok() && !host.contains('*') {
        let authority = Authority::parse(host).expect("a valid host is one of a request");
        assert!(hosts.allows(&authority), "{host:?} matches itself");
    }
}
