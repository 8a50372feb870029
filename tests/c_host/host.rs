//! A server behind a C function, for `tests/sigpipe.rs`: a program that is not Rust's own, whose
//! SIGPIPE ends it.

use std::time::{Duration, Instant};

use tickws::{Event, Message, Server};

/// Runs a server for at most 60 seconds, or until a client sends the text `stop`. It prints its
/// address, echoes binary messages, and sends two snapshots of 16 KiB per poll to each client that
/// has asked for them with the text `snapshots`. Returns 0 after `stop`.
#[unsafe(no_mangle)]
pub extern "C" fn tickws_host() -> i32 {
    let Ok(mut server) = Server::bind("127.0.0.1:0") else { return 2 };
    println!("{}", server.local_addrs()[0]);
    let end = Instant::now() + Duration::from_secs(60);
    let mut watching = Vec::new();
    while Instant::now() < end {
        let Ok(tick) = server.poll_for(Duration::from_millis(1)) else { return 3 };
        for event in &tick {
            match event {
                Event::Message { client, message: Message::Text("snapshots") } => watching.push(client),
                Event::Message { message: Message::Text("stop"), .. } => return 0,
                Event::Message { client, message } => _ = server.send(client, message),
                Event::Close { client, .. } => watching.retain(|id| *id != client),
                _ => {}
            }
        }
        for client in &watching {
            for _ in 0..2 {
                let _ = server.send(*client, vec![7; 16 * 1024]);
            }
        }
    }
    4
}
