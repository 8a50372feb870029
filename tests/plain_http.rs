//! Plain HTTP over real sockets: responses are the same however the bytes arrive, in order,
//! complete, and also for slow readers.

mod support;

use std::{
    fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicUsize, Ordering},
};

use support::{
    raw::{self, Frame, Raw},
    web::{Application, HttpResponse, Web, echo, get, post},
};
use tickws::{
    CloseCode, Decision, RespondError, Server,
    http::{Response, StatusCode},
};

/// A temporary folder, deleted with its test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tickws-plain-{}-{count}", process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes in which no two places look alike.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(step).collect()
}

// ---- however the bytes arrive ----

#[test]
fn a_response_does_not_depend_on_how_a_request_is_split() {
    let requests = [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 200, false),
        ("\r\n\r\nGET /a?b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 200, false),
        ("GET http://localhost/x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 200, false),
        ("HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 200, false),
        (post("/p", "a body\r\n\r\n"), 200, false),
        ("DELETE / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_owned(), 200, false),
        ("GET /teapot HTTP/1.0\r\nHost: localhost\r\n\r\n".to_owned(), 418, true),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), 200, true),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n".to_owned(),
            400,
            true,
        ),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 501, true),
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".to_owned(), 413, true),
        ("TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 405, true),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, true),
        (raw::upgrade_request("/", ""), 101, false),
    ];
    let mut web = Web::with(Server::builder().max_body_size(100), echo);
    for (request, status, is_last) in requests {
        let to_head = request.starts_with("HEAD ");
        let mut expected = None;
        let whole = request.len();
        for split in 0..=whole {
            let mut raw = web.dial();
            if split == 0 {
                for byte in request.as_bytes() {
                    web.write(&mut raw, &[*byte]);
                    web.step();
                }
            } else {
                web.write(&mut raw, &request.as_bytes()[..split]);
                // Wait until the first piece has been read, before the rest is sent.
                let read = web.server.stats().bytes_in;
                if split < whole {
                    web.until("the first piece to be read", |web| {
                        web.server.stats().bytes_in > read || raw.read_some() > 0
                    });
                    let _ = raw.write_some(&request.as_bytes()[split..]);
                }
            }
            let mut response = web.response(&mut raw, to_head);
            assert_eq!((response.status, response.is_last()), (status, is_last), "{request:?} at {split}");
            // The clock may have moved on.
            response.head = response.head.lines().filter(|line| !line.starts_with("Date: ")).collect();
            assert_eq!(expected.get_or_insert(response.clone()), &response, "{request:?} at {split}");
            if is_last {
                assert_eq!(web.read_to_end(&mut raw), b"", "{request:?} at {split}");
            }
        }
    }
    assert_eq!(web.server.stats().http_requests as usize, {
        let answered = web.server.stats();
        (answered.accepted - answered.opened - answered.rejected.total()) as usize
    });
}

