//! The `ws://` or `wss://` URL of an outbound connection (RFC 6455 §3).

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use http::{
    Uri,
    uri::{PathAndQuery, Scheme},
};
use percent_encoding::{AsciiSet, percent_decode_str, utf8_percent_encode};

use crate::{error::ConnectError, util::http_syntax::is_host_byte};

/// The parts of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The host, without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The scheme is `wss`.
    pub(crate) secure: bool,
    /// The value of the `Host` header (RFC 6455 §4.1: without the default port).
    pub(crate) authority: String,
    pub(crate) path: PathAndQuery,
    /// The path of a Unix domain socket, in place of host and port. An abstract name begins with a
    /// NUL.
    pub(crate) unix: Option<PathBuf>,
}

impl Default for Target {
    fn default() -> Self {
        let path = PathAndQuery::from_static("/");
        Target { host: String::new(), port: 0, secure: false, authority: String::new(), path, unix: None }
    }
}

const UNIX: &str = "ws+unix://";

impl Target {
    pub(super) fn parse(url: &str) -> Result<Target, ConnectError> {
        // RFC 6455 §3: fragments have no meaning and must not be used.
        if url.contains('#') {
            return Err(ConnectError::Url("remove the fragment (#)"));
        }
        let scheme = url.get(..UNIX.len()).filter(|scheme| scheme.eq_ignore_ascii_case(UNIX));
        if let (Some(_), Some(rest)) = (scheme, url.get(UNIX.len()..)) {
            return Target::on_unix_socket(rest);
        }
        let encoded = encoded(url)?;
        let uri: Uri = encoded
            .parse()
            .map_err(|_| ConnectError::Url("write it as ws://host:port/path, with % for other characters"))?;
        let secure = match uri.scheme().map(Scheme::as_str) {
            Some(scheme) if scheme.eq_ignore_ascii_case("ws") => false,
            Some(scheme) if scheme.eq_ignore_ascii_case("wss") && cfg!(not(feature = "tls")) => {
                return Err(ConnectError::Tls);
            }
            Some(scheme) if scheme.eq_ignore_ascii_case("wss") => true,
            Some(_) => return Err(ConnectError::Url("it must begin with ws:// or wss://")),
            None => return Err(ConnectError::Url("write it as ws://host:port/path")),
        };
        // RFC 6455 §3.
        let usual = if secure { 443 } else { 80 };
        let authority = uri.authority().ok_or(ConnectError::Url("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(ConnectError::Url("a user and a password belong in an Authorization header"));
        }
        let (host, digits) = (authority.host(), authority.port());
        let port = match digits {
            None if authority.as_str().ends_with(':') => usual,
            None if authority.as_str().len() > host.len() => 0,
            None => usual,
            Some(port) => port.as_u16(),
        };
        if host.is_empty() || port == 0 {
            return Err(ConnectError::Url("it needs a host, and a port from 1 to 65535 if any"));
        }
        let authority = if port == usual { host.to_owned() } else { format!("{host}:{port}") };
        let bare = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => Some(address).filter(|address| address.parse::<Ipv6Addr>().is_ok()),
            None => Some(host).filter(|host| host.bytes().all(is_host_byte)),
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
        Ok(Target { host: bare.to_owned(), port, secure, authority, path, unix: None })
    }

    /// Parses what follows `ws+unix://`: the path of a socket, or `@` and an abstract name, and
    /// behind a colon the path of the request. Percent-encoding is for a colon in the first.
    fn on_unix_socket(text: &str) -> Result<Target, ConnectError> {
        if cfg!(not(unix)) {
            return Err(ConnectError::Url("this system has no Unix domain sockets"));
        }
        let (socket, path) = text.split_once(':').unwrap_or((text, "/"));
        let faulty = ConnectError::Url("the path of its socket is not UTF-8, or has a NUL");
        let socket = percent_decode_str(socket).decode_utf8().map_err(|_| faulty.clone())?;
        if socket.contains('\0') {
            return Err(faulty);
        }
        let socket = match socket.strip_prefix('@') {
            Some(name) if !name.is_empty() => format!("\0{name}"),
            None if socket.starts_with('/') => socket.into_owned(),
            _ => return Err(ConnectError::Url("write it as ws+unix:///path/of/socket:/path")),
        };
        let path = percent_encoded(path).parse::<PathAndQuery>().ok();
        let path = path.filter(|path| path.as_str().starts_with('/'));
        let path = path.ok_or(ConnectError::Url("its path is invalid"))?;
        let host = "localhost".to_owned();
        let unix = Some(socket.into());
        Ok(Target { authority: host.clone(), host, port: 80, secure: false, path, unix })
    }

    /// The addresses of a host that needs no resolver.
    pub(super) fn known_addrs(&self) -> Vec<SocketAddr> {
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

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_str();
        let scheme = if self.secure { "wss" } else { "ws" };
        let Some(socket) = &self.unix else { return write!(f, "{scheme}://{}{path}", self.authority) };
        let socket = socket.to_string_lossy().replace('%', "%25").replace(':', "%3A").replace('\0', "@");
        write!(f, "{UNIX}{socket}:{path}")
    }
}

/// The text with percent-encoding in place of characters that are not ASCII.
pub(super) fn percent_encoded(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, &AsciiSet::EMPTY).into()
}

