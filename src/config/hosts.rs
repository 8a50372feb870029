//! Host names in settings: which of them a browser can send, and which requests they allow.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::util::authority::Authority;

/// The hosts that requests may name, as protection against DNS rebinding: a page whose host name
/// was changed to point at this machine reaches the server as its own host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum HostPolicy {
    /// Any host. When the server is built on loopback addresses only, it becomes `Loopback`, unless
    /// there are trusted proxies.
    #[default]
    Unset,
    /// Names and addresses of the loopback interface.
    Loopback,
    /// One of this list, each `host[:port]` or `*.host[:port]`.
    AllowList(Vec<String>),
}

impl HostPolicy {
    /// Whether a request to this authority may pass.
    pub(crate) fn allows(&self, authority: &Authority<'_>) -> bool {
        match self {
            HostPolicy::Unset => true,
            HostPolicy::Loopback => is_loopback(authority.host),
            HostPolicy::AllowList(list) => list.iter().any(|pattern| matches(pattern, authority)),
        }
    }
}

/// Whether the host is an IP address or a name of the loopback interface. DNS cannot make it point
/// elsewhere, so no page of another site has it.
pub(crate) fn is_fixed(host: &str) -> bool {
    is_loopback(host) || host.parse::<Ipv4Addr>().is_ok() || host.starts_with('[')
}

/// Whether the host is a name (RFC 6761 §6.3) or an address of the loopback interface.
fn is_loopback(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    last.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether the authority is that of `pattern`. A port of 80 or 443 is also met by an authority
/// without a port, because browsers omit the default one.
fn matches(pattern: &str, authority: &Authority<'_>) -> bool {
    let base = pattern.strip_prefix("*.");
    let Some(wanted) = Authority::parse(base.unwrap_or(pattern)) else { return false };
    let port = match (wanted.port, authority.port) {
        (None, _) => true,
        (Some(port), None) => port == 80 || port == 443,
        (Some(wanted), Some(port)) => wanted == port,
    };
    let host = authority.host.strip_suffix('.').unwrap_or(authority.host);
    let wanted = wanted.host.strip_suffix('.').unwrap_or(wanted.host);
    port && is_host(host, wanted, base.is_some())
}

/// Whether `host` is `wanted`, or with `below` one of its subdomains, of any depth.
pub(crate) fn is_host(host: &str, wanted: &str, below: bool) -> bool {
    if !below {
        return host.eq_ignore_ascii_case(wanted);
    }
    let Some(start) = host.len().checked_sub(wanted.len()) else { return false };
    match host.split_at_checked(start) {
        Some((labels, host)) => {
            labels.len() > 1 && labels.ends_with('.') && host.eq_ignore_ascii_case(wanted)
        }
        None => false,
    }
}

/// Whether a browser can send this as the authority of a page or a request, or a subdomain of it if
/// it begins with `*.`.
pub(crate) fn is_pattern(text: &str) -> bool {
    let base = text.strip_prefix("*.");
    let Some(Authority { host, port }) = Authority::parse(base.unwrap_or(text)) else { return false };
    // Browsers connect to no port 0.
    if port == Some(0) || !is_browser_host(host) {
        return false;
    }
    // An address has no subdomains.
    base.is_none() || !(host.starts_with('[') || ends_in_number(host))
}

/// Whether browsers write the host like this. They write a name in ASCII (`xn--…`) and an address
/// in its canonical form, whatever the user has typed (WHATWG URL, §3.5 Host parsing).
fn is_browser_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|ip| address.eq_ignore_ascii_case(&written(ip)));
    }
    if ends_in_number(host) {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        let is_punycode = label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
        (1..=63).contains(&label.len()) && !(is_punycode && label.len() == 4)
    };
    // RFC 1035 §2.3.4: the longest name and label that DNS has.
    !host.contains('%') && name.len() <= 253 && name.split('.').all(label)
}

/// An IPv6 address as browsers write it: unlike in [`Ipv6Addr`]'s own form the last 32 bits are
/// never in dotted form.
fn written(ip: Ipv6Addr) -> String {
    match (ip.to_ipv4_mapped(), ip.segments()) {
        (Some(_), [.., high, low]) => format!("::ffff:{high:x}:{low:x}"),
        (None, _) => ip.to_string(),
    }
}

/// Whether a browser takes the host for an IPv4 address: its last label is a number.
fn ends_in_number(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_no_browser_sends_are_invalid() {
        for text in [
            "a.example",
            "A.Example:8080",
            "*.a.example",
            "*.localhost:3000",
            "localhost",
            "a_b.example",
            "xn--bcher-kva.example",
            "a.example.",
            "127.0.0.1:1",
            "[::1]",
            "[2001:db8::1]:443",
            "[::ffff:102:304]",
        ] {
            assert!(is_pattern(text), "{text}");
        }
        let long = format!("{}.example", "a".repeat(64));
        let longer = "a.".repeat(127) + "example";
        for text in [
            "",
            "*",
            "*.",
            ":80",
            "a.example:0",
            "a.example:99999",
            "a.example:x",
            "a.example/",
            "a.example?",
            "user@a.example",
            "a b.example",
            "a..example",
            ".example",
            "b\u{fc}cher.example",
            "b%C3%BCcher.example",
            "xn--.example",
            "127.1",
            "127.0.0.01",
            "127.0.0.1.",
            "0x7f.0.0.1",
            "1.2.3.256",
            "2130706433",
            "a.0x1",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:1.2.3.4]",
            "[::1",
            "*.127.0.0.1",
            "*.[::1]",
            "*.*.example",
            "a.*.example",
            &long,
            &longer,
        ] {
            assert!(!is_pattern(text), "{text}");
        }
    }

    #[test]
    fn only_names_of_the_loopback_interface_are_loopback() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.b.localhost",
            "127.0.0.1",
            "127.8.9.1",
            "[::1]",
            "[0::1]",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example",
            "notlocalhost",
            "127.0.0.1.example",
            "128.0.0.1",
            "0.0.0.0",
            "[::]",
            "[::2]",
            "[::ffff:128.0.0.1]",
            "127.1",
            "evil.example",
            "",
            ".",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_list_allows_its_hosts_with_their_ports() {
        let policy = HostPolicy::AllowList(
            ["game.example", "*.game.example:8080", "https.example:443"].map(Into::into).into(),
        );
        let allows = |host| policy.allows(&Authority::parse(host).unwrap());
        for host in
            ["game.example", "GAME.example:1", "game.example.", "a.b.game.example:8080", "https.example"]
        {
            assert!(allows(host), "{host}");
        }
        for host in [
            "evil.example",
            "xgame.example:8080",
            "a.game.example",
            "a.game.example:80",
            "https.example:8443",
            "game.example.evil.example",
            "localhost",
        ] {
            assert!(!allows(host), "{host}");
        }
    }
}
