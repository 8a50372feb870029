//! The game, which a program could bind to a real port, and its players.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    time::Duration,
};

use tickws::sim::{Received, SimClient};
use tickws::{ClientId, Event, Message, Server, ServerBuilder, TimerId};

/// Each player is in one room, at first the lobby. Texts are numbered and published to the sender's
/// room; `go ROOM` changes the room. Three seconds after the first text the match is over, and each
/// user is told.
#[derive(Default)]
pub struct Game {
    names: HashMap<ClientId, String>,
    rooms: HashMap<ClientId, String>,
    text_count: u64,
    match_over: Option<(TimerId, Duration)>,
    /// Time since the start, set by the test.
    pub now: Duration,
    /// The longest delay of a timer: one frame.
    pub late: Duration,
    /// Messages sent to each client.
    sent: HashMap<ClientId, Vec<String>>,
    /// Every client that has opened, in order.
    order: Vec<ClientId>,
    from: HashMap<String, Vec<String>>,
    transcript: DefaultHasher,
}

impl Game {
    pub fn builder() -> ServerBuilder {
        Server::builder().path("/play").max_message_size(50_000)
    }

    pub fn frame(&mut self, server: &mut Server) -> io::Result<()> {
        for event in &server.poll_once()? {
            self.handle(server, event);
        }
        server.flush();
        Ok(())
    }

    pub fn handle(&mut self, server: &mut Server, event: Event<'_>) {
        format!("{event:?}").hash(&mut self.transcript);
        match event {
            Event::Open { client, request } => {
                let name = request.uri().query().and_then(|query| query.strip_prefix("name="));
                let name = name.expect("a name").to_owned();
                let greeting = format!("you are {client}");
                // The client may be closed by now: its `Close` may be in this tick, too.
                if server.set_user(client, &name).is_err() || server.send(client, &greeting).is_err() {
                    return;
                }
                self.names.insert(client, name);
                self.order.push(client);
                self.sent.insert(client, vec![greeting]);
                self.go(server, client, "lobby");
            }
            Event::Message { client, message: Message::Text(text) } => self.receive(server, client, text),
            Event::Close { client, .. } => {
                self.rooms.remove(&client);
                self.names.remove(&client);
            }
            Event::Timer { timer, .. } => {
                let (set, due) = self.match_over.take().expect("a timer that is set");
                assert!(set == timer && (due..due + self.late).contains(&self.now), "at {:?}", self.now);
                for client in server.clients().collect::<Vec<_>>() {
                    // A client whose `Open` is yet to come has no name.
                    let Some(name) = self.names.get(&client) else { continue };
                    assert_eq!(server.user(client), Some(&name[..]));
                    let delivery = server.send_to_user(name, "over");
                    assert_eq!(delivery.queued, server.clients_of(name).len());
                    for client in server.clients_of(name) {
                        self.sent.get_mut(&client).unwrap().push("over".into());
                    }
                }
            }
            Event::Drained { .. } => {}
            event => panic!("{event:?}"),
        }
    }

    fn go(&mut self, server: &mut Server, client: ClientId, room: &str) {
        if server.leave_all(client).is_ok() && server.join(client, room).is_ok() {
            self.rooms.insert(client, room.to_owned());
        }
    }

    fn receive(&mut self, server: &mut Server, client: ClientId, text: &str) {
        self.from.entry(client.to_string()).or_default().push(text.to_owned());
        if let Some(room) = text.strip_prefix("go ") {
            return self.go(server, client, room);
        }
        if self.match_over.is_none() {
            let wait = Duration::from_secs(3);
            self.match_over = Some((server.set_timer(wait), self.now + wait));
        }
        self.text_count += 1;
        let line = format!("{} {text}", self.text_count);
        let Some(room) = self.rooms.get(&client) else { return };
        let delivery = server.publish(room.as_str(), &line);
        let members: Vec<ClientId> = server.members(room.as_str()).collect();
        assert_eq!(delivery.queued, members.len());
        for member in members {
            self.sent.get_mut(&member).unwrap().push(line.clone());
        }
    }

    pub fn digest(&self) -> u64 {
        self.transcript.finish()
    }

    /// A player that is still connected has received every message sent to it, whole, once and in
    /// order, and the game has received all of its texts. A player that left has received the first
    /// part of them.
    pub fn check(&self, server: &Server, players: &[Player]) {
        for player in players {
            let Some(greeting) = player.received.first() else { continue };
            let client = self.order.iter().find(|client| *greeting == format!("you are {client}"));
            let client = client.expect("a greeting from the game");
            let sent = &self.sent[client];
            let texts = self.from.get(&client.to_string()).map_or(&[][..], |texts| &texts[..]);
            if player.is_there() {
                assert!(server.remote_addr(*client).is_some());
                assert_eq!((&player.received, &player.texts[..]), (sent, texts));
            } else {
                assert!(sent.starts_with(&player.received), "{:?} of {sent:?}", player.received);
                assert!(player.texts.starts_with(texts), "{texts:?} of {:?}", player.texts);
            }
        }
    }
}

pub struct Player {
    client: SimClient,
    texts: Vec<String>,
    received: Vec<String>,
    leaves: bool,
}

impl Player {
    pub fn new(client: SimClient) -> Self {
        Player { client, texts: Vec::new(), received: Vec::new(), leaves: false }
    }

    pub fn act(&mut self, rng: &mut fastrand::Rng) {
        if self.leaves || self.client.status().is_none() || self.client.is_over() {
            return;
        }
        match rng.u8(..40) {
            0 => self.client.close(1000, "bye"),
            1 => self.client.finish(),
            2 => self.client.reset(),
            3..6 => return self.client.stall(),
            6..12 => return self.client.resume(),
            12..15 => return self.say(format!("go room{}", rng.u8(..3))),
            15 => return self.client.ping(b"?"),
            16..18 => return self.say("long ".repeat(rng.usize(..3000))),
            number => return self.say(format!("hello {number}")),
        }
        self.leaves = true;
    }

    fn say(&mut self, text: String) {
        self.client.send(&text);
        self.texts.push(text);
    }

    pub fn listen(&mut self) {
        for received in self.client.received() {
            match received {
                Received::Text(text) => self.received.push(text),
                Received::Pong(body) => assert_eq!(body, b"?"),
                Received::Close { code, .. } => assert_eq!(code, 1000),
                Received::End | Received::Reset => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn wake(&mut self) {
        self.client.resume();
    }

    fn is_there(&self) -> bool {
        !self.leaves && !self.client.is_over()
    }
}
