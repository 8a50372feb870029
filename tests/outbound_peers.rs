//! Outbound connections to other servers: Python's `websockets` and npm's `ws`.

mod support;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use support::{Harness, Seen, peers};
use tickws::{ClientId, CloseReason, Connect, ConnectError, Server, ServerBuilder};

/// Echoes messages. `/secret` gets 401; the messages "close" and "pieces" are commands.
const PYTHON: &str = r#"
import sys, threading
from websockets.sync.server import serve

def echo(ws):
    for message in ws:
        if message == "close":
            ws.close(4001, "as you wish")
        elif message == "pieces":
            ws.send(["in ", "", "three", " pieces"])
        else:
            ws.send(message)

def check(connection, request):
    if request.path == "/secret":
        return connection.respond(401, "who are you?\n")

options = dict(subprotocols=["v1"], max_size=None, process_request=check)
with serve(echo, "127.0.0.1", 0, **options) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.socket.getsockname()[1], flush=True)
    sys.stdin.read()
    server.shutdown()
"#;

/// The same server with npm's `ws`.
const NODE: &str = r#"
const { WebSocketServer } = require("ws");
const wss = new WebSocketServer({
    host: "127.0.0.1", port: 0, perMessageDeflate: { threshold: 0 },
    handleProtocols: offered => offered.has("v1") ? "v1" : false,
    verifyClient: ({ req }, done) => req.url === "/secret" ? done(false, 401, "who are you?") : done(true),
});
wss.on("connection", ws => ws.on("message", (data, binary) => {
    const text = binary ? "" : data.toString();
    if (text === "close") ws.close(4001, "as you wish");
    else if (text === "pieces") {
        ws.send("in ", { fin: false }); ws.send("", { fin: false });
        ws.send("three", { fin: false }); ws.send(" pieces", { fin: true });
    } else ws.send(data, { binary });
}));
wss.on("listening", () => console.log(wss.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
"#;

/// A running server other than tickws.
struct Peer {
    child: Child,
    port: u16,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server and reads its port.
fn start(mut command: Command) -> Peer {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server starts");
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    Peer { child, port: port.trim().parse().expect("a port") }
}

fn open(h: &mut Harness, connect: Connect) -> ClientId {
    let id = h.server.connect(connect).unwrap();
    h.until("the connection", |h| {
        h.seen.iter().any(|seen| matches!(seen, Seen::Open(open, _) if *open == id))
    });
    id
}

/// Talks without compression, and with it in several ways; both peers accept the offers.
fn talk(peer: &Peer) {
    let plain = || Server::builder().max_buffered(8 << 20);
    let written = talk_with(peer, plain());
    #[cfg(feature = "deflate")]
    for mode in [tickws::DeflateMode::Shared, tickws::DeflateMode::Dedicated] {
        for bits in [9, 12, 15] {
            let deflate =
                tickws::Deflate::new(mode).server_max_window_bits(bits).client_max_window_bits(24 - bits);
            let compressed = talk_with(peer, plain().deflate(deflate.threshold(1)));
            assert!(compressed * 3 < written * 2, "{mode:?}, {bits}: {compressed} of {written}");
        }
    }
    assert!(written > 2_000_000);
}

/// Runs all exchanges with one configuration; gives the number of bytes written.
fn talk_with(peer: &Peer, builder: ServerBuilder) -> u64 {
    let mut h = Harness::with(builder);
    let url = format!("ws://127.0.0.1:{}", peer.port);
    let id = open(&mut h, Connect::new(format!("{url}/chat?x=1")).subprotocols(["v2", "v1"]));
    assert_eq!(h.server.subprotocol(id), Some("v1"));
    h.seen.clear();
    let lengths = [0, 1, 125, 126, 127, 1023, 1024, 65_535, 65_536, 1_000_000];
    let mut expected = Vec::new();
    for len in lengths {
        let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
        let text = "grüße, 你好 👋🏽 ".repeat(len / 25);
        h.server.send(id, &bytes).unwrap();
        h.server.send(id, &text).unwrap();
        expected.extend([Seen::Binary(id, bytes), Seen::Text(id, text)]);
    }
    h.server.send(id, "pieces").unwrap();
    expected.push(Seen::Text(id, "in three pieces".into()));
    h.until("all echoes", |h| {
        h.seen.iter().filter(|seen| !matches!(seen, Seen::Drained(_))).count() >= expected.len()
    });
    h.seen.retain(|seen| !matches!(seen, Seen::Drained(_)));
    assert!(h.seen == expected, "an echo differs");
    h.server.ping(id).unwrap();
    h.until("a pong", |h| h.server.rtt(id).is_some());

    h.server.send(id, "close").unwrap();
    let reason = h.close_reason(id);
    assert_eq!(reason, CloseReason::Peer { code: 4001.into(), text: "as you wish".into() });

    let id = open(&mut h, Connect::new(&url).subprotocols(["v1"]));
    h.server.close(id, 4002, "bye").unwrap();
    assert_eq!(h.close_reason(id), CloseReason::Local { code: 4002.into(), text: "bye".into() });

    let id = h.server.connect(format!("{url}/secret")).unwrap();
    h.until_seen("the rejection", 1, |seen| matches!(seen, Seen::Failed(..)));
    let Some(Seen::Failed(failed, ConnectError::Refused(rejection))) = h.seen.last() else {
        panic!("{:?}", h.seen.last())
    };
    let body = String::from_utf8_lossy(&rejection.body);
    assert_eq!((*failed, rejection.status.as_u16(), body.trim_end()), (id, 401, "who are you?"));

    // A server that receives a close frame hangs up by itself, so no timeout of the client is
    // needed.
    h.server.shutdown(1001, "", support::PATIENCE);
    let before = h.server.stats().closed.timeouts();
    h.until("the end", |h| h.server.is_drained());
    assert_eq!(h.server.stats().closed.timeouts(), before);
    h.server.stats().bytes_out
}

#[test]
fn outbound_to_python_websockets() {
    if let Some(mut python) = peers::or_skip(peers::python(), "Python's websockets") {
        python.args(["-c", PYTHON]);
        talk(&start(python));
    }
}

#[test]
fn outbound_to_npm_ws() {
    if let Some(mut node) = peers::or_skip(peers::node(), "npm's ws") {
        node.args(["-e", NODE]);
        talk(&start(node));
    }
}
