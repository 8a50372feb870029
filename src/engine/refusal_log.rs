//! The log lines about refusals by a setting: what was refused, and which setting allows it.

use std::time::{Duration, Instant};

use http::header;

use super::{Engine, Stream};
use crate::{
    config::OriginPolicy,
    http1::{head::RequestHead, rejection::Rejection},
};

/// Limits the lines of each kind, so that peers cannot fill the disk.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    kinds: [Lines; KINDS],
}

#[derive(Debug, Default, Clone, Copy)]
struct Lines {
    since: Option<Instant>,
    written: u32,
    omitted: u64,
}

const KINDS: usize = 15;

/// The number of the lines about failed TLS handshakes.
const HANDSHAKE: usize = 14;

impl RefusalLog {
    /// Lines of one kind in each `INTERVAL`.
    const MAX_LINES: u32 = 5;
    const INTERVAL: Duration = Duration::from_secs(10);

    /// Whether a line of this kind may be written now. Returns how many were omitted since the last
    /// one.
    fn admit(&mut self, kind: usize, now: Instant) -> Option<u64> {
        let lines = self.kinds.get_mut(kind)?;
        if lines.since.is_none_or(|since| now.saturating_duration_since(since) >= Self::INTERVAL) {
            (lines.since, lines.written) = (Some(now), 0);
        }
        if lines.written == Self::MAX_LINES {
            lines.omitted += 1;
            return None;
        }
        lines.written += 1;
        Some(std::mem::take(&mut lines.omitted))
    }
}

/// The number of a rejection that a setting decides about; `None` for faults of the client.
fn kind(rejection: Rejection) -> Option<usize> {
    Some(match rejection {
        Rejection::OriginForbidden => 0,
        Rejection::HostForbidden => 1,
        Rejection::NotFound => 2,
        Rejection::NoSubprotocol => 3,
        Rejection::HeadTooLarge => 4,
        Rejection::TooManyHeaders => 5,
        Rejection::AtCapacity => 6,
        Rejection::TooManyFromAddress => 7,
        Rejection::Overloaded => 8,
        Rejection::BodyTooLarge => 9,
        Rejection::NoResponse => 10,
        Rejection::BodyTimeout => 11,
        Rejection::NoProxyHeader => 12,
        Rejection::TlsRequired => 13,
        _ => return None,
    })
}

impl<S: Stream> Engine<S> {
    /// Logs that a request, or a connection whose request is not known, is refused. `host` is the
    /// host that the client has asked for.
    pub(super) fn log_refusal(
        &mut self,
        index: usize,
        rejection: Rejection,
        request: Option<&RequestHead>,
        host: Option<&str>,
        now: Instant,
    ) {
        let endpoint = self.endpoint(index);
        let status = rejection.status();
        let admitted = match kind(rejection) {
            Some(_) if self.shutting_down => None,
            Some(kind) => self.refusal_log.admit(kind, now),
            None => None,
        };
        let Some(omitted) = admitted else {
            return log::debug!("rejected {}: {status}", endpoint.remote);
        };
        let cause = self.cause_of(rejection, request, host);
        let mut client = endpoint.remote.to_string();
        if endpoint.peer != endpoint.remote {
            client += &format!(" through {}", endpoint.peer);
        }
        match omitted {
            0 => log::warn!("{status}: {cause} (client {client})"),
            _ => log::warn!("{status}: {cause} (client {client}; {omitted} such lines were omitted)"),
        }
    }

    /// Logs that a TLS handshake has failed. Scanners of the internet cause many.
    pub(super) fn log_failed_handshake(&mut self, index: usize, error: &str, now: Instant) {
        let client = self.clients[index].remote;
        let error = quoted(error.as_bytes());
        match self.refusal_log.admit(HANDSHAKE, now) {
            None => log::debug!("the TLS handshake of {client} has failed: {error}"),
            Some(0) => log::warn!("the TLS handshake of {client} has failed: {error}"),
            Some(omitted) => log::warn!(
                "the TLS handshake of {client} has failed: {error} ({omitted} such lines were omitted)"
            ),
        }
    }

