//! Random outbound connections to servers of every kind. The same seed gives the same run.

use std::collections::HashMap;

use super::*;
use crate::util::test_rng::Rng;

/// The state of an id in the model.
#[derive(Debug, Default)]
struct Known {
    open: bool,
    over: bool,
    /// Messages received from its server, and messages that `send` accepted.
    received: u32,
    sent: u32,
    cancelled: bool,
}

/// The server's end of a connection.
struct Remote {
    peer: Peer,
    inbox: Vec<u8>,
    answered: bool,
    ended: bool,
    sent: u32,
    /// The number of the last message received; numbers must rise.
    received: Option<u32>,
}

struct World {
    host: Host,
    rng: Rng,
    known: HashMap<ClientId, Known>,
    remotes: Vec<Remote>,
    events: [usize; 5],
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let config = Config {
            time_budget: (seed % 3 == 2).then_some(Duration::ZERO),
            max_buffered: 64 * 1024,
            // Some worlds allow only one event per tick.
            event_budget: rng.pick(&[1, 3, 16_384]),
            max_head_bytes: 1024,
            ..Config::default()
        };
        let mut host = Host::with_chaos(config, Some(Rng::new(rng.next())));
        host.engine.seed_jitter(rng.next());
        let outcomes = [Outcome::Connects, Outcome::Refused, Outcome::Unreachable, Outcome::Silence];
        for (last, outcome) in outcomes.into_iter().enumerate() {
            host.outbound.outcomes.insert(addr(last as u8 + 1), outcome);
        }
        host.outbound.names.insert("some.example".into(), vec![addr(2), addr(3), addr(1)]);
        host.outbound.names.insert("none.example".into(), vec![addr(4), addr(2)]);
        World { host, rng, known: HashMap::new(), remotes: Vec::new(), events: [0; 5] }
    }

    fn connect(&mut self) {
        let urls =
            [URL, URL, URL, "ws://some.example:9001/", "ws://none.example:9001/", "ws://unknown.example/"];
        let mut connect = Connect::new(self.rng.pick(&urls)).subprotocols(["a"]);
        if self.rng.one_in(2) {
            let tries = self.rng.below(5) as u32;
            connect = connect.reconnect(Reconnect::new().max_tries(tries).stable_after(3 * SEC));
        }
        if self.rng.one_in(2) {
            connect = connect.while_down(WhileDown::KeepLast(self.rng.below(4)));
        }
        let id = dial(&mut self.host, connect);
        assert!(self.known.insert(id, Known::default()).is_none(), "an id was given twice");
    }

    /// The application sends to, or ends, a random connection, live or not.
    fn act(&mut self) {
        let Some(&id) = self.known.keys().nth(self.rng.below(self.known.len().max(1))) else { return };
        let known = self.known.get_mut(&id).unwrap();
        match self.rng.below(20) {
            0 => known.cancelled |= self.host.engine.close(id, 1000.into(), "", self.host.now).is_ok(),
            1 => known.cancelled |= self.host.engine.disconnect(id).is_ok(),
            _ => {
                let padding = "x".repeat(self.rng.below(3000));
                let message = format!("{} {padding}", known.sent);
                let sent = self.host.engine.send(id, (&message).into());
                if known.over {
                    // Until the next flush the id may still be known.
                    assert!(!matches!(sent, Err(SendError::Connecting(_))));
                } else if sent.is_ok() {
                    known.sent += 1;
                }
            }
        }
    }

    /// A server does something, valid or not.
    fn remote(&mut self, which: usize) {
        let Remote { peer, inbox, answered, ended, sent, received } = &mut self.remotes[which];
        inbox.extend(peer.take_all());
        if *ended {
            return;
        }
        if !*answered {
            let Some(end) = inbox.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return };
            let request = String::from_utf8(inbox.drain(..end + 4).collect()).unwrap();
            let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
            let good = format!(
                "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
                derive_accept_key(key.as_bytes())
            );
            *answered = true;
            match self.rng.below(12) {
                0 => peer.raw(b"HTTP/1.1 401 x\r\nContent-Length: 5\r\n\r\nno!"),
                1 => peer.raw(b"HTTP/1.1 302 x\r\nLocation: ws://b/\r\n\r\n"),
                2 => peer.raw(&self.rng.bytes(100)),
                3 => peer.raw(format!("{good}Sec-WebSocket-Protocol: b\r\n\r\n").as_bytes()),
                4 => peer.raw(good.as_bytes()),
                _ => {
                    // Frames follow the response, sometimes more than the tick's block holds.
                    let mut bytes = format!("{good}\r\n").into_bytes();
                    let count = self.rng.pick(&[0, 1, 20]);
                    for _ in 0..count {
                        bytes.extend(plain(&format!("{sent} {}", "y".repeat(self.rng.below(8000)))));
                        *sent += 1;
                    }
                    peer.raw(&bytes);
                    return;
                }
            }
            *ended = self.rng.one_in(2);
            if *ended {
                peer.fin();
            }
            return;
        }
        while let Some((header, size)) = Header::parse(inbox).unwrap() {
            let Some(payload) = inbox.get(size..size + header.len as usize) else { break };
            let key = header.mask.expect("a client masks");
            let bytes: Vec<u8> =
                payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            if header.opcode == TEXT {
                let text = String::from_utf8(bytes).unwrap();
                let number: u32 = text.split(' ').next().unwrap().parse().unwrap();
                assert!(received.is_none_or(|received| received < number), "out of order");
                *received = Some(number);
            }
            inbox.drain(..size + header.len as usize);
        }
        match self.rng.below(60) {
            0 => peer.fin(),
            1 => peer.reset(self.rng.one_in(2)),
            2 => peer.raw(b"\x88\x02\x03\xe9"),
            3 => peer.raw(b"\xff\xff"),
            4 => peer.close_socket(),
            _ => {
                peer.raw(&plain(&format!("{sent} z")));
                *sent += 1;
                return;
            }
        }
        *ended = true;
    }

    fn poll(&mut self) {
        let tick = self.host.poll_after(self.rng.below(40) as u32 * MS);
        for event in &tick {
            match event {
                Event::Open { client, .. } => {
                    let known = self.known.get_mut(&client).expect("an id that was named before");
                    assert!(!known.over && !std::mem::replace(&mut known.open, true), "opened twice");
                    self.events[0] += 1;
                }
                Event::Message { client, message } => {
                    let known = self.known.get_mut(&client).expect("known");
                    assert!(known.open && !known.over);
                    let text = message.as_text().unwrap();
                    assert_eq!(
                        text.split(' ').next(),
                        Some(&*known.received.to_string()),
                        "not the next one"
                    );
                    known.received += 1;
                    self.events[1] += 1;
                }
                Event::Close { client, .. } => {
                    let known = self.known.get_mut(&client).expect("known");
                    assert!(known.open && !std::mem::replace(&mut known.over, true), "closed twice");
                    self.events[2] += 1;
                }
                Event::ConnectFailed { client, error, .. } => {
                    if *error == ConnectError::GaveUp {
                        self.known.entry(client).or_default();
                    }
                    let known = self.known.get_mut(&client).expect("known");
                    assert!(!known.open && !std::mem::replace(&mut known.over, true), "failed twice");
                    assert!(*error != ConnectError::Cancelled || known.cancelled);
                    self.events[3] += 1;
                }
                Event::Reconnecting { client, error, .. } => {
                    // The id is new if a connection was lost, and the same if an attempt failed.
                    let known = self.known.entry(client);
                    assert_eq!(
                        matches!(known, std::collections::hash_map::Entry::Vacant(_)),
                        error.is_none()
                    );
                    let known = known.or_default();
                    assert!(!known.open && !known.over && !known.cancelled);
                    self.events[4] += 1;
                }
                Event::Drained { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        for peer in std::mem::take(&mut self.host.outbound.peers) {
            let (inbox, received) = (Vec::new(), None);
            self.remotes.push(Remote { peer, inbox, answered: false, ended: false, sent: 0, received });
        }
        self.remotes.retain(|remote| !remote.peer.is_dropped());
    }

    fn step(&mut self) {
        match self.rng.below(6) {
            0 if self.known.values().filter(|known| !known.over).count() < 12 => self.connect(),
            0 | 1 => self.act(),
            2 | 3 if !self.remotes.is_empty() => {
                let which = self.rng.below(self.remotes.len());
                self.remote(which);
            }
            _ => self.poll(),
        }
    }
}

#[test]
fn every_outbound_id_begins_once_and_ends_once() {
    let mut events = [0; 5];
    for seed in 0..60 {
        let mut world = World::new(seed);
        for _ in 0..1500 {
            world.step();
        }
        let stats = world.host.engine.stats();
        assert_eq!(stats.opened, stats.open + stats.closed.total());
        assert!(stats.dial_failed + stats.opened <= stats.dialed, "{seed}: {stats:?}");
        world.host.engine.shutdown(1001.into(), "", SEC, world.host.now);
        for _ in 0..400 {
            world.poll();
        }
        assert!(world.known.values().all(|known| known.over), "seed {seed}: an id without an end");
        let engine = &mut world.host.engine;
        assert_eq!((engine.connection_count(), engine.client_count()), (0, 0), "seed {seed}");
        assert_eq!((engine.total_buffered(), engine.next_timeout(world.host.now)), (0, None), "seed {seed}");
        // Every `Open` has its `Close`.
        let stats = engine.stats();
        assert_eq!(stats.opened, stats.closed.total());
        // Every attempt either opened or failed.
        assert_eq!(stats.dial_failed + stats.opened, stats.dialed, "seed {seed}: {stats:?}");
        events.iter_mut().zip(world.events).for_each(|(sum, count)| *sum += count);
    }
    assert!(events.iter().all(|count| *count > 100), "not everything has happened: {events:?}");
}
