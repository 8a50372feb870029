//! TLS with other implementations as peers: OpenSSL, curl, Python's `ssl`, Node's `tls`, Java.
#![cfg(feature = "tls")]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use support::{Deadline, Harness, echo, peers, tls};
use tickws::{Client, Connect, Event, Server, TlsClient, WhileDown};

/// A server with TLS that echoes messages and serves a page.
fn harness() -> Harness {
    let builder = Server::builder().serve_bytes("/", "text/html", b"a page").tls(tls::server());
    let server = builder.bind_tls("127.0.0.1:0").unwrap();
    let addr = server.local_addrs()[0];
    Harness { server, addr, seen: Vec::new() }
}

/// The certificate of the authority, as a file.
fn authority_file() -> PathBuf {
    let path =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("authority-{}.pem", std::process::id()));
    std::fs::write(&path, tls::authority().pem()).unwrap();
    path
}

/// Runs a program to its end while the server is polled and echoes. `input` goes to the program,
/// and the end of its standard input follows.
#[track_caller]
fn run(h: &mut Harness, command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = thread::spawn(move || {
        let mut text = Vec::new();
        out.read_to_end(&mut text).unwrap();
        text
    });
    let failed = thread::spawn(move || {
        let mut text = Vec::new();
        err.read_to_end(&mut text).unwrap();
        text
    });
    let deadline = Deadline::new();
    let status = loop {
        let tick = h.server.poll_for(Duration::from_millis(1)).unwrap();
        for event in &tick {
            if !matches!(event, Event::Http { .. }) {
                echo(&mut h.server, event);
            }
        }
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        deadline.check("the end of the program");
    };
    Output { status, stdout: read.join().unwrap(), stderr: failed.join().unwrap() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The URL of the server, by name.
fn at(addr: SocketAddr, scheme: &str) -> String {
    format!("{scheme}://localhost:{}/", addr.port())
}

/// OpenSSL's client. It sends what it gets on its standard input, and ends when the server closes.
fn s_client(h: &Harness, options: &[&str]) -> Option<Command> {
    let exists = Command::new("openssl").arg("version").stdout(Stdio::null()).status();
    let found = exists.is_ok_and(|status| status.success()).then(|| Command::new("openssl"));
    let mut command = peers::or_skip(found, "openssl")?;
    command.args(["s_client", "-connect", &h.addr.to_string(), "-servername", "localhost"]);
    command.args(["-verify_return_error", "-CAfile"]).arg(authority_file()).args(options);
    Some(command)
}

#[test]
fn openssl_connects_with_both_versions_and_verifies_the_certificate() {
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let mut h = harness();
        let Some(mut command) = s_client(&h, &[option, "-alpn", "h2,http/1.1", "-ign_eof"]) else { return };
        let output =
            run(&mut h, &mut command, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said} {}", text(&output.stderr));
        assert!(
            said.contains("Verify return code: 0 (ok)") && said.contains("ALPN protocol: http/1.1"),
            "{said}"
        );
        assert!(said.contains(&format!("New, {version}, Cipher is")) && said.contains("a page"), "{said}");
        assert!(!said.contains("unexpected eof"), "{said}");
    }
}

#[test]
fn openssl_resumes_sessions_of_both_versions() {
    for option in ["-tls1_2", "-tls1_3"] {
        let mut h = harness();
        let session = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("session{option}-{}", std::process::id()));
        let path = session.to_str().unwrap();
        for (how, expected) in [("-sess_out", "New, "), ("-sess_in", "Reused, ")] {
            let Some(mut command) = s_client(&h, &[option, how, path, "-ign_eof"]) else { return };
            let output =
                run(&mut h, &mut command, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let said = text(&output.stdout);
            assert!(
                said.contains(expected) && said.contains("a page"),
                "{option} {how}: {said} {}",
                text(&output.stderr)
            );
        }
        assert_eq!((h.server.stats().tls_full, h.server.stats().tls_resumed), (1, 1), "{option}");
        std::fs::remove_file(session).unwrap();
    }
}

#[test]
fn openssl_renegotiates_nothing_and_updates_keys() {
    let mut h = harness();
    // `R` asks for a renegotiation, which is refused with an alert or ignored; `K` updates both
    // directions' keys, and the request follows under the new ones.
    let Some(mut command) = s_client(&h, &["-tls1_2"]) else { return };
    let output =
        run(&mut h, &mut command, b"R\nGET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    let Some(mut command) = s_client(&h, &["-tls1_3"]) else { return };
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let said = Arc::<Mutex<String>>::default();
    let outputs: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let readers = outputs.map(|mut output| {
        let said = said.clone();
        thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut block) {
                said.lock().unwrap().push_str(&String::from_utf8_lossy(&block[..count]));
            }
        })
    });
    // s_client takes a command only at the start of what it reads at a time, so each part waits for
    // the effect of the one before: a key update, a response.
    let (mut updates, mut requests) = (0, 0);
    for part in [
        &b"K\n"[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"K\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ] {
        stdin.write_all(part).unwrap();
        stdin.flush().unwrap();
        let is_update = part.len() == 2;
        updates += usize::from(is_update);
        requests += u64::from(!is_update);
        let deadline = Deadline::new();
        while said.lock().unwrap().matches("KEYUPDATE").count() < updates
            || h.server.stats().http_requests < requests
        {
            let _ = h.server.poll_for(Duration::from_millis(1)).unwrap();
            deadline.check("the effect of what was typed");
        }
    }
    let deadline = Deadline::new();
    while child.try_wait().unwrap().is_none() {
        let _ = h.server.poll_for(Duration::from_millis(1)).unwrap();
        deadline.check("the end of s_client");
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let said = said.lock().unwrap();
    assert_eq!(said.matches("KEYUPDATE").count(), 2, "{said}");
    assert_eq!(said.matches("a page").count(), 2, "{said}");
}

#[test]
fn curl_fetches_the_page_and_is_told_about_plain_text() {
    let mut h = harness();
    let found = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success()).then(|| Command::new("curl"));
    let Some(mut command) = peers::or_skip(found, "curl") else { return };
    let url = at(h.addr, "https");
    let output = run(&mut h, command.args(["-sSv", "--cacert"]).arg(authority_file()).arg(&url), b"");
    assert_eq!(text(&output.stdout), "a page", "{}", text(&output.stderr));
    // Without the authority curl refuses.
    let output = run(&mut h, Command::new("curl").args(["-sS", &url]), b"");
    assert!(text(&output.stderr).contains("SSL certificate problem"), "{}", text(&output.stderr));
    let plain = at(h.addr, "http");
    let output = run(&mut h, Command::new("curl").args(["-sS", &plain]), b"");
    assert!(text(&output.stdout).contains("use https:// or wss://"), "{}", text(&output.stdout));
    let stats = h.server.stats().tls_failed;
    assert_eq!((stats.alert, stats.plain_text), (1, 1));
}

