//! Clients that give the dashboard something to show, each on a thread of its own. They are not
//! part of the server.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tungstenite::{
    Message, WebSocket,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// A bound on the number of threads.
const MAX_CLIENTS: usize = 200;

pub fn start(addr: SocketAddr, clients: usize) {
    for number in 0..clients.min(MAX_CLIENTS) {
        thread::spawn(move || {
            // Sessions follow each other however they end, until the program ends.
            for session in number.. {
                let _ = talk(addr, session);
                thread::sleep(Duration::from_millis(1000));
            }
        });
    }
}

/// One session: a few seconds of echoes at its own pace, and one of several ways to disconnect.
fn talk(addr: SocketAddr, session: usize) -> Result<(), tungstenite::Error> {
    let stream = TcpStream::connect(addr)?;
    let (mut socket, _) = tungstenite::client(format!("ws://{addr}/load"), stream)
        .map_err(|error| tungstenite::Error::Io(std::io::Error::other(error)))?;
    let pause = Duration::from_millis(10 + 7 * (session % 8) as u64);
    let text = "all ".repeat(32);
    let end = Instant::now() + Duration::from_secs(5 + 3 * (session % 9) as u64);
    for round in 0.. {
        if Instant::now() >= end {
            break;
        }
        match round % 20 {
            0 => socket.send(Message::text(&text))?,
            _ => socket.send(Message::binary(vec![0; 64 << (session % 5)]))?,
        }
        // Messages that others sent to all arrive in between.
        while !socket.read()?.is_binary() && round % 20 != 0 {}
        thread::sleep(pause);
        if (round + 37 * session) % 300 == 299 {
            stall(&mut socket)?;
        }
    }
    match session % 4 {
        0 => return Ok(()), // disconnects without a close frame
        1 => socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "seen enough".into() }))?,
        _ => socket.close(None)?,
    }
    while socket.read().is_ok() {}
    Ok(())
}

/// Requests more than it reads for two seconds, so that the server has to buffer it.
fn stall(socket: &mut WebSocket<TcpStream>) -> Result<(), tungstenite::Error> {
    const MESSAGES: usize = 60;
    for _ in 0..MESSAGES {
        socket.send(Message::binary(vec![0; 16 * 1024]))?;
        thread::sleep(Duration::from_millis(30));
    }
    for _ in 0..MESSAGES {
        while !socket.read()?.is_binary() {}
    }
    Ok(())
}
