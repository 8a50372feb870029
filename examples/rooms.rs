//! Chat rooms with JSON commands.
//!
//! ```sh
//! cargo run --release --example rooms --features json [-- ADDR]
//! ```
//!
//! Then, with any WebSocket client at `ws://127.0.0.1:9001/`, send one message per line:
//!
//! ```json
//! {"type": "name", "data": "ada"}
//! {"type": "join", "data": "lobby"}
//! {"type": "say", "data": {"room": "lobby", "text": "hello"}}
//! {"type": "tell", "data": {"user": "ada", "text": "on all of your devices"}}
//! {"type": "leave", "data": "lobby"}
//! ```

#[path = "support/tls.rs"]
mod tls;

use std::{collections::HashMap, error::Error};

use serde::{Deserialize, Serialize};
use tickws::{ClientId, Envelope, Event, JsonError, Prepared, Server};
use tls::Security;

/// A message from a client.
#[derive(Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
enum Command {
    Name(String),
    Join(String),
    Say { room: String, text: String },
    Tell { user: String, text: String },
    Leave(String),
}

/// A message to the members of a room.
#[derive(Serialize)]
struct Said<'a> {
    room: &'a str,
    who: &'a str,
    text: &'a str,
}

#[derive(Default)]
struct Person {
    name: String,
    /// The rooms that were joined. The server has left them all by the time of the `Close` event.
    rooms: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (security, args) = Security::from_args()?;
    let addr = args.first().map_or("127.0.0.1:9001", String::as_str);
    let s = security.s();
    let mut server = security.bind(Server::builder().max_message_size(4096), addr)?;
    println!("listening on ws{s}://{}/", server.local_addrs()[0]);
    let mut people: HashMap<ClientId, Person> = HashMap::new();
    server.run(|server, event| match event {
        Event::Open { client, .. } => {
            people.insert(client, Person { name: client.to_string(), rooms: Vec::new() });
        }
        Event::Message { client, message } => {
            let person = people.entry(client).or_default();
            let command = message.parse_json().map_err(Into::into);
            if let Err(error) = command.and_then(|command| execute(server, client, person, command)) {
                // The client is told the error. If it has left, the reply is dropped.
                let _ = reply(&error.to_string()).map(|text| server.send(client, text));
            }
        }
        Event::Close { client, .. } => {
            let Person { name, rooms } = people.remove(&client).unwrap_or_default();
            rooms.iter().for_each(|room| announce(server, room, &name, "left").unwrap_or_default());
        }
        _ => {}
    })?;
    Ok(())
}

fn execute(
    server: &mut Server,
    id: ClientId,
    who: &mut Person,
    command: Command,
) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Name(name) => {
            server.set_user(id, &name)?;
            who.name = name;
        }
        Command::Join(room) if who.rooms.contains(&room) => {}
        Command::Join(room) => {
            server.join(id, &room)?;
            announce(server, &room, &who.name, "joined")?;
            who.rooms.push(room);
        }
        Command::Say { room, text } if who.rooms.contains(&room) => {
            announce(server, &room, &who.name, &text)?
        }
        Command::Tell { user, text } => {
            let _ = server.send_to_user(&user, reply(&format!("{}: {text}", who.name))?);
        }
        Command::Leave(room) if who.rooms.contains(&room) => {
            announce(server, &room, &who.name, "left")?;
            server.leave(id, &room)?;
            who.rooms.retain(|other| *other != room);
        }
        Command::Say { room, .. } | Command::Leave(room) => return Err(format!("join {room:?} first").into()),
    }
    Ok(())
}

fn announce(server: &mut Server, room: &str, who: &str, text: &str) -> Result<(), JsonError> {
    let said = Prepared::json(&Envelope::new("said", Said { room, who, text }))?;
    let _ = server.publish(room, said);
    Ok(())
}

fn reply(text: &str) -> Result<Prepared, JsonError> {
    Prepared::json(&Envelope::new("reply", text))
}
