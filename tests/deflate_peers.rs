//! Compression with other implementations, Python's `websockets` and npm's `ws`: all parameters,
//! and messages from 0 bytes to 4 MiB in both directions.
#![cfg(feature = "deflate")]

mod support;

use std::{path::Path, process::Command, sync::mpsc, thread, time::Duration};

use support::peers;
use tickws::{CloseCode, Deflate, DeflateMode, Event, Server};

/// Server configurations, and whether the peer tries all of its offers on them or only some.
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

/// Runs a peer against an echo server with each configuration.
fn echo_for(name: &str, peer: fn() -> Option<Command>) {
    if peers::or_skip(peer(), name).is_none() {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name);
    for (deflate, which) in configurations() {
        let (started, address) = mpsc::channel();
        let echo = thread::spawn({
            let deflate = deflate.clone();
            move || {
                let mut server = Server::builder()
                    .deflate(deflate)
                    .max_message_size(4 << 20)
                    .max_buffered(16 << 20)
                    // On a loaded machine a peer may get no processor for ten seconds, so no
                    // deadline applies.
                    .write_timeout(Duration::MAX)
                    .handshake_timeout(Duration::MAX)
                    .ping_interval(None)
                    .silence_timeout(None)
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
        let mut command = peer().unwrap();
        let output = command.arg(&script).arg(format!("ws://{addr}/")).arg(which).output().unwrap();
        handle.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(1)).unwrap();
        let ([payload, wire], reasons) = echo.join().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{deflate:?}\n{printed}{errors}\nthe server: {reasons:?}");
        assert!(reasons.is_empty(), "{reasons:?}");
        // More than a third of the bytes is random, and some repetitions are further apart than a
        // window.
        assert!(wire * 10 < payload * 9, "{deflate:?}: {payload} bytes echoed, {wire} written");
        println!("{name}: {} connections, {payload} bytes echoed in {wire}: {deflate:?}", printed.trim());
    }
}

#[test]
fn python_websockets_echoes_with_compression() {
    echo_for("deflate.py", peers::python);
}

#[test]
fn npm_ws_echoes_with_compression() {
    echo_for("deflate.js", peers::node);
}
