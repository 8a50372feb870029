//! HTTP clients of the simulated server, and the responses that they read.

use std::collections::VecDeque;

use bytes::Bytes;
use http::Response;

use super::*;
use crate::{ExchangeId, UpgradeId, engine::hooks::Hooks};

/// A response that a client got.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WebResponse {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl WebResponse {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether the response has `Connection: close`.
    pub(super) fn is_last(&self) -> bool {
        self.field("connection").is_some_and(|value| value.split(", ").any(|token| token == "close"))
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }
}

/// A client that remembers which of its requests were HEAD.
#[derive(Debug)]
pub(super) struct Web {
    pub(super) peer: Peer,
    heads: VecDeque<bool>,
    pub(super) continued: usize,
}

impl Web {
    pub(super) fn new(host: &mut Host) -> Self {
        Web { peer: host.connect(), heads: VecDeque::new(), continued: 0 }
    }

    /// Sends one whole request.
    pub(super) fn send_request(&mut self, request: impl AsRef<[u8]>) {
        self.note(request.as_ref());
        self.peer.raw(request.as_ref());
    }

    /// Notes a request that is sent with `peer.raw`.
    pub(super) fn note(&mut self, request: &[u8]) {
        self.heads.push_back(request.starts_with(b"HEAD "));
    }

    /// Reads everything, and returns the responses that are complete.
    pub(super) fn responses(&mut self) -> Vec<WebResponse> {
        self.peer.read(usize::MAX);
        self.parse()
    }

    /// The complete responses in what was read.
    pub(super) fn parse(&mut self) -> Vec<WebResponse> {
        let mut responses = Vec::new();
        while self.peer.status() != Some(101) {
            let to_head = self.heads.front().copied().unwrap_or(false);
            let Some((head, body)) = self.peer.response(to_head) else { break };
            let status = self.peer.status().expect("of this response");
            if status == 100 {
                self.continued += 1;
                continue;
            }
            self.heads.pop_front();
            responses.push(WebResponse { status, head, body });
        }
        responses
    }

    /// Reads everything, which must be one response.
    #[track_caller]
    pub(super) fn response(&mut self) -> WebResponse {
        let mut responses = self.responses();
        assert_eq!(responses.len(), 1, "{responses:?}");
        responses.remove(0)
    }
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

pub(super) fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

pub(super) fn ok(body: impl Into<Bytes>) -> Response<Bytes> {
    Response::new(body.into())
}

pub(super) fn status(status: u16, body: &'static str) -> Response<Bytes> {
    Response::builder().status(status).body(body.into()).unwrap()
}

/// A host that passes plain requests to the application.
pub(super) fn asking() -> Host {
    Host::new(Config { http: true, ..Config::default() })
}

/// A host whose closure responds to plain requests with their method, URI and body.
pub(super) fn answering(config: Config) -> Host {
    serving(config, |request| {
        ok(format!("{} {} {}", request.method(), request.uri(), String::from_utf8_lossy(request.body())))
    })
}

pub(super) fn serving(
    config: Config,
    on_http: impl FnMut(&crate::Request<'_>) -> Response<Bytes> + Send + Sync + 'static,
) -> Host {
    let hooks = Hooks { on_http: Some(Box::new(on_http)), ..Hooks::default() };
    Host::with_hooks(config, hooks, None)
}

/// The plain requests of a tick, with path and body.
pub(super) fn asked(tick: &Tick) -> Vec<(ExchangeId, String, Vec<u8>)> {
    let asked = |event: Event<'_>| match event {
        Event::Http { exchange, request } => {
            Some((exchange, request.uri().path().to_owned(), request.body().to_vec()))
        }
        _ => None,
    };
    tick.iter().filter_map(asked).collect()
}

/// Polls until nothing is left to do; returns the plain requests that came.
pub(super) fn settle_asked(host: &mut Host) -> Vec<(ExchangeId, String, Vec<u8>)> {
    let mut all = Vec::new();
    for _ in 0..10_000 {
        let tick = host.poll();
        host.check();
        all.extend(asked(&tick));
        if host.is_quiet() {
            return all;
        }
    }
    panic!("the engine is never idle");
}

pub(super) fn upgrades(tick: &Tick) -> Vec<UpgradeId> {
    let upgrade = |event: Event<'_>| match event {
        Event::Upgrade { upgrade, .. } => Some(upgrade),
        _ => None,
    };
    tick.iter().filter_map(upgrade).collect()
}

pub(super) fn gone(tick: &Tick) -> Vec<UpgradeId> {
    let gone = |event: Event<'_>| match event {
        Event::UpgradeGone { upgrade } => Some(upgrade),
        _ => None,
    };
    tick.iter().filter_map(gone).collect()
}
