//! Fuzz targets, which `cargo test` runs too: see `fuzz/README.md`. Not part of ordinary builds.

#[cfg(test)]
mod tests;

use http::HeaderMap;

use crate::{
    config::{OriginPolicy, connect::Connect},
    connection,
    engine::{self, rooms::registry},
    handshake::{
        client::{self, RequestParts, ask},
        server,
    },
    http1::{
        forwarded::Forwarded,
        head::{HeadLimits, HeadReader},
    },
    outbox,
    util::timer_wheel,
};

/// A target takes any bytes, and panics if it finds a fault.
type Target = fn(&[u8]);

/// All targets with their names, in the order of `fuzz/README.md`.
pub const TARGETS: &[(&str, Target)] = &[
    ("frames_to_server", connection::tests::fuzz::server),
    ("frames_to_client", connection::tests::fuzz::client),
    ("frames_flawed", connection::tests::fuzz::flawed),
    ("frames_sent", connection::tests::fuzz::sending),
    #[cfg(feature = "deflate")]
    ("frames_compressed", connection::tests::fuzz::compressed),
    #[cfg(feature = "deflate")]
    ("inflate", crate::proto::deflate::tests::fuzz::inflating),
    #[cfg(feature = "deflate")]
    ("deflate", crate::proto::deflate::tests::fuzz::talking),
    #[cfg(feature = "deflate")]
    ("extensions", crate::proto::deflate::tests::fuzz::extensions),
    ("request", server::tests::fuzz::target),
    ("response", client::tests::fuzz::target),
    ("http", engine::tests::http_fuzz::target),
    ("proxy_header", crate::http1::proxy_protocol::tests::target),
    ("forwarded", crate::http1::forwarded::tests::target),
    ("origin", crate::handshake::origin::target),
    ("url", url),
    #[cfg(unix)]
    ("path", crate::http1::static_files::tests::fuzz::target),
    ("outbox", outbox::tests::target),
    ("wheel", timer_wheel::tests::target),
    ("rooms", registry::tests::target),
    #[cfg(feature = "sim")]
    ("recording", crate::record::tests::target),
    #[cfg(all(feature = "tls", unix))]
    ("tls", crate::net::tls::tests::target),
];

/// Runs the target of this name.
///
/// # Panics
///
/// If the target finds a fault, or no target has this name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.expect("a target of this name").1(data);
}

/// A URL that `Connect` accepts makes a request that this server accepts.
fn url(data: &[u8]) {
    let Ok(url) = std::str::from_utf8(data) else { return };
    let Ok(plan) = Connect::new(url).into_plan() else { return };
    let target = plan.target;
    assert!(!target.host.is_empty() && target.port > 0 && target.path.as_str().starts_with('/'));
    assert!(plan.addrs.iter().all(|addr| addr.port() == target.port));
    let asking = RequestParts {
        authority: &target.authority,
        path: &target.path,
        headers: HeaderMap::new(),
        subprotocols: &[],
        extensions: None,
        nonce: *b"the sample nonce",
    };
    let (_, bytes, _) = ask(asking).expect("an accepted URL makes a request");
    let limits = HeadLimits { max_bytes: 1 << 20, max_headers: 10 };
    let head = HeadReader::default().push(&bytes, limits);
    let head = head.expect("a well-formed head").expect("a complete head");
    assert_eq!(head.used, bytes.len(), "the head ends early, so it contains a line break");
    assert_eq!(head.request.headers()["host"].as_bytes(), target.authority.as_bytes());
    assert_eq!(head.request.uri().path_and_query(), Some(&target.path));
    server::check(&head.request, &Forwarded::default(), &OriginPolicy::SameOrigin)
        .expect("the server accepts the request");
}
