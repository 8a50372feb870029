//! Compression against implementations that are not ours: Python's `websockets` and npm's `ws`, all parameters,
//! both directions of messages from nothing to 4 MiB.
//!
//! They are looked for where `.ci/run` puts them, in `peers` in the target folder. Without them a test says that it
//! is skipped, unless `TICKWS_REQUIRE_PEERS=1`.
#![cfg(feature = "deflate")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use tickws::{CloseCode, Deflate, DeflateMode, Event, Server};

/// What the server wants, and how many of the combinations it is held against.
fn configurations() -> Vec<(Deflate, &'static str)> {
    let dedicated = || Deflate::new(DeflateMode::Dedicated);
    vec![
        (dedicated().threshold(1), "all"),
        (Deflate::default().level(9), "some"),
        (dedicated().server_max_window_bits(15).client_max_window_bits(15).level(1), "some"),
        (dedicated().server_max_window_bits(9).client_max_window_bits(9).level(3), "some"),
        (Deflate::default().server_context_takeover(true).server_max_window_bits(11), "some"),
        (Deflate::default().client_context_takeover(true).client_max_window_bits(10).threshold(1), "some"),
    ]
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("peers")
}

/// The program that runs a peer, if it has its package.
fn peer(name: &str) -> Option<Command> {
    let (candidates, probe, flag) = match name {
        "deflate.py" => (
            vec![peers().join("venv/bin/python"), PathBuf::from("python3")],
            "import websockets.sync.client, websockets.extensions.permessage_deflate",
            "-c",
        ),
        _ => (vec![PathBuf::from("node")], "require('ws')", "-e"),
    };
    let command = |program: &PathBuf| {
        let mut command = Command::new(program);
        command.env("NODE_PATH", peers().join("node_modules"));
        command
    };
    let works = |program: &PathBuf| {
        let mut probing = command(program);
        probing.args([flag, probe]).stdout(Stdio::null()).stderr(Stdio::null());
        probing.status().is_ok_and(|status| status.success())
    };
    let found = candidates.iter().find(|program| works(program));
    if found.is_none() {
        let required = std::env::var("TICKWS_REQUIRE_PEERS").is_ok_and(|value| value == "1");
        assert!(!required, "{name}: its package is missing, and TICKWS_REQUIRE_PEERS=1");
        println!("SKIPPED: {name} has no package; .ci/run installs it");
        eprintln!("SKIPPED: {name} has no package; .ci/run installs it");
    }
    found.map(|program| {
        let mut command = command(program);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name));
        command
    })
}

/// Runs a peer against an echo server with each configuration.
fn echo_for(name: &str) {
    if peer(name).is_none() {
        return;
    }
    for (deflate, which) in configurations() {
        let (started, address) = mpsc::channel();
        let echo = thread::spawn({
            let deflate = deflate.clone();
            move || {
                let mut server = Server::builder()
                    .deflate(deflate)
                    .max_message_size(4 << 20)
                    .max_buffered(16 << 20)
                    .bind("127.0.0.1:0")
                    .unwrap();
                started.send((server.local_addrs()[0], server.handle())).unwrap();
                let (mut bytes, mut reasons) = ([0, 0], Vec::new());
                server
                    .run(|server, event| match event {
                        Event::Message { client, message } => {
                            bytes[0] += message.len();
                            server.send(client, message).unwrap();
                        }
                        Event::Close { reason, .. } if reason.is_unexpected() => {
                            reasons.push(reason.to_string())
                        }
                        _ => {}
                    })
                    .unwrap();
                bytes[1] = server.stats().bytes_out as usize;
                (bytes, reasons)
            }
        });
        let (addr, handle) = address.recv().unwrap();
        let mut command = peer(name).unwrap();
        let output = command.arg(format!("ws://{addr}/")).arg(which).output().unwrap();
        handle.shutdown(CloseCode::Away, Duration::from_secs(1)).unwrap();
        let ([payload, wire], reasons) = echo.join().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{deflate:?}\n{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(reasons.is_empty(), "{reasons:?}");
        // More than a third of the bytes is noise, and some repeats further back than a window.
        assert!(wire * 10 < payload * 9, "{deflate:?}: {payload} bytes echoed, {wire} written");
        println!("{name}: {} connections, {payload} bytes echoed in {wire}: {deflate:?}", said.trim());
    }
}

#[test]
fn pythons_websockets() {
    echo_for("deflate.py");
}

#[test]
fn npms_ws() {
    echo_for("deflate.js");
}
