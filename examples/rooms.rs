//! Chat rooms by JSON commands.
//!
//! ```sh
//! cargo run --release --example rooms --features json [-- ADDR]
//! ```
//!
//! Then, with any WebSocket client at `ws://127.0.0.1:9001/`, one message a line:
//!
//! ```json
//! {"type": "name", "data": "ada"}
//! {"type": "join", "data": "lobby"}
//! {"type": "say", "data": {"room": "lobby", "text": "hello"}}
//! {"type": "tell", "data": {"user": "ada", "text": "on all of your devices"}}
//! {"type": "leave", "data": "lobby"}
//! ```

use std::{collections::HashMap, error::Error};

use serde::{Deserialize, Serialize};
use tickws::{ClientId, Envelope, Event, JsonError, Message, Prepared, Server};

/// What a client may say.
#[derive(Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
enum Command {
    Name(String),
    Join(String),
    Say { room: String, text: String },
    Tell { user: String, text: String },
    Leave(String),
}

/// What it hears.
#[derive(Serialize)]
struct Said<'a> {
    room: &'a str,
    who: &'a str,
    text: &'a str,
}

#[derive(Default)]
struct Person {
    name: String,
    /// The server knows, too, but only until the `Close` event.
    rooms: Vec<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:9001".to_string());
    let mut server = Server::builder().max_message_size(4096).bind(addr)?;
    println!("listening on ws://{}/", server.local_addrs()[0]);
    let mut people: HashMap<ClientId, Person> = HashMap::new();
    server.run(|server, event| match event {
        Event::Open { client, .. } => {
            people.insert(client, Person { name: client.to_string(), rooms: Vec::new() });
        }
        Event::Message { client, message } => {
            let person = people.entry(client).or_default();
            let done = message.parse_json().map_err(Into::into);
            if let Err(error) = done.and_then(|command| obey(server, client, person, command)) {
                // The client is told what is wrong; if it has left, nobody is.
                let _ = reply(&error.to_string()).map(|text| server.send(client, text));
            }
        }
        Event::Close { client, .. } => {
            let person = people.remove(&client).unwrap_or_default();
            for room in &person.rooms {
                let _ = announce(server, room, &person.name, "left");
            }
        }
        _ => {}
    })?;
    Ok(())
}

fn obey(
    server: &mut Server,
    client: ClientId,
    person: &mut Person,
    command: Command,
) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Name(name) => {
            server.set_user(client, &name)?;
            person.name = name;
        }
        Command::Join(room) => {
            server.join(client, &room)?;
            announce(server, &room, &person.name, "joined")?;
            person.rooms.push(room);
        }
        Command::Say { room, text } if person.rooms.contains(&room) => {
            announce(server, &room, &person.name, &text)?
        }
        Command::Say { room, .. } => return Err(format!("join {room:?} first").into()),
        Command::Tell { user, text } => {
            let heard = server.send_to_user(&user, reply(&format!("{}: {text}", person.name))?);
            println!("{} told {user} on {} devices", person.name, heard.queued);
        }
        Command::Leave(room) => {
            server.leave(client, &room)?;
            person.rooms.retain(|other| *other != room);
            announce(server, &room, &person.name, "left")?;
        }
    }
    Ok(())
}

fn announce(server: &mut Server, room: &str, who: &str, text: &str) -> Result<(), JsonError> {
    let said = Message::json(&Envelope::new("said", Said { room, who, text }))?;
    server.publish(room, said);
    Ok(())
}

fn reply(text: &str) -> Result<Prepared, JsonError> {
    Message::json(&Envelope::new("reply", text))
}