    fn cause_of(&self, rejection: Rejection, request: Option<&RequestHead>, host: Option<&str>) -> String {
        let config = &self.config;
        let field = |name| request.and_then(|request| request.headers().get(name));
        let field = |name| quoted(field(name).map_or(&[], |value| value.as_bytes()));
        let host = quoted(host.unwrap_or_default().as_bytes());
        match rejection {
            Rejection::OriginForbidden if config.origins == OriginPolicy::Custom => {
                format!("origin {} was refused; see check_origin", field(header::ORIGIN))
            }
            Rejection::OriginForbidden => {
                format!("origin {} is not host {host}; see allow_origins", field(header::ORIGIN))
            }
            Rejection::HostForbidden => {
                format!(
                    "host {host} is not one of this server; see allow_hosts, or trusted_proxies behind a proxy"
                )
            }
            Rejection::NotFound => {
                let path = request.map_or("", |request| request.uri().path());
                format!("path {} takes no WebSockets; see path", quoted(path.as_bytes()))
            }
            Rejection::NoSubprotocol => format!(
                "subprotocols {} are not supported; see subprotocols and require_subprotocol",
                field(header::SEC_WEBSOCKET_PROTOCOL)
            ),
            Rejection::HeadTooLarge => {
                format!("a request head is above {} bytes; see max_head_bytes", config.max_head_bytes)
            }
            Rejection::TooManyHeaders => {
                format!("a request has more than {} headers; see max_headers", config.max_headers)
            }
            Rejection::AtCapacity => {
                format!("there are {} connections; see max_connections", config.max_connections.unwrap_or(0))
            }
            Rejection::TooManyFromAddress => format!(
                "the address has {} connections; see max_connections_per_ip",
                config.max_connections_per_ip.unwrap_or(0)
            ),
            Rejection::Overloaded => {
                format!("{} bytes are buffered; see max_total_buffered", self.total_buffered())
            }
            Rejection::BodyTooLarge => {
                format!("a request body is above {} bytes; see max_body_size", config.max_body_size)
            }
            Rejection::NoResponse => "the application gave no response; see handshake_timeout".to_owned(),
            Rejection::NoProxyHeader => {
                "a connection has no header of the PROXY protocol; see Listener::proxy_protocol".to_owned()
            }
            Rejection::TlsRequired => {
                "a request came in plain text on a port with TLS; see redirect_to_https".to_owned()
            }
            Rejection::BodyTimeout => {
                format!("a request body took longer than {:?}; see body_timeout", config.body_timeout)
            }
            _ => String::new(),
        }
    }
}

/// Text from the network for one line of a log: quoted, escaped and cut.
fn quoted(bytes: &[u8]) -> String {
    const MAX: usize = 200;
    match bytes.get(..MAX) {
        Some(start) if bytes.len() > MAX => format!("{:?}…", String::from_utf8_lossy(start)),
        _ => format!("{:?}", String::from_utf8_lossy(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_limit_and_counts_what_is_omitted() {
        let mut log = RefusalLog::default();
        let start = Instant::now();
        for _ in 0..5 {
            assert_eq!(log.admit(0, start), Some(0));
        }
        (0..70).for_each(|_| assert_eq!(log.admit(0, start), None));
        assert_eq!(log.admit(1, start), Some(0));
        assert_eq!(log.admit(0, start + RefusalLog::INTERVAL), Some(70));
        assert_eq!(log.admit(0, start + RefusalLog::INTERVAL), Some(0));
    }

    #[test]
    fn text_from_the_network_stays_in_its_line() {
        assert_eq!(quoted(b"a\r\nWARN \x1b[2J\xff"), "\"a\\r\\nWARN \\u{1b}[2J\u{fffd}\"");
        assert_eq!(quoted(&[b'a'; 300]).chars().count(), 203);
    }
}
