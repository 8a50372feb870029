//! The log lines about refusals: what was refused, and which setting allows it.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

mod support;

use support::{
    Harness,
    raw::{self, Raw},
};
use tickws::{Server, ServerBuilder};

/// The WARN lines of this process.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Tests take turns, as they share one log.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: LazyLock<Mutex<()>> = LazyLock::new(|| {
        log::set_logger(&Log).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        Mutex::new(())
    });
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    LINES.lock().unwrap().clear();
    turn
}

/// Sends a request, and gives its status.
fn status(h: &mut Harness, request: &str) -> (u16, Raw) {
    let mut stream = h.dial();
    h.write(&mut stream, request.as_bytes());
    (h.head(&mut stream)[9..12].parse().unwrap(), stream)
}

/// The status of the response to a request, and the line in the log without the client.
fn refused(builder: ServerBuilder, request: &str) -> (u16, String) {
    let mut h = Harness::with(builder);
    let (status, stream) = status(&mut h, request);
    let lines = std::mem::take(&mut *LINES.lock().unwrap());
    let [line] = &lines[..] else { panic!("{request}: {lines:?}") };
    let (cause, client) = line.rsplit_once(" (client ").unwrap();
    assert_eq!(client, format!("{})", stream.local_addr()));
    (status, cause.to_owned())
}

#[test]
fn a_refusal_names_what_was_refused_and_the_setting_that_allows_it() {
    let _turn = turn();
    let builder = Server::builder;
    let page = "Origin: https://a.example\r\n";
    let long = "x".repeat(300);
    for (builder, request, status, line) in [
        (
            builder(),
            raw::upgrade_request("/", page),
            403,
            "403: origin \"https://a.example\" is not host \"localhost\"; see allow_origins",
        ),
        (
            builder().check_origin(|_| false),
            raw::upgrade_request("/", page),
            403,
            "403: origin \"https://a.example\" was refused; see check_origin",
        ),
        (
            builder(),
            raw::upgrade_request("/", "").replace("localhost", "evil.example:80"),
            421,
            "421: host \"evil.example:80\" is not one of this server; see allow_hosts, or trusted_proxies behind a proxy",
        ),
        (
            builder().path("/ws"),
            raw::upgrade_request("/%0a", ""),
            404,
            "404: path \"/%0a\" takes no WebSockets; see path",
        ),
        (
            builder().subprotocols(["a"]).require_subprotocol(true),
            raw::upgrade_request("/", "Sec-WebSocket-Protocol: b, c\r\n"),
            400,
            "400: subprotocols \"b, c\" are not supported; see subprotocols and require_subprotocol",
        ),
        (
            builder().max_head_bytes(200),
            raw::upgrade_request(&format!("/{long}"), ""),
            431,
            "431: a request head is above 200 bytes; see max_head_bytes",
        ),
        (
            builder().max_headers(3),
            raw::upgrade_request("/", ""),
            431,
            "431: a request has more than 3 headers; see max_headers",
        ),
        (
            builder().http(true).max_body_size(10),
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n".to_owned(),
            413,
            "413: a request body is above 10 bytes; see max_body_size",
        ),
    ] {
        assert_eq!(refused(builder, &request), (status, line.to_owned()));
    }
}

#[test]
fn limits_on_connections_are_named() {
    let _turn = turn();
    for (builder, cause) in [
        (Server::builder().max_connections(1), "503: there are 1 connections; see max_connections"),
        (
            Server::builder().max_connections_per_ip(1),
            "503: the address has 1 connections; see max_connections_per_ip",
        ),
    ] {
        let mut h = Harness::with(builder);
        let (_first, _) = h.connect();
        assert_eq!(status(&mut h, &raw::upgrade_request("/", "")).0, 503);
        let lines = std::mem::take(&mut *LINES.lock().unwrap());
        assert!(matches!(&lines[..], [line] if line.starts_with(cause)), "{lines:?}");
    }
}

#[test]
fn a_flood_of_refusals_writes_few_lines_and_faults_of_clients_none() {
    let _turn = turn();
    let mut h = Harness::with(Server::builder().path("/ws"));
    for _ in 0..200 {
        let request = raw::upgrade_request("/ws", "Origin: https://a.example\r\n");
        assert_eq!(status(&mut h, &request).0, 403);
        assert_eq!(status(&mut h, "nonsense\r\n\r\n").0, 400);
    }
    // Another kind has lines of its own.
    assert_eq!(status(&mut h, &raw::upgrade_request("/other", "")).0, 404);
    let lines = std::mem::take(&mut *LINES.lock().unwrap());
    let about = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    // A slow machine may begin a second interval of ten seconds.
    assert!((5..=20).contains(&about("allow_origins")), "{lines:?}");
    assert_eq!((about("see path"), about("400")), (1, 0), "{lines:?}");
}

/// Behind a proxy the line has both addresses.
#[test]
fn a_client_behind_a_proxy_is_named_with_the_proxy() {
    let _turn = turn();
    let mut h = Harness::with(Server::builder().trusted_proxies(["127.0.0.1"]));
    let fields = "Origin: https://a.example\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Host: b.example\r\n";
    let (refused, stream) = status(&mut h, &raw::upgrade_request("/", fields));
    assert_eq!(refused, 403);
    let lines = std::mem::take(&mut *LINES.lock().unwrap());
    let origin = "403: origin \"https://a.example\" is not host \"b.example\"; see allow_origins";
    assert_eq!(lines, [format!("{origin} (client 192.0.2.7 through {})", stream.local_addr())]);
}