/// The URL with percent-encoding in place of characters that are not ASCII, as browsers send it
/// (RFC 3987 §3.1). A host is not changed: its encoding is another one.
fn encoded(url: &str) -> Result<Cow<'_, str>, ConnectError> {
    if url.is_ascii() {
        return Ok(Cow::Borrowed(url));
    }
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let path = url.get(host..).and_then(|rest| rest.find(['/', '?']));
    let (authority, path) = path.and_then(|path| url.split_at_checked(host + path)).unwrap_or((url, ""));
    match authority.is_ascii() {
        true => Ok(Cow::Owned(format!("{authority}{}", percent_encoded(path)))),
        false => Err(ConnectError::Url("write its host in ASCII, a name in Punycode (xn--…)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_into_their_parts() {
        for (url, host, port, authority, path) in [
            ("ws://a.example", "a.example", 80, "a.example", "/"),
            ("WS://a.example:80/", "a.example", 80, "a.example", "/"),
            ("ws://a.example:8080/x/y?z=1&w", "a.example", 8080, "a.example:8080", "/x/y?z=1&w"),
            ("ws://a.example?z", "a.example", 80, "a.example", "/?z"),
            ("ws://a.example/b\u{fc}/%41?\u{fc}", "a.example", 80, "a.example", "/b%C3%BC/%41?%C3%BC"),
            ("ws://a.example?\u{1f600}", "a.example", 80, "a.example", "/?%F0%9F%98%80"),
            ("ws://[::1]:9001/", "::1", 9001, "[::1]:9001", "/"),
            ("ws://127.0.0.1:1", "127.0.0.1", 1, "127.0.0.1:1", "/"),
        ] {
            let target = Target::parse(url).unwrap();
            let Target { host: h, port: p, secure: false, authority: a, path: q, unix: None } = target else {
                panic!("{url}")
            };
            assert_eq!((&*h, p, &*a, q.as_str()), (host, port, authority, path), "{url}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn the_scheme_wss_has_its_own_default_port() {
        for (url, port, authority) in [
            ("wss://a.example", 443, "a.example"),
            ("WSS://a.example:443/", 443, "a.example"),
            ("wss://a.example:80", 80, "a.example:80"),
            ("wss://[::1]:9001/", 9001, "[::1]:9001"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.port, &*target.authority, target.secure), (port, authority, true), "{url}");
            assert_eq!(Target::parse(&target.to_string()), Ok(target), "{url}");
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
            "ws://b\u{fc}cher.example/",
            "ws://b\u{fc}cher.example",
            "\u{fc}://a.example/",
            "b\u{fc}",
        ] {
            assert!(matches!(Target::parse(url), Err(ConnectError::Url(_))), "{url}");
        }
        #[cfg(not(feature = "tls"))]
        assert!(matches!(Target::parse("wss://a.example/"), Err(ConnectError::Tls)));
    }

    #[cfg(unix)]
    #[test]
    fn urls_of_unix_sockets_name_a_file_and_a_path() {
        for (url, socket, path) in [
            ("ws+unix:///run/a.sock", "/run/a.sock", "/"),
            ("WS+UNIX:///run/a.sock:/x/y?z=1", "/run/a.sock", "/x/y?z=1"),
            ("ws+unix:///run/a%3Ab c.sock:/\u{fc}", "/run/a:b c.sock", "/%C3%BC"),
            ("ws+unix://@name:/x", "\0name", "/x"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(Target::parse(&target.to_string()).as_ref(), Ok(&target));
            assert_eq!(target.unix.as_deref(), Some(std::path::Path::new(socket)), "{url}");
            assert_eq!((target.path.as_str(), &*target.authority), (path, "localhost"), "{url}");
        }
        for url in [
            "ws+unix://",
            "ws+unix://a.sock",
            "ws+unix://@",
            "ws+unix:///a:x",
            "ws+unix:///a%FF:/",
            "ws+unix:///a%00b:/",
            "ws+unix://@%00:/",
            "ws+unix:///a:/\r\n",
            "ws+unix:///a#b",
        ] {
            assert!(matches!(Target::parse(url), Err(ConnectError::Url(_))), "{url}");
        }
    }

    #[test]
    fn literals_and_localhost_need_no_resolver() {
        let addrs = |url| {
            Target::parse(url).unwrap().known_addrs().iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addrs("ws://127.0.0.1:9/"), ["127.0.0.1:9"]);
        assert_eq!(addrs("ws://[2001:db8::1]:9/"), ["[2001:db8::1]:9"]);
        assert_eq!(addrs("ws://LocalHost:9/"), ["127.0.0.1:9", "[::1]:9"]);
        assert_eq!(addrs("ws://a.example:9/"), [""; 0]);
    }
}
