//! All limits and their defaults. Set through [`ServerBuilder`](crate::ServerBuilder).

pub(crate) mod audience;
#[cfg(feature = "deflate")]
pub(crate) mod compression;
pub(crate) mod connect;
pub(crate) mod hosts;
mod paths;
pub(crate) mod reconnect;
pub(crate) mod send_options;
pub(crate) mod trusted_proxy;
pub(crate) mod url;

use std::{num::NonZeroU32, time::Duration};

#[cfg(feature = "deflate")]
use crate::config::compression::Deflate;
use crate::{
    config::{hosts::HostPolicy, trusted_proxy::TrustedProxy},
    error::ConfigError,
    peer_addr::PeerAddr,
    util::{http_syntax::is_token, rearm::Rearm},
};

/// Policy for a message that would take a client's outbox above `max_buffered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OverflowPolicy {
    /// Close the client with 1013 (try again later). `send` returns
    /// [`SendError::Overflow`](crate::SendError::Overflow).
    #[default]
    Disconnect,
    /// Drop the new message and keep the client. `send` returns
    /// [`SendError::Dropped`](crate::SendError::Dropped).
    DropNewest,
}

/// Policy for a client above `max_messages_per_second` or `max_bytes_per_second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RateLimitPolicy {
    /// Close the client with 1008 (policy violation), reported as
    /// [`CloseReason::RateLimited`](crate::CloseReason::RateLimited). Messages that were complete
    /// before the excess are delivered; the message that exceeds the limit is not.
    #[default]
    Close,
    /// Stop reading until the limit allows it: the kernel's buffer fills, and TCP flow control
    /// slows the peer down. Nothing is lost. During the pause the peer's pings and close frame are
    /// not read either, and `silence_timeout` does not apply.
    Pause,
}

/// Which browser pages may connect (RFC 6455 §10.2). Programs other than browsers send no `Origin`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum OriginPolicy {
    /// The origin's host and port equal those of the `Host` header. A request without `Origin` is
    /// allowed.
    #[default]
    SameOrigin,
    /// The same origin, or one of this list, each `scheme://host[:port]`, `scheme://*.host[:port]`,
    /// `null` or `file://`.
    AllowList(Vec<String>),
    /// The application's closure decides, also about a request without `Origin`.
    Custom,
    /// Any origin.
    Any,
}

/// Whether a browser can send this as an origin, or a subdomain of it if it begins with `*.`.
fn is_origin_pattern(text: &str) -> bool {
    /// Pages with these schemes do not exist, or their origin is `null`.
    const NO_PAGES: [&str; 9] = ["ws", "wss", "ftp", "file", "data", "blob", "about", "javascript", "mailto"];
    if text == "null" || text == "file://" {
        return true;
    }
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    // RFC 3986 §3.1.
    let is_scheme = scheme.starts_with(|sign: char| sign.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !NO_PAGES.iter().any(|name| scheme.eq_ignore_ascii_case(name));
    is_scheme && hosts::is_pattern(authority)
}

/// Inbound size limits in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageLimits {
    pub(crate) frame: u64,
    pub(crate) message: u64,
}

impl MessageLimits {
    /// The limits for compressed payloads, which are inflated once complete. Incompressible data
    /// grows by a few bytes when compressed, and by up to an eighth with poor Huffman codes.
    pub(crate) fn compressed(self) -> MessageLimits {
        let slack = |bytes: u64| bytes + bytes / 8 + 64;
        let frame = if self.frame == self.message { slack(self.frame) } else { self.frame };
        MessageLimits { frame, message: slack(self.message) }
    }
}

