//! What fuzzers run, and `cargo test` too: see `fuzz/README.md`. Not there in an ordinary build.

#[cfg(test)]
mod tests;

use tungstenite::http::HeaderMap;

use crate::{
    config::OriginPolicy,
    connect::Connect,
    engine, hub, outbox,
    proto::{
        connection,
        handshake::{
            self, HeadLimits, HeadReader,
            client::{self, Asking, ask},
        },
    },
    wheel,
};

/// Takes any bytes, and panics if something is wrong.
type Target = fn(&[u8]);

/// Each with its name, in the order of `fuzz/README.md`.
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
    ("request", handshake::tests::fuzz::target),
    ("response", client::tests::fuzz::target),
    ("http", engine::tests::http_fuzz::target),
    ("url", url),
    #[cfg(unix)]
    ("path", crate::site::tests::fuzz::target),
    ("outbox", outbox::tests::target),
    ("wheel", wheel::tests::target),
    ("hub", hub::tests::target),
    #[cfg(feature = "sim")]
    ("tape", crate::tape::tests::target),
];

/// Runs the target of this name.
///
/// # Panics
///
/// The target has found something, or there is none of this name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.expect("a target of this name").1(data);
}

/// A URL that is taken gives a request that our own server takes.
fn url(data: &[u8]) {
    let Ok(url) = std::str::from_utf8(data) else { return };
    let Ok(plan) = Connect::new(url).into_plan() else { return };
    let target = plan.target;
    assert!(!target.host.is_empty() && target.port > 0 && target.path.as_str().starts_with('/'));
    assert!(plan.addrs.iter().all(|addr| addr.port() == target.port));
    let asking = Asking {
        authority: &target.authority,
        path: &target.path,
        headers: HeaderMap::new(),
        subprotocols: &[],
        extensions: None,
        nonce: *b"the sample nonce",
    };
    let (_, bytes, _) = ask(asking).expect("a URL that was taken makes a request");
    let limits = HeadLimits { max_bytes: 1 << 20, max_headers: 10 };
    let head = HeadReader::default().push(&bytes, limits);
    let head = head.expect("it is well-formed").expect("it is whole");
    assert_eq!(head.used, bytes.len(), "a line break has slipped in");
    assert_eq!(head.request.headers()["host"].as_bytes(), target.authority.as_bytes());
    assert_eq!(head.request.uri().path_and_query(), Some(&target.path));
    handshake::check(&head.request, &OriginPolicy::SameOrigin).expect("our own server takes it");
}
