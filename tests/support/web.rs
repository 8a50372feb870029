//! HTTP clients over raw sockets, and a server with an application that responds to them.

use tickws::{
    Bytes, Event, ExchangeId, Server, ServerBuilder,
    http::{Response, StatusCode},
};

use super::{
    Deadline,
    raw::{End, Raw},
};

/// Gives the response to a request: method, target and body.
pub type Application = fn(&str, &str, &[u8]) -> Response<Bytes>;

/// A server polled on the test's thread. Its application, if there is one, responds to each
/// `Event::Http` in the same tick.
#[derive(Debug)]
pub struct Web {
    pub server: Server,
    pub application: Option<Application>,
    /// Requests that wait because there is no application, with their paths.
    pub waiting: Vec<(ExchangeId, String)>,
    pub opened: usize,
    pub closed: usize,
}

/// One response; its end is found as RFC 9112 §6.3 says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl HttpResponse {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }

    pub fn is_last(&self) -> bool {
        self.field("connection").is_some_and(|value| value.split(", ").any(|token| token == "close"))
    }
}

pub fn echo(method: &str, target: &str, body: &[u8]) -> Response<Bytes> {
    let mut response = Response::new(format!("{method} {target} {}", String::from_utf8_lossy(body)).into());
    if target == "/teapot" {
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
    }
    response
}

impl Web {
    pub fn new(builder: ServerBuilder) -> Web {
        let server = builder.bind("127.0.0.1:0").expect("binds a free port");
        Web { server, application: None, waiting: Vec::new(), opened: 0, closed: 0 }
    }

    pub fn with(builder: ServerBuilder, application: Application) -> Web {
        Web { application: Some(application), ..Web::new(builder.http(true)) }
    }

    pub fn dial(&self) -> Raw {
        Raw::connect(self.server.local_addrs()[0])
    }

    pub fn step(&mut self) {
        let tick = self.server.poll_for(std::time::Duration::from_millis(1)).expect("polls");
        for event in &tick {
            match event {
                Event::Http { exchange, request } => match self.application {
                    Some(application) => {
                        let target = request.uri().to_string();
                        let response = application(request.method().as_str(), &target, request.body());
                        self.server.respond(exchange, response).expect("the request waits for a response");
                    }
                    None => self.waiting.push((exchange, request.uri().path().to_owned())),
                },
                Event::Open { .. } => self.opened += 1,
                Event::Close { .. } => self.closed += 1,
                Event::Message { client, message } => {
                    self.server.send(client, message).expect("the echo fits")
                }
                Event::Drained { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Web) -> bool) {
        let deadline = Deadline::new();
        while !done(self) {
            self.step();
            deadline.check(what);
        }
    }

    #[track_caller]
    pub fn write(&mut self, raw: &mut Raw, bytes: &[u8]) {
        let mut at = 0;
        self.until("a write", |_| {
            at += raw.write_some(&bytes[at..]).expect("the server reads");
            at == bytes.len()
        });
    }

    /// Waits for the next final (not 1xx) response.
    #[track_caller]
    pub fn response(&mut self, raw: &mut Raw, to_head: bool) -> HttpResponse {
        let mut head = None;
        self.until("the head of a response", |_| {
            raw.read_some();
            head = raw.take_head();
            head.is_some() || raw.end.is_some()
        });
        let head = head.expect("the connection ended before a response");
        let status = head.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1")[..3].parse().expect("a status");
        if status == 100 {
            return self.response(raw, to_head);
        }
        let mut response = HttpResponse { status, head, body: Vec::new() };
        if !to_head && !matches!(status, 101 | 204 | 304) {
            let len: usize = response.field("content-length").expect("a length").parse().expect("digits");
            self.until("the body of a response", |_| {
                raw.read_some();
                raw.input().len() >= len || raw.end.is_some()
            });
            response.body = raw.take(len);
        }
        response
    }

    /// Sends one request and waits for its response.
    #[track_caller]
    pub fn send_request(&mut self, raw: &mut Raw, request: impl AsRef<[u8]>) -> HttpResponse {
        let to_head = request.as_ref().starts_with(b"HEAD ");
        self.write(raw, request.as_ref());
        self.response(raw, to_head)
    }

    /// Reads everything up to the server's FIN.
    #[track_caller]
    pub fn read_to_end(&mut self, raw: &mut Raw) -> Vec<u8> {
        self.until("the end", |_| {
            raw.read_some();
            raw.end.is_some()
        });
        assert_eq!(raw.end, Some(End::Fin), "a response must not be lost to a reset");
        raw.take_all()
    }

    /// Polls until nothing more happens for ten polls.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 10 {
            let before = (self.server.stats(), self.waiting.len());
            self.step();
            quiet = if before == (self.server.stats(), self.waiting.len()) { quiet + 1 } else { 0 };
        }
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

pub fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