/// All settings of a server, with the defaults of the README's table.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) handshake_timeout: Duration,
    pub(crate) max_head_bytes: usize,
    pub(crate) max_headers: usize,
    pub(crate) origins: OriginPolicy,
    pub(crate) hosts: HostPolicy,
    /// The peers whose `Forwarded` and `X-Forwarded-…` fields are believed.
    pub(crate) trusted_proxies: Vec<TrustedProxy>,
    pub(crate) keep_requests: bool,
    /// The paths that accept upgrades; empty means all. A `*` at the end matches any rest.
    pub(crate) paths: Vec<String>,
    /// In the server's order of preference.
    pub(crate) subprotocols: Vec<String>,
    pub(crate) require_subprotocol: bool,
    pub(crate) isolate_upgrade_response: bool,

    pub(crate) http: bool,
    pub(crate) max_body_size: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) health: Option<String>,
    pub(crate) metrics: Option<String>,

    pub(crate) max_message_size: usize,
    /// `None`: the value of `max_message_size`.
    pub(crate) max_frame_size: Option<usize>,

    pub(crate) ping_interval: Option<Duration>,
    pub(crate) silence_timeout: Option<Duration>,
    pub(crate) write_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) max_lifetime: Option<Duration>,

    pub(crate) max_buffered: usize,
    pub(crate) overflow: OverflowPolicy,

    /// `None`: no memory limit.
    pub(crate) max_total_buffered: Option<usize>,
    pub(crate) max_rooms: usize,
    pub(crate) max_rooms_per_client: usize,
    pub(crate) max_room_name: usize,

    pub(crate) max_connections: Option<usize>,
    pub(crate) max_connections_per_ip: Option<usize>,
    pub(crate) read_budget: usize,
    pub(crate) accept_budget: usize,
    pub(crate) backlog: usize,
    pub(crate) event_budget: usize,
    pub(crate) time_budget: Option<Duration>,
    pub(crate) max_messages_per_second: Option<u32>,
    pub(crate) max_bytes_per_second: Option<usize>,
    pub(crate) rate_limit: RateLimitPolicy,
    pub(crate) nodelay: bool,
    /// `None`: the system's default and tuning.
    pub(crate) send_buffer: Option<usize>,
    pub(crate) handle_queue: usize,
    pub(crate) tls_handshakes_per_poll: usize,
    /// Plain HTTP on a TLS port is redirected to https.
    pub(crate) redirect_to_https: bool,
    /// Set by the host, not by the application.
    pub(crate) rearm: Rearm,
    /// `None`: compression is declined.
    #[cfg(feature = "deflate")]
    pub(crate) deflate: Option<Deflate>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            handshake_timeout: Duration::from_secs(10),
            max_head_bytes: 16 * 1024,
            max_headers: 100,
            origins: OriginPolicy::SameOrigin,
            hosts: HostPolicy::Unset,
            trusted_proxies: Vec::new(),
            keep_requests: false,
            paths: Vec::new(),
            subprotocols: Vec::new(),
            require_subprotocol: false,
            isolate_upgrade_response: false,
            http: false,
            max_body_size: 64 * 1024,
            body_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(10),
            health: None,
            metrics: None,
            max_message_size: 1024 * 1024,
            max_frame_size: None,
            ping_interval: Some(Duration::from_secs(54)),
            silence_timeout: Some(Duration::from_secs(60)),
            write_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(10),
            max_lifetime: None,
            // A message of `max_message_size` fits with the longest header (RFC 6455 §5.2).
            max_buffered: 1024 * 1024 + 14,
            overflow: OverflowPolicy::Disconnect,
            max_total_buffered: Some(1024 * 1024 * 1024),
            max_rooms: 64 * 1024,
            max_rooms_per_client: 1024,
            max_room_name: 256,
            max_connections: None,
            max_connections_per_ip: None,
            read_budget: 256 * 1024,
            accept_budget: 64,
            backlog: 4096,
            event_budget: 2048,
            time_budget: None,
            max_messages_per_second: None,
            max_bytes_per_second: None,
            rate_limit: RateLimitPolicy::Close,
            nodelay: true,
            send_buffer: None,
            handle_queue: 1024,
            tls_handshakes_per_poll: 4,
            redirect_to_https: false,
            rearm: Rearm::NATIVE,
            #[cfg(feature = "deflate")]
            deflate: None,
        }
    }
}

impl Config {
    /// Bounds the memory that an unauthenticated peer can occupy before its request is parsed.
    const MAX_HEAD_BYTES: usize = 64 * 1024;
    /// Keeps every length within the `u32` offsets of an event.
    pub(crate) const MAX_MESSAGE_SIZE: usize = u32::MAX as usize / 2;
    /// The kernel takes the size as a C `int`.
    const MAX_SEND_BUFFER: usize = i32::MAX as usize;
    /// The parser's header slots are on the stack.
    const MAX_HEADERS: usize = 256;
    /// The queue allocates its whole capacity when it is created.
    const MAX_HANDLE_QUEUE: usize = 1 << 20;

