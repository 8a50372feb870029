//! The client of a request, as trusted proxies name it: `Forwarded` (RFC 7239), and
//! `X-Forwarded-For`, `-Proto` and `-Host`, which are older and more common.
//!
//! Each proxy appends the address that it was connected from. So the lists are read from the right,
//! and only as far as the addresses are those of trusted proxies: everything further left was
//! written by someone else.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{peer_addr::PeerAddr, util::http_syntax::is_token};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A request as its client sent it to the outermost trusted proxy. Each field is `None` if the
/// proxies do not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forwarded {
    pub(crate) client: Option<PeerAddr>,
    /// Whether the client's connection is encrypted.
    pub(crate) secure: Option<bool>,
    /// The `Host` field of the client's request.
    pub(crate) host: Option<String>,
}

impl Forwarded {
    /// Reads the fields of a request from a trusted peer. `trusts` is true for the addresses of
    /// other trusted proxies.
    ///
    /// A proxy that writes one kind of field may pass on the other kind as the client sent it. If a
    /// request has both, only the statements on which they agree are believed.
    pub(crate) fn read(headers: &HeaderMap, trusts: impl Fn(PeerAddr) -> bool) -> Self {
        let older = Forwarded {
            client: client_of_list(headers, &trusts),
            secure: last(headers, X_FORWARDED_PROTO).and_then(is_secure),
            host: last(headers, X_FORWARDED_HOST).map(str::to_owned),
        };
        if !headers.contains_key(header::FORWARDED) {
            return older;
        }
        let standard = Forwarded::standard(headers, &trusts);
        if headers.contains_key(X_FORWARDED_FOR) { older.agreed(standard) } else { standard }
    }

    /// The statements that both make. A port need not be in both.
    fn agreed(self, other: Forwarded) -> Forwarded {
        let ip = |client: Option<PeerAddr>| client.and_then(|client| client.ip());
        Forwarded {
            client: self.client.filter(|client| client.ip() == ip(other.client)),
            secure: self.secure.filter(|_| self.secure == other.secure),
            host: self.host.filter(|host| Some(host) == other.host.as_ref()),
        }
    }

    /// Reads `Forwarded` (RFC 7239 §4). A proxy writes the address of its own peer together with
    /// the scheme and the host of the request that it got, so all come from one element.
    fn standard(headers: &HeaderMap, trusts: &impl Fn(PeerAddr) -> bool) -> Self {
        let mut read = Forwarded::default();
        for line in headers.get_all(header::FORWARDED).iter().rev() {
            // The elements of a malformed line cannot be told apart from the right.
            let Some(elements) = line.to_str().ok().and_then(elements) else { return read };
            for Element { node, proto, host } in elements.into_iter().rev() {
                let Some(client) = node.as_deref().and_then(node_address) else { return read };
                read = Forwarded {
                    client: Some(client),
                    secure: proto.as_deref().and_then(is_secure),
                    host: host.map(Cow::into_owned),
                };
                if !trusts(client) {
                    return read;
                }
            }
        }
        read
    }
}

/// The client in `X-Forwarded-For`: the rightmost address that is not a trusted proxy's, or the
/// leftmost one if all are.
fn client_of_list(headers: &HeaderMap, trusts: &impl Fn(PeerAddr) -> bool) -> Option<PeerAddr> {
    let mut client = None;
    for line in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for item in line.to_str().ok()?.rsplit(',').map(str::trim_ascii) {
            // RFC 9110 §5.6.1.2: a recipient ignores empty elements.
            if item.is_empty() {
                continue;
            }
            let Some(address) = node_address(item) else { return client };
            client = Some(address);
            if !trusts(address) {
                return client;
            }
        }
    }
    client
}

/// The last element of a list, which the nearest proxy wrote.
fn last(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let line: &HeaderValue = headers.get_all(name).iter().next_back()?;
    let item = line.to_str().ok()?.rsplit(',').next()?.trim_ascii();
    Some(item).filter(|item| !item.is_empty())
}

fn is_secure(scheme: &str) -> Option<bool> {
    let is = |name: &str| scheme.eq_ignore_ascii_case(name);
    match () {
        () if is("https") || is("wss") => Some(true),
        () if is("http") || is("ws") => Some(false),
        () => None,
    }
}