const PYTHON: &str = r#"
import ssl, sys
from websockets.sync.client import connect
context = ssl.create_default_context(cafile=sys.argv[2])
with connect(sys.argv[1], ssl=context, max_size=None) as ws:
    for message in ["", "hello", "x" * 70000, b"\0" * 1000000]:
        ws.send(message)
        assert ws.recv() == message
print("all echoed")
"#;

const NODE: &str = r#"
const WebSocket = require("ws"), fs = require("fs");
const ws = new WebSocket(process.argv[1], { ca: fs.readFileSync(process.argv[2]), perMessageDeflate: false });
const sent = [Buffer.from(""), Buffer.from("hello"), Buffer.alloc(70000, 1), Buffer.alloc(1000000, 2)];
let at = 0;
ws.on("open", () => ws.send(sent[0]));
ws.on("message", data => {
    if (!data.equals(sent[at])) throw new Error("not an echo");
    if (++at < sent.length) ws.send(sent[at]); else ws.close(1000);
});
ws.on("close", code => { console.log(code === 1000 ? "all echoed" : "closed with " + code); });
"#;

#[test]
fn python_and_node_clients_echo_over_wss() {
    let mut h = harness();
    let url = at(h.addr, "wss");
    for (mut command, source) in [
        (peers::or_skip(peers::python(), "websockets"), ("-c", PYTHON)),
        (peers::or_skip(peers::node(), "ws"), ("-e", NODE)),
    ] {
        let Some(command) = &mut command else { continue };
        command.args([source.0, source.1, &url]).arg(authority_file());
        let output = run(&mut h, command, b"");
        assert_eq!(text(&output.stdout).trim(), "all echoed", "{}", text(&output.stderr));
    }
    let closed = h.server.stats().closed;
    assert_eq!(closed.peer, closed.total(), "{closed:?}");
}

#[test]
fn records_that_only_tlslite_sends_are_taken_or_end_their_own_connection() {
    let mut h = harness();
    let Some(mut command) = peers::or_skip(peers::tlslite(), "tlslite-ng") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/tls_records.py");
    command.args([script, &h.addr.port().to_string()]);
    let output = run(&mut h, &mut command, b"");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let deadline = Deadline::new();
    while h.server.client_count() > 0 {
        let _ = h.server.poll_for(Duration::from_millis(1)).unwrap();
        deadline.check("all connections to end");
    }
    assert_eq!(h.server.stats().buffered, 0);
}

