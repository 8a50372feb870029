//! The rooms of the chat, their members and messages: JSON envelopes `{"type": …, "data": …}` in
//! both directions.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tickws::{ClientId, Message, Prepared, Server};

/// The rooms that are kept, and the messages of each; with `MAX_TEXT` they bound the memory of the
/// chat.
const MAX_ROOMS: usize = 100;
const HISTORY: usize = 50;
/// Lengths in characters. A name must fit into a close reason of 123 bytes.
const MAX_NAME: usize = 24;
const MAX_TEXT: usize = 1000;

/// A message from a page.
#[derive(Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
enum Command {
    /// Enters a room under a name, and leaves the one before.
    Join {
        room: String,
        name: String,
    },
    Say(String),
    /// Closes every client of that name in the room. A real chat would check permissions.
    Kick(String),
}

/// A message to a page.
#[derive(Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
enum Update<'a> {
    Rooms(BTreeSet<&'a String>),
    Joined { room: &'a str, history: &'a VecDeque<Said> },
    Here(BTreeSet<&'a str>),
    Said(&'a Said),
    Error(&'a str),
}

#[derive(Serialize)]
struct Said {
    /// Milliseconds since 1970, unique within a room, so that a page that reconnects knows which
    /// messages it has.
    at: u64,
    who: String,
    text: String,
}

struct Person {
    name: String,
    room: String,
}

#[derive(Default)]
pub struct Hub {
    people: HashMap<ClientId, Person>,
    histories: HashMap<String, VecDeque<Said>>,
}

impl Hub {
    pub fn message(&mut self, server: &mut Server, client: ClientId, message: Message<'_>) {
        let command = match message {
            Message::Text(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
            Message::Binary(_) => Err("send text messages only".into()),
        };
        let outcome = command.and_then(|command| match command {
            Command::Join { room, name } => self.join(server, client, &room, &name),
            Command::Say(text) => self.say(server, client, &text),
            Command::Kick(name) => self.kick(server, client, &name),
        });
        if let Err(error) = outcome {
            // An error means that the client has left, and needs no message.
            let _ = server.send(client, json(&Update::Error(&error)));
        }
    }

    /// Does nothing for a client that has not joined.
    pub fn leave(&mut self, server: &mut Server, client: ClientId) {
        let Some(person) = self.people.remove(&client) else { return };
        // After the client's `Close` the server has removed it from its rooms already.
        let _ = server.leave(client, &person.room);
        self.publish_who_is_here(server, &person.room);
    }

    fn join(&mut self, server: &mut Server, client: ClientId, room: &str, name: &str) -> Result<(), String> {
        let (room, name) = (checked(room, MAX_NAME)?, checked(name, MAX_NAME)?);
        self.leave(server, client);
        let changed = self.make_room(server, room)?;
        server.join(client, room).map_err(|error| error.to_string())?;
        self.people.insert(client, Person { name: name.into(), room: room.into() });
        let joined = json(&Update::Joined { room, history: &self.histories[room] });
        let rooms = json(&Update::Rooms(self.histories.keys().collect()));
        server.send(client, joined).map_err(|error| error.to_string())?;
        if changed {
            let _ = server.broadcast(rooms);
        } else {
            server.send(client, rooms).map_err(|error| error.to_string())?;
        }
        self.publish_who_is_here(server, room);
        Ok(())
    }

    fn say(&mut self, server: &mut Server, client: ClientId, text: &str) -> Result<(), String> {
        let person = self.people.get(&client).ok_or("join a room first")?;
        let history = self.histories.get_mut(&person.room).ok_or("there is no such room")?;
        let text = checked(text, MAX_TEXT)?.to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let at = history.back().map_or(now, |last| now.max(last.at + 1));
        let said = Said { at, who: person.name.clone(), text };
        let _ = server.publish(&person.room, json(&Update::Said(&said)));
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(said);
        Ok(())
    }

    fn kick(&mut self, server: &mut Server, client: ClientId, name: &str) -> Result<(), String> {
        let by = self.people.get(&client).ok_or("join a room first")?;
        let reason = format!("kicked by {}", by.name);
        let kicked = |person: &Person| person.room == by.room && person.name == name;
        let mut found = Err(format!("nobody here is called {name}"));
        for (other, _) in self.people.iter().filter(|(_, person)| kicked(person)) {
            found = server.close(*other, 4001, &reason).map_err(|error| error.to_string());
        }
        found
    }

    /// Creates a room; `false` if it exists. An empty room keeps its history until its place is
    /// needed.
    fn make_room(&mut self, server: &Server, room: &str) -> Result<bool, String> {
        if self.histories.contains_key(room) {
            return Ok(false);
        }
        if self.histories.len() == MAX_ROOMS {
            let empty = self.histories.iter().filter(|(name, _)| server.room_len(*name) == 0);
            let oldest = empty.min_by_key(|(_, history)| history.back().map(|said| said.at));
            let oldest = oldest.map(|(name, _)| name.clone()).ok_or("there are too many rooms")?;
            self.histories.remove(&oldest);
        }
        self.histories.insert(room.into(), VecDeque::new());
        Ok(true)
    }

    fn publish_who_is_here(&self, server: &mut Server, room: &str) {
        let names = server.members(room).filter_map(|client| self.people.get(&client));
        let names = names.map(|person| person.name.as_str()).collect();
        let _ = server.publish(room, json(&Update::Here(names)));
    }
}

fn json(update: &Update<'_>) -> Prepared {
    let text = serde_json::to_string(update).expect("strings, numbers and lists of them");
    Prepared::new(&text)
}

/// Trims white space and checks the rest: not empty, not too long, and no control characters except
/// line breaks.
fn checked(text: &str, max: usize) -> Result<&str, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("the text is empty".into()),
        length if length > max => Err(format!("at most {max} characters, not {length}")),
        _ if text.contains(|c: char| c.is_control() && c != '\n') => Err("no control characters".into()),
        _ => Ok(text),
    }
}