/// The address in a node identifier (RFC 7239 §6): with or without a port, and an IPv6 address in
/// brackets, or in `X-Forwarded-For` without. `None` for `unknown` and for obfuscated names.
fn node_address(text: &str) -> Option<PeerAddr> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(SocketAddr::new(addr.ip().to_canonical(), addr.port()).into());
    }
    let bracketed = |text: &str| text.strip_prefix('[').and_then(|text| text.strip_suffix(']')?.parse().ok());
    let ip = |text: &str| text.parse::<IpAddr>().ok().or_else(|| bracketed(text).map(IpAddr::V6));
    // §6.3: the port may be obfuscated.
    let hidden_port = || text.rsplit_once(":_").and_then(|(host, _)| ip(host));
    let ip = ip(text).or_else(hidden_port)?;
    Some(PeerAddr::Portless(ip.to_canonical()))
}

/// One element of `Forwarded`.
#[derive(Debug, Default)]
struct Element<'h> {
    /// The value of `for`.
    node: Option<Cow<'h, str>>,
    proto: Option<Cow<'h, str>>,
    host: Option<Cow<'h, str>>,
}

/// Splits a line into its elements (RFC 7239 §4). `None` if it is malformed.
fn elements(line: &str) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    let mut rest = line;
    loop {
        let mut element = Element::default();
        let mut empty = true;
        loop {
            rest = rest.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with([',', ';']) {
                let (name, value) = rest.split_once('=')?;
                let (value, behind) = value_of(value)?;
                let field = match name {
                    name if name.eq_ignore_ascii_case("for") => Some(&mut element.node),
                    name if name.eq_ignore_ascii_case("proto") => Some(&mut element.proto),
                    name if name.eq_ignore_ascii_case("host") => Some(&mut element.host),
                    name => is_token(name.as_bytes()).then_some(None)?,
                };
                // §4: each parameter must not occur more than once.
                if field.is_some_and(|field| field.replace(value).is_some()) {
                    return None;
                }
                (rest, empty) = (behind.trim_ascii_start(), false);
            }
            match rest.strip_prefix(';') {
                Some(behind) => rest = behind,
                None => break,
            }
        }
        if !empty {
            elements.push(element);
        }
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => return rest.is_empty().then_some(elements),
        }
    }
}