    /// Finds the first setting that cannot work.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("max_head_bytes", self.max_head_bytes, Self::MAX_HEAD_BYTES),
            ("max_headers", self.max_headers, Self::MAX_HEADERS),
            ("max_body_size", self.max_body_size, Self::MAX_MESSAGE_SIZE),
            ("max_message_size", self.max_message_size, Self::MAX_MESSAGE_SIZE),
            ("max_frame_size", self.max_frame_size.unwrap_or(self.max_message_size), Self::MAX_MESSAGE_SIZE),
            ("max_buffered", self.max_buffered, usize::MAX),
            ("max_total_buffered", self.max_total_buffered.unwrap_or(1), usize::MAX),
            ("max_rooms", self.max_rooms, usize::MAX),
            ("max_rooms_per_client", self.max_rooms_per_client, usize::MAX),
            ("max_room_name", self.max_room_name, usize::MAX),
            ("max_connections", self.max_connections.unwrap_or(1), u32::MAX as usize / 2),
            ("max_connections_per_ip", self.max_connections_per_ip.unwrap_or(1), usize::MAX),
            ("read_budget", self.read_budget, usize::MAX),
            ("accept_budget", self.accept_budget, usize::MAX),
            ("backlog", self.backlog, i32::MAX as usize),
            ("event_budget", self.event_budget, u32::MAX as usize),
            ("send_buffer", self.send_buffer.unwrap_or(1), Self::MAX_SEND_BUFFER),
            ("max_messages_per_second", self.max_messages_per_second.unwrap_or(1) as usize, usize::MAX),
            ("max_bytes_per_second", self.max_bytes_per_second.unwrap_or(1), usize::MAX),
            ("handle_queue", self.handle_queue, Self::MAX_HANDLE_QUEUE),
            ("tls_handshakes_per_poll", self.tls_handshakes_per_poll, usize::MAX),
        ];
        for (setting, value, max) in sizes {
            if value == 0 {
                return Err(ConfigError::Zero(setting));
            }
            if value > max {
                return Err(ConfigError::TooLarge { setting, max });
            }
        }
        #[cfg(feature = "deflate")]
        if let Some(deflate) = &self.deflate {
            deflate.validate()?;
        }
        let durations = [
            ("handshake_timeout", Some(self.handshake_timeout)),
            ("body_timeout", Some(self.body_timeout)),
            ("keep_alive_timeout", Some(self.keep_alive_timeout)),
            ("ping_interval", self.ping_interval),
            ("silence_timeout", self.silence_timeout),
            ("write_timeout", Some(self.write_timeout)),
            ("close_timeout", Some(self.close_timeout)),
            ("max_lifetime", self.max_lifetime),
        ];
        for (setting, value) in durations {
            if value == Some(Duration::ZERO) {
                return Err(ConfigError::Zero(setting));
            }
        }
        if let (Some(ping), Some(silence)) = (self.ping_interval, self.silence_timeout)
            && silence <= ping
        {
            return Err(ConfigError::SilenceBeforePing { ping, silence });
        }
        if let OriginPolicy::AllowList(origins) = &self.origins
            && let Some(wrong) = origins.iter().find(|origin| !is_origin_pattern(origin))
        {
            return Err(ConfigError::InvalidOrigin(wrong.clone()));
        }
        if let HostPolicy::AllowList(hosts) = &self.hosts {
            if hosts.is_empty() {
                return Err(ConfigError::Zero("allow_hosts"));
            }
            if let Some(wrong) = hosts.iter().find(|host| !hosts::is_pattern(host)) {
                return Err(ConfigError::InvalidHost(wrong.clone()));
            }
        }
        let can_match = |path: &str| paths::can_match(path, self.max_head_bytes);
        let served = self.health.iter().chain(&self.metrics).find(|path| !can_match(path));
        let upgraded = || self.paths.iter().find(|path| !can_match(path.strip_suffix('*').unwrap_or(path)));
        if let Some(path) = served.or_else(upgraded) {
            return Err(ConfigError::InvalidPath(path.clone()));
        }
        if let (Some(health), Some(metrics)) = (&self.health, &self.metrics)
            && paths::is_same(health, metrics)
        {
            return Err(ConfigError::SamePath(metrics.clone()));
        }
        if let Some(name) = self.subprotocols.iter().find(|name| !is_token(name.as_bytes())) {
            return Err(ConfigError::InvalidSubprotocol(name.clone()));
        }
        if self.require_subprotocol && self.subprotocols.is_empty() {
            return Err(ConfigError::NoSubprotocols);
        }
        Ok(())
    }

    /// Whether `path` accepts upgrades.
    pub(crate) fn takes_upgrades_at(&self, path: &str) -> bool {
        self.paths.is_empty() || self.names_path(path)
    }

    /// Whether `path` matches a path that the application set for upgrades.
    pub(crate) fn names_path(&self, path: &str) -> bool {
        self.paths.iter().any(|rule| match rule.strip_suffix('*') {
            Some(prefix) => paths::begins(prefix, path),
            None => paths::is_same(rule, path),
        })
    }

    /// Whether the health check is at this path of a request.
    pub(crate) fn has_health_at(&self, path: &str) -> bool {
        self.health.as_deref().is_some_and(|health| paths::is_same(health, path))
    }

    /// Whether the metrics are at this path of a request.
    pub(crate) fn has_metrics_at(&self, path: &str) -> bool {
        self.metrics.as_deref().is_some_and(|metrics| paths::is_same(metrics, path))
    }

    /// Whether statements of this peer about its clients are believed.
    #[inline]
    pub(crate) fn trusts(&self, peer: PeerAddr) -> bool {
        self.trusted_proxies.iter().any(|proxy| proxy.covers(peer))
    }

    /// Whether compression may be negotiated.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn compresses(&self) -> bool {
        #[cfg(feature = "deflate")]
        return self.deflate.is_some();
        #[cfg(not(feature = "deflate"))]
        false
    }

    /// The limits of a client. `message` overrides `max_message_size`.
    #[inline]
    pub(crate) fn message_limits(&self, message: Option<NonZeroU32>) -> MessageLimits {
        let message = message.map_or(self.max_message_size as u64, |message| message.get().into());
        MessageLimits { frame: self.max_frame_size.map_or(message, |frame| frame as u64), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn invalid_settings_are_errors_that_name_the_setting() {
        let zero = Config { accept_budget: 0, ..Config::default() };
        assert_eq!(zero.validate(), Err(ConfigError::Zero("accept_budget")));
        let zero = Config { max_lifetime: Some(Duration::ZERO), ..Config::default() };
        assert_eq!(zero.validate(), Err(ConfigError::Zero("max_lifetime")));
        let zero = Config { max_messages_per_second: Some(0), ..Config::default() };
        assert_eq!(zero.validate(), Err(ConfigError::Zero("max_messages_per_second")));
        let zero = Config { max_bytes_per_second: Some(0), ..Config::default() };
        assert_eq!(zero.validate(), Err(ConfigError::Zero("max_bytes_per_second")));
        let head = Config { max_head_bytes: 65 * 1024, ..Config::default() };
        assert!(matches!(head.validate(), Err(ConfigError::TooLarge { setting: "max_head_bytes", .. })));
        let zero = Config { send_buffer: Some(0), ..Config::default() };
        assert_eq!(zero.validate(), Err(ConfigError::Zero("send_buffer")));
        let huge = Config { send_buffer: Some(i32::MAX as usize + 1), ..Config::default() };
        assert!(matches!(huge.validate(), Err(ConfigError::TooLarge { setting: "send_buffer", .. })));
        let late = Config { ping_interval: Some(Duration::from_secs(60)), ..Config::default() };
        assert!(matches!(late.validate(), Err(ConfigError::SilenceBeforePing { .. })));
        let good =
            ["https://*.a.example:8443", "null", "file://", "http://localhost:1", "chrome-extension://abc"];
        let origins = OriginPolicy::AllowList(good.map(Into::into).to_vec());
        assert_eq!(Config { origins, ..Config::default() }.validate(), Ok(()));
        for bad in [
            "example.com",
            "https://",
            "https://a.example/path",
            "https://*",
            "https://*.",
            "https://*a.example",
            "https://a.*.example",
            "*://a.example",
            "file:///tmp",
            "Null",
            "https://b\u{fc}cher.example",
            "https://a.example:99999",
            "https://a.example:0",
            "https://a.example?",
            "https://user@a.example",
            "https://[::1",
            "https://127.1",
            "wss://a.example",
            "ws://a.example",
            "://a.example",
            "1https://a.example",
            "data://a",
            "https://*.127.0.0.1",
        ] {
            let origins = OriginPolicy::AllowList(vec![bad.into()]);
            let config = Config { origins, ..Config::default() };
            assert_eq!(config.validate(), Err(ConfigError::InvalidOrigin(bad.into())));
        }
    }
}
