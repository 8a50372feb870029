//! Mutated requests, split at random: there is never a panic, there are never more responses than
//! requests, and the outcome does not depend on how the bytes were split.
//!
//! Set `TICKWS_SIM_SEEDS=50000 cargo test --lib http_fuzz` to try more; a failure names the seed
//! that repeats it.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{web::*, world::run, *};
use crate::{Decision, engine::hooks::Hooks, util::test_rng::Rng};

const SEEDS: u64 = 1_500;

#[test]
fn mutated_requests_have_one_fate_however_they_are_split() {
    run(0, SEEDS, |seed| fuzz(seed, true));
}

#[test]
fn mutated_requests_have_one_fate_where_only_upgrades_are_served() {
    run(1, SEEDS, |seed| fuzz(seed, false));
}

const CORPUS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /a/b?c=d HTTP/1.1\r\nHost: a.example:80\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
    "HEAD /static HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /static HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 38\r\n\r\nGET /inner HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "PUT /x HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://b/c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
];

const PIECES: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    "\r\n\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: b\r\n",
    "Connection: close\r\n",
    "Upgrade: websocket\r\n",
    "Expect: 100-continue\r\n",
    "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n",
    "X-Forwarded-Proto: https\r\n",
    "X-Forwarded-Host: b\r\n",
    "Forwarded: for=\"[2001:db8::1]\";proto=https\r\n",
    "Origin: http://b\r\n",
    "HTTP/1.0",
    "99999999999999999999",
    "-1",
    "+",
    "\u{e4}",
    "GET",
    "HEAD",
    "\x7f",
];

/// Up to four requests, with up to three mutations.
fn mutated(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + rng.below(4) {
        bytes.extend_from_slice(rng.pick(CORPUS).as_bytes());
    }
    for _ in 0..rng.below(4) {
        let at = rng.below(bytes.len());
        let until = (at + rng.below(30)).min(bytes.len());
        match rng.below(6) {
            0 => bytes[at] = rng.next() as u8,
            1 => bytes[at] ^= 1 << rng.below(8),
            2 => drop(bytes.drain(at..until)),
            3 => {
                let piece = bytes[at..until].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => bytes.truncate(at.max(1)),
            _ => drop(bytes.splice(at..at, rng.pick(PIECES).bytes())),
        }
        if bytes.is_empty() {
            bytes.push(b'G');
        }
    }
    bytes
}

/// The outcome of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Fate {
    responses: Vec<(u16, Vec<u8>)>,
    /// The requests that the application or the closure got.
    asked: Vec<String>,
    is_ended: bool,
}

fn host(hooks_on: bool) -> Host {
    let mut hooks =
        Hooks { on_upgrade: Some(Box::new(|_, _| Decision::Reject(status(403, "no")))), ..Hooks::default() };
    if hooks_on {
        hooks.static_files.serve_bytes("/static", "text/plain", b"static".to_vec()).unwrap();
    }
    let trusted_proxies = vec!["0.0.0.0/0".parse().unwrap()];
    let config = Config { http: hooks_on, max_body_size: 1_000, trusted_proxies, ..Config::default() };
    Host::with_hooks(config, hooks, None)
}

fn fate(bytes: &[u8], hooks_on: bool, mut next: impl FnMut(usize) -> usize) -> Fate {
    let mut host = host(hooks_on);
    let mut peer = host.connect();
    let mut fate = Fate { responses: Vec::new(), asked: Vec::new(), is_ended: false };
    let mut at = 0;
    let mut is_over = false;
    while !is_over {
        let count = next(bytes.len() - at).min(bytes.len() - at);
        peer.raw(&bytes[at..at + count]);
        at += count;
        is_over = at == bytes.len();
        loop {
            let tick = host.poll();
            host.check();
            for event in &tick {
                let Event::Http { exchange, request } = event else { panic!("{event:?}") };
                let remote = request.remote_addr().ip();
                let line = format!("{} {} {:?} {remote:?}", request.method(), request.uri(), request.body());
                let response = ok(format!("{} bytes", request.body().len()));
                host.engine.respond(exchange, response, host.now).expect("it waits");
                fate.asked.push(line);
            }
            if tick.is_empty() && host.is_quiet() {
                break;
            }
        }
    }
    peer.read(usize::MAX);
    // A response to HEAD has no body. Responses are therefore told apart by their beginning, not by
    // the request.
    let stats = host.engine.stats();
    while let Some(head) = peer.response(true) {
        let status = peer.status().expect("of this response");
        let length =
            |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok();
        let len = head.0.lines().find_map(length).unwrap_or(0);
        let body = if peer.rest().starts_with(b"HTTP/1.1 ") { Vec::new() } else { peer.take(len) };
        // Data behind an upgrade request is too early or not (RFC 6455 §4.1) depending on how the
        // bytes were split, so that both rejections count as equal.
        let upgrade = status == 403 || body.starts_with(b"wait for the 101 response");
        if status != 100 {
            fate.responses.push(if upgrade { (0, Vec::new()) } else { (status, body) });
        }
    }
    assert_eq!(peer.rest(), b"", "neither a response nor its body");
    fate.is_ended = peer.at_end();
    let finals = fate.responses.len() as u64;
    assert_eq!(finals, stats.http_requests + stats.rejected.total(), "{fate:?}, {stats}");
    // Nothing follows a rejection.
    assert!(stats.rejected.total() <= 1 && (stats.rejected.total() == 0 || fate.is_ended));
    peer.fin();
    host.settle();
    host.check();
    peer.reset(true);
    host.settle();
    host.check_empty();
    fate
}

/// The outcome, which must be the same for each way to split the bytes.
fn one_fate(bytes: &[u8], hooks_on: bool, rng: &mut Rng) -> Fate {
    let whole = fate(bytes, hooks_on, |left| left);
    let singly = fate(bytes, hooks_on, |_| 1);
    let most = 1 + rng.below(60);
    let split = fate(bytes, hooks_on, |_| 1 + rng.below(most));
    for other in [&singly, &split] {
        assert_eq!(&whole, other, "{:?}", String::from_utf8_lossy(bytes));
    }
    whole
}

/// The entry point of the fuzz target: the first byte selects the hooks and seeds the splits.
pub(crate) fn target(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    one_fate(bytes, kind & 1 == 0, &mut Rng::new(u64::from(*kind)));
}

fn fuzz(seed: u64, hooks_on: bool) -> u64 {
    let mut rng = Rng::new(seed);
    let bytes = mutated(&mut rng);
    let whole = one_fate(&bytes, hooks_on, &mut rng);
    let mut hasher = DefaultHasher::new();
    (whole.asked, whole.responses, whole.is_ended).hash(&mut hasher);
    hasher.finish()
}
