//! The beginning of a recording: magic, version and the settings of the server.

use bytes::Bytes;

use super::codec::{Decode, Encode, codec_fieldless, codec_struct};
use crate::{
    config::{
        Config, OriginPolicy, OverflowPolicy, RateLimitPolicy, hosts::HostPolicy, trusted_proxy::TrustedProxy,
    },
    engine::hooks::Hooks,
    http1::static_files::StaticFiles,
    util::rearm::Rearm,
};

/// The word "tape" is from version 1 of the format and stays, so that its files are recognised.
pub(crate) const MAGIC: &[u8] = b"tickws\0tape";

/// The version of the format that is written, and the only one that is read.
pub(crate) const VERSION: u8 = 6;

#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// The version of this library that recorded.
    pub(crate) library: String,
    pub(crate) config: Config,
    pub(crate) on_upgrade: bool,
    pub(crate) on_http: bool,
    /// The paths that are served from memory, with content type and bytes.
    assets: Vec<(String, (String, Bytes))>,
}

codec_struct!(Header { library, config, on_upgrade, on_http, assets });

impl Header {
    pub(crate) fn new(config: &Config, hooks: &Hooks) -> Self {
        let Hooks { on_upgrade, on_http, static_files, check_origin: _, wall_clock: _, record: _ } = hooks;
        Header {
            library: env!("CARGO_PKG_VERSION").to_owned(),
            config: config.clone(),
            on_upgrade: on_upgrade.is_some(),
            on_http: on_http.is_some(),
            assets: static_files.assets(),
        }
    }

    /// The content that is served from memory. `None` if a path or a content type is invalid.
    pub(crate) fn take_static_files(&mut self) -> Option<StaticFiles> {
        let mut static_files = StaticFiles::default();
        for (path, (content_type, bytes)) in std::mem::take(&mut self.assets) {
            static_files.serve_bytes(&path, &content_type, bytes.into()).ok()?;
        }
        Some(static_files)
    }
}

macro_rules! fields {
    ($($field:ident)*) => {
        impl Encode for Config {
            fn put(&self, out: &mut Vec<u8>) {
                // Destructured, so that a new setting that is missing here does not compile.
                let Config {
                    $($field,)*
                    #[cfg(feature = "deflate")]
                    deflate: _,
                } = self;
                $($field.put(out);)*
                put_deflate(self, out);
            }
        }

        impl Decode for Config {
            fn get(input: &mut &[u8]) -> Option<Self> {
                let mut config = Config::default();
                $(config.$field = Decode::get(input)?;)*
                get_deflate(&mut config, input)?;
                Some(config)
            }
        }
    };
}

fields! {
    handshake_timeout max_head_bytes max_headers origins keep_requests paths subprotocols require_subprotocol
    isolate_upgrade_response hosts trusted_proxies http max_body_size body_timeout keep_alive_timeout health metrics max_message_size max_frame_size ping_interval
    silence_timeout write_timeout close_timeout max_lifetime max_buffered overflow max_total_buffered max_rooms
    max_rooms_per_client max_room_name max_connections max_connections_per_ip read_budget accept_budget
    backlog event_budget time_budget max_messages_per_second max_bytes_per_second rate_limit nodelay send_buffer
    handle_queue tls_handshakes_per_poll redirect_to_https rearm
}

/// Level and threshold, window bits, context takeovers, as the getters give them: settings that
/// were left to the mode are recorded with their value.
type Compression = ((u32, usize), ((u8, u8), (bool, bool)));

#[cfg(feature = "deflate")]
fn put_deflate(config: &Config, out: &mut Vec<u8>) {
    let compression = config.deflate.as_ref().map(|deflate| -> Compression {
        let windows = (deflate.server_bits(), deflate.client_bits());
        let takeovers = (deflate.server_takeover(), deflate.client_takeover());
        ((deflate.get_level(), deflate.get_threshold()), (windows, takeovers))
    });
    compression.put(out);
}

#[cfg(feature = "deflate")]
fn get_deflate(config: &mut Config, input: &mut &[u8]) -> Option<()> {
    use crate::config::compression::{Deflate, DeflateMode};
    config.deflate = Option::<Compression>::get(input)?.map(|((level, threshold), (windows, takeovers))| {
        Deflate::new(DeflateMode::Dedicated)
            .level(level)
            .threshold(threshold)
            .server_max_window_bits(windows.0)
            .client_max_window_bits(windows.1)
            .server_context_takeover(takeovers.0)
            .client_context_takeover(takeovers.1)
    });
    Some(())
}

#[cfg(not(feature = "deflate"))]
fn put_deflate(_: &Config, out: &mut Vec<u8>) {
    None::<Compression>.put(out);
}

/// `None` for a recording with compression, which cannot be replayed without the feature.
#[cfg(not(feature = "deflate"))]
fn get_deflate(_: &mut Config, input: &mut &[u8]) -> Option<()> {
    Option::<Compression>::get(input)?.is_none().then_some(())
}

codec_fieldless!(Rearm { 0 OnChange, 1 AfterWouldBlock });

impl Encode for OriginPolicy {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            OriginPolicy::SameOrigin => 0u8.put(out),
            OriginPolicy::Any => 1u8.put(out),
            OriginPolicy::Custom => 3u8.put(out),
            OriginPolicy::AllowList(origins) => {
                2u8.put(out);
                origins.put(out);
            }
        }
    }
}

impl Decode for OriginPolicy {
    fn get(input: &mut &[u8]) -> Option<Self> {
        match u8::get(input)? {
            0 => Some(OriginPolicy::SameOrigin),
            1 => Some(OriginPolicy::Any),
            2 => Some(OriginPolicy::AllowList(Decode::get(input)?)),
            3 => Some(OriginPolicy::Custom),
            _ => None,
        }
    }
}

impl Encode for HostPolicy {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            HostPolicy::Unset => 0u8.put(out),
            HostPolicy::Loopback => 1u8.put(out),
            HostPolicy::AllowList(hosts) => {
                2u8.put(out);
                hosts.put(out);
            }
        }
    }
}

impl Decode for HostPolicy {
    fn get(input: &mut &[u8]) -> Option<Self> {
        match u8::get(input)? {
            0 => Some(HostPolicy::Unset),
            1 => Some(HostPolicy::Loopback),
            2 => Some(HostPolicy::AllowList(Decode::get(input)?)),
            _ => None,
        }
    }
}

impl Encode for TrustedProxy {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_string().put(out);
    }
}

impl Decode for TrustedProxy {
    fn get(input: &mut &[u8]) -> Option<Self> {
        String::get(input)?.parse().ok()
    }
}

codec_fieldless!(OverflowPolicy { 0 Disconnect, 1 DropNewest });
codec_fieldless!(RateLimitPolicy { 0 Close, 1 Pause });