/// Takes a token or a quoted string (RFC 9110 §5.6.4) from the front. Proxies also write addresses
/// that need quotes without them, so everything up to a delimiter counts as a token.
fn value_of(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t', '"']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (!value.is_empty()).then_some((Cow::Borrowed(value), rest));
    };
    let mut value = String::new();
    let mut signs = quoted.chars();
    loop {
        match signs.next()? {
            '"' => return Some((Cow::Owned(value), signs.as_str())),
            '\\' => value.push(signs.next()?),
            sign => value.push(sign),
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests {
    use super::*;

    /// The fuzz target: arbitrary lines of all fields. What stands on the left of an address that
    /// is not trusted makes no difference.
    pub(crate) fn target(data: &[u8]) {
        let mut headers = HeaderMap::new();
        for line in data.split(|byte| *byte == b'\n').take(20) {
            let Some((kind, value)) = line.split_first() else { continue };
            let names = [X_FORWARDED_FOR, header::FORWARDED, X_FORWARDED_PROTO, X_FORWARDED_HOST];
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(&names[usize::from(*kind) % names.len()], value);
            }
        }
        let trusts = |peer: PeerAddr| peer.ip().is_some_and(|ip| ip.is_loopback());
        let read = Forwarded::read(&headers, trusts);
        let Some(client) = read.client.filter(|client| !trusts(*client)) else { return };
        for (name, left) in [(X_FORWARDED_FOR, "6.6.6.6, unknown, "), (header::FORWARDED, "for=6.6.6.6, ")] {
            let lines: Vec<_> = headers.get_all(&name).iter().cloned().collect();
            if let [first, others @ ..] = &lines[..] {
                let first = [left.as_bytes(), first.as_bytes()].concat();
                headers.insert(&name, HeaderValue::from_bytes(&first).expect("a value"));
                others.iter().for_each(|line| _ = headers.append(&name, line.clone()));
            }
        }
        assert_eq!(Forwarded::read(&headers, trusts).client, Some(client));
    }

    #[cfg(test)]
    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    /// Reads the fields of a request; 10.0.0.0/8 and fd00::/8 are trusted.
    #[cfg(test)]
    fn read(lines: &[(&'static str, &'static str)]) -> Forwarded {
        Forwarded::read(&headers(lines), |peer| match peer.ip() {
            Some(IpAddr::V4(ip)) => ip.octets()[0] == 10,
            Some(IpAddr::V6(ip)) => ip.octets()[0] == 0xfd,
            None => false,
        })
    }

    #[cfg(test)]
    fn client(lines: &[(&'static str, &'static str)]) -> Option<String> {
        read(lines).client.map(|client| client.to_string())
    }

    #[cfg(test)]
    #[test]
    fn x_forwarded_for_is_read_from_the_right_through_trusted_proxies() {
        for (value, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:4711", Some("192.0.2.1:4711")),
            ("6.6.6.6, 192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1, 10.0.0.1", Some("192.0.2.1")),
            ("6.6.6.6,192.0.2.1,10.0.0.1,10.0.0.2", Some("192.0.2.1")),
            ("10.0.0.1, 10.0.0.2", Some("10.0.0.1")),
            ("6.6.6.6, unknown, 10.0.0.2", Some("10.0.0.2")),
            ("6.6.6.6, 1.2.3, 192.0.2.1 , ,", Some("192.0.2.1")),
            ("6.6.6.6, unknown", None),
            ("6.6.6.6, 192.0.2.1 x", None),
            ("", None),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:80, fd00::1", Some("[2001:db8::1]:80")),
            ("::ffff:192.0.2.1, ::ffff:10.0.0.1", Some("192.0.2.1")),
            ("_hidden", None),
            ("fe80::1%eth0", None),
        ] {
            assert_eq!(client(&[("x-forwarded-for", value)]).as_deref(), expected, "{value}");
        }
        let lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1, 10.0.0.1")];
        assert_eq!(client(&lines).as_deref(), Some("192.0.2.1"));
        let lines = [("x-forwarded-for", "6.6.6.6, 192.0.2.1"), ("x-forwarded-for", "10.0.0.1")];
        assert_eq!(client(&lines).as_deref(), Some("192.0.2.1"));
    }

    #[cfg(test)]
    #[test]
    fn forwarded_is_read_from_the_right_through_trusted_proxies() {
        for (value, expected) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", Some("192.0.2.60")),
            ("For=\"[2001:db8:cafe::17]:4711\"", Some("[2001:db8:cafe::17]:4711")),
            ("for=\"[2001:db8:cafe::17]\"", Some("2001:db8:cafe::17")),
            ("for=192.0.2.43, for=198.51.100.17", Some("198.51.100.17")),
            ("for=6.6.6.6, for=192.0.2.43, for=10.1.1.1", Some("192.0.2.43")),
            ("for=\"192.0.2.43:_gazonk\"", Some("192.0.2.43")),
            ("for=\"10.0.0.1\" ; host=a , for=10.0.0.2", Some("10.0.0.1")),
            ("for=192.0.2.1, for=unknown", None),
            ("for=_SEVKISEK", None),
            ("proto=https", None),
            ("for=192.0.2.1:80", Some("192.0.2.1:80")),
            (", ,for=192.0.2.1;;,", Some("192.0.2.1")),
            // A quote that a client has left open swallows what the proxy appended. Nothing of such
            // a line is believed.
            ("for=6.6.6.6, for=\", for=192.0.2.1", None),
            ("for=6.6.6.6, for=\", for=\"[2001:db8::1]\"", None),
            ("for=192.0.2.1;for=6.6.6.6", None),
            ("for=", None),
            ("for", None),
            ("", None),
        ] {
            assert_eq!(client(&[("forwarded", value)]).as_deref(), expected, "{value}");
        }
    }

    #[cfg(test)]
    #[test]
    fn scheme_and_host_come_from_the_proxy_that_names_the_client() {
        let all = read(&[(
            "forwarded",
            "for=6.6.6.6;proto=http;host=x, for=192.0.2.1;proto=https;host=\"a.example:8443\", for=10.0.0.1;proto=http;host=inner",
        )]);
        assert_eq!((all.secure, all.host.as_deref()), (Some(true), Some("a.example:8443")));
        let older = [
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-proto", "http, HTTPS"),
            ("x-forwarded-host", "x, a.example"),
        ];
        let all = read(&older);
        assert_eq!((all.secure, all.host.as_deref()), (Some(true), Some("a.example")));
        let all = read(&[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "")]);
        assert_eq!(all, Forwarded::default());
    }

    /// A proxy that writes one kind of field may pass on the other one from the client.
    #[cfg(test)]
    #[test]
    fn of_both_kinds_only_the_statements_on_which_they_agree_are_believed() {
        let older = ("x-forwarded-for", "192.0.2.1");
        assert_eq!(client(&[older, ("forwarded", "for=6.6.6.6")]), None);
        assert_eq!(client(&[older, ("forwarded", "for=\"")]), None);
        let same = client(&[older, ("forwarded", "for=\"192.0.2.1:80\"")]);
        assert_eq!(same.as_deref(), Some("192.0.2.1"));
        let all = read(&[older, ("x-forwarded-proto", "https"), ("forwarded", "for=192.0.2.1;proto=http")]);
        assert_eq!(all.secure, None);
    }
}