const JAVA: &str = r#"
import java.net.URI;
import java.net.http.*;
import java.nio.file.*;
import java.security.*;
import java.security.cert.*;
import java.util.concurrent.*;
import javax.net.ssl.*;

public class Client {
    public static void main(String[] args) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        store.setCertificateEntry("a", CertificateFactory.getInstance("X.509")
            .generateCertificate(Files.newInputStream(Path.of(args[1]))));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        CompletableFuture<String> got = new CompletableFuture<>();
        WebSocket ws = HttpClient.newBuilder().sslContext(context).build().newWebSocketBuilder()
            .buildAsync(URI.create(args[0]), new WebSocket.Listener() {
                public CompletionStage<?> onText(WebSocket w, CharSequence data, boolean last) {
                    got.complete(data.toString());
                    return null;
                }
            }).get(10, TimeUnit.SECONDS);
        ws.sendText("hello", true);
        System.out.println(got.get(10, TimeUnit.SECONDS).equals("hello") ? "all echoed" : "no echo");
        ws.sendClose(1000, "").get(10, TimeUnit.SECONDS);
        System.exit(0);
    }
}
"#;

/// Java is not among the required peers.
#[test]
fn the_client_of_java_echoes_over_wss() {
    let exists = Command::new("java").arg("-version").stderr(Stdio::null()).status();
    if !exists.is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: java is not installed");
    }
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("java-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let source = dir.join("Client.java");
    std::fs::write(&source, JAVA).unwrap();
    let mut h = harness();
    let url = at(h.addr, "wss");
    let output = run(&mut h, Command::new("java").arg(&source).arg(url).arg(authority_file()), b"");
    assert_eq!(text(&output.stdout).trim(), "all echoed", "{}", text(&output.stderr));
    std::fs::remove_dir_all(dir).unwrap();
}

const PYTHON_SERVER: &str = r#"
import ssl, sys, threading
from websockets.sync.server import serve
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])

def echo(ws):
    for message in ws:
        ws.send(message)

with serve(echo, "127.0.0.1", 0, ssl=context, max_size=None) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.socket.getsockname()[1], flush=True)
    sys.stdin.read()
    server.shutdown()
"#;

const NODE_SERVER: &str = r#"
const fs = require("fs"), https = require("https"), { WebSocketServer } = require("ws");
const server = https.createServer({ cert: fs.readFileSync(process.argv[1]), key: fs.readFileSync(process.argv[2]) });
new WebSocketServer({ server, perMessageDeflate: false }).on("connection", ws =>
    ws.on("message", (data, binary) => ws.send(data, { binary })));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
"#;

#[test]
fn outbound_connections_reach_python_and_node_servers_over_wss() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("wss-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| dir.join(name));
    std::fs::write(&chain, &tls::local().chain).unwrap();
    std::fs::write(&key, &tls::local().key).unwrap();
    for (command, source) in [
        (peers::or_skip(peers::python(), "websockets"), ("-c", PYTHON_SERVER)),
        (peers::or_skip(peers::node(), "ws"), ("-e", NODE_SERVER)),
    ] {
        let Some(mut command) = command else { continue };
        command.args([source.0, source.1]).args([&chain, &key]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().unwrap();
        let trusts = TlsClient::roots(tls::authority().pem()).unwrap();
        let connect = Connect::new(format!("wss://localhost:{port}/")).tls(trusts);
        let mut client = Client::connect(connect.while_down(WhileDown::KeepLast(10))).unwrap();
        let sent = ["".to_owned(), "hello".to_owned(), "x".repeat(70_000), "y".repeat(900_000)];
        sent.iter().for_each(|text| client.send(text).unwrap());
        let mut received = Vec::new();
        let deadline = Deadline::new();
        while received.len() < sent.len() {
            for event in &client.poll_for(Duration::from_millis(1)).unwrap() {
                match event {
                    Event::Message { message, .. } => received.push(message.as_text().unwrap().to_owned()),
                    Event::ConnectFailed { error, .. } => panic!("{error}"),
                    _ => {}
                }
            }
            deadline.check("the echoes");
        }
        assert!(received == sent);
        client.close(1000, "").unwrap();
        while !client.is_over() {
            let _ = client.poll_for(Duration::from_millis(1)).unwrap();
            deadline.check("the end");
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    std::fs::remove_dir_all(dir).unwrap();
}
