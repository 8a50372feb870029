//! message-io, after its example `throughput`: the network thread handles events, without a queue.

use std::collections::HashSet;

use message_io::{
    network::{NetEvent, Transport},
    node,
};

use super::{Mode, announce};
use crate::Outcome;

pub fn serve(mode: Mode) -> Outcome<()> {
    let (handler, listener) = node::split::<()>();
    let (_, addr) = handler.network().listen(Transport::Ws, "127.0.0.1:0")?;
    announce(addr)?;
    let mut clients = HashSet::new();
    listener.for_each(move |event| match event.network() {
        NetEvent::Accepted(client, _) => drop(clients.insert(client)),
        NetEvent::Message(client, bytes) => match mode {
            Mode::Echo => drop(handler.network().send(client, bytes)),
            Mode::Broadcast => {
                for client in &clients {
                    handler.network().send(*client, bytes);
                }
            }
        },
        NetEvent::Disconnected(client) => drop(clients.remove(&client)),
        NetEvent::Connected(..) => {}
    });
    Ok(())
}
