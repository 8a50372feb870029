//! Clients that connect, send one message and close.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{
    Figures, Load, Stages, Target,
    conn::socket,
    latency::Latencies,
    wire::{REQUEST, Replies, Script, close, is_accepted},
};
use crate::{Outcome, secure::ClientStream, wait};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Connecting,
    Upgrading,
    Echoing,
    Closing,
    Closed,
}

/// One of the concurrent clients. When it ends, a new one takes its slot.
struct Slot {
    stream: ClientStream,
    stage: Stage,
    received: Vec<u8>,
    begin: Instant,
}

/// The bytes that all clients send and expect.
struct Exchange {
    addr: SocketAddr,
    tls: bool,
    resumes: bool,
    script: Script,
    close: Vec<u8>,
    close_reply: Vec<u8>,
    verify: bool,
}

pub fn run(target: Target, load: &Load) -> Outcome<Figures> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let (close, close_reply) = close();
    let exchange = Exchange {
        addr: target.addr,
        tls: target.tls,
        resumes: load.resumes,
        script: load.script(0, 1),
        close,
        close_reply,
        verify: load.verify,
    };
    let mut turn = 0;
    let mut slots = Vec::new();
    for index in 0..load.clients {
        slots.push(exchange.begin(&poll, index, turn)?);
        turn += 1;
    }
    let mut latencies = Latencies::new();
    let mut stages = Stages::new(target, load);
    let mut connections = 0;
    loop {
        // Polls without sleeping: see `echo`.
        wait(&mut poll, &mut events, Some(Duration::ZERO))?;
        for event in &events {
            let index = event.token().0;
            let slot = &mut slots[index];
            if !exchange.advance(slot, event.is_writable(), event.is_readable())? {
                continue;
            }
            connections += 1;
            latencies.record(slot.begin.elapsed().as_nanos() as u64);
            // Replacing the slot closes the old socket.
            slots[index] = exchange.begin(&poll, index, turn)?;
            turn += 1;
        }
        let now = Instant::now();
        if stages.begins(now)? {
            connections = 0;
            latencies.clear();
        } else if stages.is_over(now, connections) {
            return stages.finish(connections, latencies.quantiles());
        }
    }
}

impl Exchange {
    fn begin(&self, poll: &Poll, index: usize, turn: usize) -> Outcome<Slot> {
        let begin = Instant::now();
        let socket = socket(turn)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.addr.into()) {
            Ok(()) => {}
            // EINPROGRESS has no `ErrorKind`; 115 is its number on Linux.
            Err(error) if error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(115) => {}
            Err(error) => return Err(error.into()),
        }
        let mut stream = TcpStream::from_std(socket.into());
        poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let stream = ClientStream::client(stream, self.tls, self.resumes)?;
        Ok(Slot { stream, stage: Stage::Connecting, received: Vec::with_capacity(256), begin })
    }

    /// Advances a client; `true` when its connection has ended.
    fn advance(&self, slot: &mut Slot, writable: bool, readable: bool) -> Outcome<bool> {
        if slot.stage == Stage::Connecting && writable {
            if let Some(error) = slot.stream.socket().take_error()? {
                return Err(error.into());
            }
            self.write(slot, REQUEST, Stage::Upgrading)?;
        }
        if !readable || slot.stage == Stage::Connecting {
            return Ok(false);
        }
        loop {
            let mut buffer = [0; 4096];
            match slot.stream.read(&mut buffer) {
                Ok(0) => return self.ended(slot),
                Ok(count) => slot.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                // A server need not send close_notify behind a close frame.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) =>
                {
                    return self.ended(slot);
                }
                Err(error) => return Err(error.into()),
            }
            self.receive(slot)?;
        }
    }

    /// Handles a complete response of the server.
    fn receive(&self, slot: &mut Slot) -> Outcome<()> {
        match slot.stage {
            Stage::Upgrading if slot.received.ends_with(b"\r\n\r\n") => {
                if !is_accepted(&slot.received) {
                    return Err(format!("no upgrade: {}", String::from_utf8_lossy(&slot.received)).into());
                }
                self.write(slot, &self.script.requests, Stage::Echoing)
            }
            Stage::Echoing if slot.received.len() >= self.script.reply.len() => {
                if Replies::new(self.script.clone(), self.verify).take(&slot.received)? != 1 {
                    return Err("received more than one reply".into());
                }
                self.write(slot, &self.close, Stage::Closing)
            }
            Stage::Closing if slot.received.len() >= self.close_reply.len() => {
                if slot.received != self.close_reply {
                    return Err(
                        format!("expected a close frame with 1000, got {:02x?}", slot.received).into()
                    );
                }
                slot.stage = Stage::Closed;
                slot.received.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The bytes are few, so a new socket takes them all.
    fn write(&self, slot: &mut Slot, bytes: &[u8], stage: Stage) -> Outcome<()> {
        slot.received.clear();
        slot.stage = stage;
        Ok(slot.stream.write_all(bytes)?)
    }

    fn ended(&self, slot: &Slot) -> Outcome<bool> {
        match slot.stage {
            Stage::Closed => Ok(true),
            stage => Err(format!("the server hung up while {stage:?}").into()),
        }
    }
}