#[test]
fn a_connection_is_kept_alive_between_requests() {
    let mut web = Web::with(Server::builder(), echo);
    let mut raw = web.dial();
    for number in 0..50 {
        let response = web.send_request(&mut raw, get(&format!("/{number}")));
        assert_eq!((response.text(), response.is_last()), (&*format!("GET /{number} "), false));
        let response = web.send_request(&mut raw, post("/p", &"b".repeat(number)));
        assert_eq!(response.text(), format!("POST /p {}", "b".repeat(number)));
        let response =
            web.send_request(&mut raw, format!("HEAD /{number} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(response.field("content-length"), Some(&*format!("HEAD /{number} ").len().to_string()));
    }
    let stats = web.server.stats();
    assert_eq!((stats.accepted, stats.http_requests, stats.http_only), (1, 150, 0));
    drop(raw);
    web.until("the end of the connection", |web| web.server.stats().http_only == 1);
}

#[test]
fn pipelined_requests_get_responses_in_order() {
    for late in [false, true] {
        let mut web =
            if late { Web::new(Server::builder().http(true)) } else { Web::with(Server::builder(), echo) };
        let mut raws: Vec<_> = (0..5).map(|_| web.dial()).collect();
        let mut expected = vec![Vec::new(); raws.len()];
        for (who, raw) in raws.iter_mut().enumerate() {
            let mut wire = String::new();
            for number in 0..20 {
                let path = format!("/{who}/{number}");
                let body = "b".repeat(number * 10);
                let (request, method) =
                    if number % 2 == 0 { (get(&path), "GET") } else { (post(&path, &body), "POST") };
                let body = if number % 2 == 0 { String::new() } else { body };
                expected[who].push(if late { path } else { format!("{method} {path} {body}") });
                wire += &request;
            }
            web.write(raw, wire.as_bytes());
        }
        if late {
            for turn in 0..100 {
                web.until("a request", |web| !web.waiting.is_empty());
                let at = turn * 7 % web.waiting.len();
                let (id, path) = web.waiting.swap_remove(at);
                web.server.respond(id, Response::new(path)).unwrap();
                let again = web.server.respond(id, Response::new("again"));
                assert_eq!(again, Err(RespondError::Gone(id)));
            }
        }
        for (raw, expected) in raws.iter_mut().zip(expected) {
            for text in expected {
                assert_eq!(web.response(raw, false).text(), text);
            }
        }
    }
}

#[test]
fn on_http_gets_request_bodies() {
    let builder = Server::builder().on_http(|request| {
        assert!(request.remote_addr().ip().is_some_and(|ip| ip.is_loopback()));
        let text = String::from_utf8_lossy(request.body());
        Response::new(format!("{} {text}", request.method()).into())
    });
    let mut web = Web::new(builder);
    let mut raw = web.dial();
    let long = "long ".repeat(13_000);
    assert_eq!(web.send_request(&mut raw, post("/", "a body")).text(), "POST a body");
    assert_eq!(web.send_request(&mut raw, post("/", &long)).text(), format!("POST {long}"));
    assert_eq!(web.send_request(&mut raw, get("/")).text(), "GET ");
    let too_long = "x".repeat(64 * 1024 + 1);
    let response = web.send_request(&mut raw, post("/", &too_long));
    assert_eq!((response.status, response.is_last()), (413, true));
    assert_eq!(web.read_to_end(&mut raw), b"");
}

#[test]
fn expect_100_continue_gets_a_100() {
    let mut web = Web::with(Server::builder(), echo);
    let mut raw = web.dial();
    let head = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    for _ in 0..2 {
        web.write(&mut raw, head.as_bytes());
        let mut interim = None;
        web.until("100", |_| {
            raw.read_some();
            interim = raw.take_head();
            interim.is_some()
        });
        assert_eq!(interim.as_deref(), Some("HTTP/1.1 100 Continue\r\n\r\n"));
        assert_eq!(web.send_request(&mut raw, "hello").text(), "POST / hello");
    }
}

// ---- responses without the application ----

#[test]
fn paths_and_methods_get_the_right_status() {
    let builder = || Server::builder().path("/ws").serve_bytes("/", "text/plain", "hello");
    for (request, status, is_last) in [
        (get("/"), 200, false),
        (get("/no"), 404, false),
        (get("/ws"), 426, true),
        (get("/ws").replace("GET", "HEAD"), 426, true),
        (get("/").replace("GET", "HEAD"), 200, false),
        (get("/no").replace("GET", "HEAD"), 404, false),
        (post("/", "x"), 405, false),
        (post("/no", "x"), 404, false),
        (raw::upgrade_request("/no", ""), 404, true),
        (raw::upgrade_request("/ws", ""), 101, false),
    ] {
        let mut web = Web::new(builder());
        let mut raw = web.dial();
        let response = web.send_request(&mut raw, &request);
        assert_eq!((response.status, response.is_last()), (status, is_last), "{request}");
        if status == 405 {
            assert_eq!(response.field("allow"), Some("GET, HEAD"));
        }
        if is_last {
            assert_eq!(web.read_to_end(&mut raw), b"", "{request}");
        } else if status != 101 {
            assert_eq!(web.send_request(&mut raw, get("/")).text(), "hello");
        }
    }
}

#[test]
fn health_and_metrics_leave_other_paths_to_websocket() {
    let mut web = Web::new(Server::builder().health("/healthz").metrics("/metrics"));
    let mut raw = web.dial();
    let response = web.send_request(&mut raw, get("/healthz"));
    assert_eq!((response.status, response.text()), (200, "{\"status\":\"ok\",\"open\":0}\n"));
    assert_eq!(response.field("cache-control"), Some("no-store"));
    assert!(web.send_request(&mut raw, get("/metrics?x")).text().contains("\ntickws_accepted_total 1\n"));
    let response = web.send_request(&mut raw, post("/healthz", "x"));
    assert_eq!(
        (response.status, response.field("allow"), response.is_last()),
        (405, Some("GET, HEAD"), false)
    );
    assert_eq!(web.send_request(&mut raw, get("/healthz").replace("GET", "HEAD")).status, 200);
    assert_eq!(web.send_request(&mut raw, raw::upgrade_request("/healthz", "")).status, 101);
    let mut other = web.dial();
    assert!(web.send_request(&mut other, get("/healthz")).text().ends_with("\"open\":1}\n"));
    let response = web.send_request(&mut other, get("/"));
    assert_eq!((response.status, response.is_last()), (426, true));
}

#[test]
fn methods_other_than_get_reach_the_application() {
    let served = |builder: tickws::ServerBuilder| builder.serve_bytes("/", "text/plain", "hello");
    let closure = Server::builder().on_http(|request| echo(request.method().as_str(), "", request.body()));
    for mut web in [Web::with(served(Server::builder()), echo), Web::new(served(closure))] {
        let mut raw = web.dial();
        assert_eq!(web.send_request(&mut raw, get("/")).text(), "hello");
        assert!(web.send_request(&mut raw, post("/", "body")).text().ends_with(" body"));
    }
}

// ---- slow readers ----

/// Reads little by little; gives the response and the most bytes that the server has buffered.
fn read_slowly(web: &mut Web, raw: &mut Raw, len: usize) -> (HttpResponse, u64) {
    let mut most = 0;
    let mut head = None;
    web.until("the whole response", |web| {
        raw.read_up_to(20_000);
        if head.is_none() {
            head = raw.take_head();
        }
        most = most.max(web.server.stats().buffered);
        raw.input().len() >= len || raw.end.is_some()
    });
    let head = head.expect("a head");
    (HttpResponse { status: head[9..12].parse().unwrap(), head, body: raw.take(len) }, most)
}

#[test]
fn a_slow_reader_gets_a_large_response_whole() {
    const LEN: usize = 8 << 20;
    let large: Application = |_, _, _| Response::new(noise(LEN).into());
    let mut web = Web::with(Server::builder().send_buffer(16 * 1024), large);
    let mut raw = web.dial();
    web.write(&mut raw, get("/").as_bytes());
    let (response, _) = read_slowly(&mut web, &mut raw, LEN);
    assert_eq!(response.field("content-length"), Some(&*LEN.to_string()));
    assert!(response.body == noise(LEN), "the body differs");
    assert_eq!(
        web.send_request(&mut raw, get("/").replace("GET", "HEAD")).field("content-length"),
        Some(&*LEN.to_string())
    );
    assert_eq!(web.server.stats().buffered, 0);
}

#[test]
fn a_slow_reader_of_a_large_file_needs_little_memory() {
    const LEN: usize = 5 << 20;
    let folder = Folder::new();
    fs::write(folder.0.join("large.bin"), noise(LEN)).unwrap();
    let mut web = Web::new(Server::builder().send_buffer(16 * 1024).serve_dir("/", &folder.0));
    let mut raw = web.dial();
    web.write(&mut raw, get("/large.bin").as_bytes());
    web.write(&mut raw, get("/nothing").as_bytes());
    let (response, most) = read_slowly(&mut web, &mut raw, LEN);
    assert!(response.body == noise(LEN), "the body differs from the file");
    assert!(most <= 256 * 1024, "{most} bytes were held");
    assert_eq!(web.response(&mut raw, false).status, 404);
    assert_eq!(web.server.stats().buffered, 0);
}

#[test]
fn a_file_that_shrinks_while_served_ends_the_connection() {
    const LEN: usize = 8 << 20;
    let folder = Folder::new();
    let path = folder.0.join("log");
    fs::write(&path, noise(LEN)).unwrap();
    let mut web = Web::new(Server::builder().send_buffer(16 * 1024).serve_dir("/", &folder.0));
    let mut raw = web.dial();
    web.write(&mut raw, get("/log").as_bytes());
    web.until("a beginning", |_| raw.read_up_to(1) > 0);
    fs::write(&path, b"short").unwrap();
    let got = web.read_to_end(&mut raw);
    assert!(got.len() > 5 && got.len() < LEN, "{}", got.len());
    web.until("the end of the connection", |web| web.server.stats().http_only == 1);
    // The server goes on serving.
    let mut other = web.dial();
    assert_eq!(web.send_request(&mut other, get("/log")).text(), "short");
}

// ---- ends ----

#[test]
fn a_half_closed_client_gets_its_responses() {
    let mut web = Web::new(Server::builder().http(true));
    let mut raw = web.dial();
    web.write(&mut raw, (get("/1") + &get("/2")).as_bytes());
    raw.half_close();
    for path in ["/1", "/2"] {
        web.until("a request", |web| !web.waiting.is_empty());
        let (id, at) = web.waiting.remove(0);
        assert_eq!(at, path);
        web.server.respond(id, Response::new(at)).unwrap();
        assert_eq!(web.response(&mut raw, false).text(), path);
    }
    assert_eq!(web.read_to_end(&mut raw), b"");
    assert_eq!(web.server.stats().http_only, 1);
}

#[test]
fn respond_works_once_and_rejects_invalid_responses() {
    let mut web = Web::new(Server::builder().http(true));
    let mut raw = web.dial();
    web.write(&mut raw, get("/").as_bytes());
    web.until("a request", |web| !web.waiting.is_empty());
    let (id, _) = web.waiting.remove(0);
    let status = |code: u16| Response::builder().status(code).body("text").unwrap();
    assert_eq!(
        web.server.respond(id, status(101)),
        Err(RespondError::Status(StatusCode::SWITCHING_PROTOCOLS))
    );
    for (name, value) in [("transfer-encoding", "chunked"), ("content-length", "3"), ("upgrade", "x")] {
        let response = Response::builder().header(name, value).body("text").unwrap();
        assert!(matches!(web.server.respond(id, response), Err(RespondError::Header(_))), "{name}");
    }
    web.server.respond(id, status(201)).unwrap();
    assert_eq!(web.server.respond(id, status(201)), Err(RespondError::Gone(id)));
    let response = web.response(&mut raw, false);
    assert_eq!((response.status, response.text()), (201, "text"));

    // The client leaves before the response.
    web.write(&mut raw, get("/").as_bytes());
    web.until("a request", |web| !web.waiting.is_empty());
    let (id, _) = web.waiting.remove(0);
    drop(raw);
    web.settle();
    let _ = web.server.respond(id, status(200));
    web.until("the end of the connection", |web| web.server.stats().http_only == 1);
    assert_eq!(web.server.respond(id, status(200)), Err(RespondError::Gone(id)));
}

#[test]
fn shutdown_sends_503_to_waiting_requests() {
    let mut web = Web::new(Server::builder().http(true));
    let (mut idle, mut waiting) = (web.dial(), web.dial());
    web.write(&mut idle, get("/idle").as_bytes());
    web.until("a request", |web| !web.waiting.is_empty());
    let (id, _) = web.waiting.remove(0);
    web.server.respond(id, Response::new("done")).unwrap();
    assert_eq!(web.response(&mut idle, false).text(), "done");
    web.write(&mut waiting, get("/waits").as_bytes());
    web.until("a request", |web| !web.waiting.is_empty());
    web.server.shutdown(CloseCode::GOING_AWAY, "", support::PATIENCE);
    let response = web.response(&mut waiting, false);
    assert_eq!((response.status, response.is_last()), (503, true));
    assert_eq!((web.read_to_end(&mut idle), web.read_to_end(&mut waiting)), (vec![], vec![]));
    drop((idle, waiting));
    web.until("the end of all connections", |web| web.server.is_drained());
}

#[test]
fn health_check_is_503_during_shutdown() {
    let mut web = Web::new(Server::builder().health("/healthz"));
    let addr = web.server.local_addrs()[0];
    let mut client = web.dial();
    assert_eq!(web.send_request(&mut client, raw::upgrade_request("/", "")).status, 101);
    let mut probe = web.dial();
    assert_eq!(web.send_request(&mut probe, get("/healthz")).text(), "{\"status\":\"ok\",\"open\":1}\n");
    web.server.shutdown(CloseCode::GOING_AWAY, "", support::PATIENCE);
    assert_eq!(web.read_to_end(&mut probe), b"");
    for _ in 0..3 {
        let mut probe = web.dial();
        let response = web.send_request(&mut probe, get("/healthz"));
        assert_eq!((response.status, response.is_last()), (503, true));
        let mut late = web.dial();
        assert_eq!(web.send_request(&mut late, raw::upgrade_request("/", "")).status, 503);
    }
    drop((client, probe));
    web.until("the end of all connections", |web| web.server.is_drained());
    assert!(std::net::TcpStream::connect(addr).is_err(), "the listener is still open");
    let stats = web.server.stats();
    assert_eq!((stats.accepted, stats.opened, stats.rejected.at_capacity), (8, 1, 6));
}

#[test]
fn an_upgrade_after_plain_requests_ends_http() {
    let builder = Server::builder().on_upgrade(|_, _| Decision::Accept);
    let mut web = Web::with(builder, echo);
    let mut raw = web.dial();
    assert_eq!(web.send_request(&mut raw, get("/1")).text(), "GET /1 ");
    assert_eq!(web.send_request(&mut raw, post("/2", "x")).text(), "POST /2 x");
    assert_eq!(web.send_request(&mut raw, raw::upgrade_request("/ws", "")).status, 101);
    web.write(&mut raw, &raw::text("hello"));
    let mut frame = None;
    web.until("the echo", |_| {
        raw.read_some();
        frame = raw.take_frame();
        frame.is_some()
    });
    assert_eq!(frame, Some(Frame::new(raw::TEXT, "hello")));
    web.write(&mut raw, get("/3").as_bytes());
    raw.half_close();
    let read_to_end = web.read_to_end(&mut raw);
    assert!(
        read_to_end.len() > 2
            && read_to_end[0] == 0x88
            && !read_to_end.windows(4).any(|bytes| bytes == b"HTTP"),
        "{read_to_end:?}"
    );
    let stats = web.server.stats();
    assert_eq!((stats.http_requests, stats.http_only, web.opened, web.closed), (2, 0, 1, 1));
}
