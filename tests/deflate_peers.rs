//! Compression against implementations that are not ours: Python's `websockets` and npm's `ws`, all parameters,
//! both directions of messages from nothing to 4 MiB.
#![cfg(feature = "deflate")]

mod support;

use std::{path::Path, process::Command, sync::mpsc, thread, time::Duration};

use support::peers;
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
                    // A peer that gets no processor for ten seconds is none that is gone.
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
        handle.shutdown(CloseCode::Away, Duration::from_secs(1)).unwrap();
        let ([payload, wire], reasons) = echo.join().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{deflate:?}\n{said}{errors}\nthe server: {reasons:?}");
        assert!(reasons.is_empty(), "{reasons:?}");
        // More than a third of the bytes is noise, and some repeats further back than a window.
        assert!(wire * 10 < payload * 9, "{deflate:?}: {payload} bytes echoed, {wire} written");
        println!("{name}: {} connections, {payload} bytes echoed in {wire}: {deflate:?}", said.trim());
    }
}

#[test]
fn pythons_websockets() {
    echo_for("deflate.py", peers::python);
}

#[test]
fn npms_ws() {
    echo_for("deflate.js", peers::node);
}
