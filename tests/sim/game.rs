//! The game, which a program could bind to a port, and its players.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    time::Duration,
};

use tickws::sim::{Received, SimClient};
use tickws::{ClientId, Event, Message, Server, ServerBuilder, TimerId};

/// Everyone is in a room, the lobby first, and hears what is said there, numbered by the game; `go ROOM` leads to
/// another one. Three seconds after the first word the match is over, and each player hears it as a user.
#[derive(Default)]
pub struct Game {
    names: HashMap<ClientId, String>,
    rooms: HashMap<ClientId, String>,
    said: u64,
    match_over: Option<(TimerId, Duration)>,
    /// Since the beginning; the test sets it.
    pub now: Duration,
    /// How long a frame takes.
    pub late: Duration,
    /// What each client was sent and should have heard.
    sent: HashMap<ClientId, Vec<String>>,
    /// Of those that came and went.
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
                // It may be gone by now: its `Close` is in this tick, too.
                if server.set_user(client, &name).is_err() || server.send(client, &greeting).is_err() {
                    return;
                }
                self.names.insert(client, name);
                self.order.push(client);
                self.sent.insert(client, vec![greeting]);
                self.go(server, client, "lobby");
            }
            Event::Message { client, message: Message::Text(text) } => self.hear(server, client, text),
            Event::Close { client, .. } => {
                self.rooms.remove(&client);
                self.names.remove(&client);
            }
            Event::Timer { timer } => {
                let (set, due) = self.match_over.take().expect("a timer that is set");
                assert!(set == timer && (due..due + self.late).contains(&self.now), "at {:?}", self.now);
                for client in server.clients().collect::<Vec<_>>() {
                    // Those whose `Open` is yet to come have no name.
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

    fn hear(&mut self, server: &mut Server, client: ClientId, text: &str) {
        self.from.entry(client.to_string()).or_default().push(text.to_owned());
        if let Some(room) = text.strip_prefix("go ") {
            return self.go(server, client, room);
        }
        if self.match_over.is_none() {
            let wait = Duration::from_secs(3);
            self.match_over = Some((server.set_timer(wait), self.now + wait));
        }
        self.said += 1;
        let line = format!("{} {text}", self.said);
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

    /// Everyone who is still there has heard all that was sent to it, whole, once and in order, and was heard;
    /// those that have left have heard the beginning.
    pub fn check(&self, server: &Server, players: &[Player]) {
        for player in players {
            let Some(greeting) = player.heard.first() else { continue };
            let client = self.order.iter().find(|client| *greeting == format!("you are {client}"));
            let client = client.expect("a greeting of ours");
            let sent = &self.sent[client];
            let said = self.from.get(&client.to_string()).map_or(&[][..], |said| &said[..]);
            if player.is_there() {
                assert!(server.remote_addr(*client).is_some());
                assert_eq!((&player.heard, &player.said[..]), (sent, said));
            } else {
                assert!(sent.starts_with(&player.heard), "{:?} of {sent:?}", player.heard);
                assert!(player.said.starts_with(said), "{said:?} of {:?}", player.said);
            }
        }
    }
}

pub struct Player {
    client: SimClient,
    said: Vec<String>,
    heard: Vec<String>,
    leaves: bool,
}

impl Player {
    pub fn new(client: SimClient) -> Self {
        Player { client, said: Vec::new(), heard: Vec::new(), leaves: false }
    }

    pub fn act(&mut self, throws: &mut fastrand::Rng) {
        if self.leaves || self.client.status().is_none() || self.client.is_over() {
            return;
        }
        match throws.u8(..40) {
            0 => self.client.close(1000, "bye"),
            1 => self.client.finish(),
            2 => self.client.reset(),
            3..6 => return self.client.stall(),
            6..12 => return self.client.resume(),
            12..15 => return self.say(format!("go room{}", throws.u8(..3))),
            15 => return self.client.ping(b"?"),
            16..18 => return self.say("long ".repeat(throws.usize(..3000))),
            number => return self.say(format!("hello {number}")),
        }
        self.leaves = true;
    }

    fn say(&mut self, text: String) {
        self.client.send(&text);
        self.said.push(text);
    }

    pub fn listen(&mut self) {
        for received in self.client.received() {
            match received {
                Received::Text(text) => self.heard.push(text),
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
