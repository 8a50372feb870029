//! The clients that a message is for.

use crate::id::{ClientId, Room, RoomId};

/// The clients that a message is for. [`Server::deliver`](crate::Server::deliver) takes it.
///
/// # Examples
///
/// ```
/// use tickws::{Audience, ClientId, SendOptions, Server};
///
/// fn tell(server: &mut Server, team: &[ClientId]) {
///     let options = SendOptions::new();
///     let everyone = server.deliver(Audience::Everyone, "it begins", &options);
///     let room = server.deliver(Audience::Room("lobby".into()), "one moment", &options);
///     let user = server.deliver(Audience::User("ada"), "on all your devices", &options);
///     let some = server.deliver(team, "you are red", &options);
///     println!("{everyone:?} {room:?} {user:?} {some:?}");
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Audience<'a> {
    /// All open clients.
    Everyone,
    /// This client.
    Client(ClientId),
    /// These clients. One that is listed twice gets the message twice.
    Clients(&'a [ClientId]),
    /// The members of a room.
    Room(Room<'a>),
    /// The connections of the user with this key.
    User(&'a str),
}

/// An [`Audience`] that owns its names and ids.
/// [`Handle::deliver`](crate::Handle::deliver) takes it, because its message may be queued after
/// the call.
///
/// # Examples
///
/// ```
/// use tickws::{Audience, Handle, HandleError, OwnedAudience, SendOptions};
///
/// fn announce(handle: &Handle, user: String) -> Result<(), HandleError> {
///     handle.deliver(OwnedAudience::User(user), "you have mail", &SendOptions::new())?;
///     handle.deliver(Audience::Room("lobby".into()), "someone has mail", &SendOptions::new())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnedAudience {
    /// All open clients.
    Everyone,
    /// This client.
    Client(ClientId),
    /// These clients. One that is listed twice gets the message twice.
    Clients(Vec<ClientId>),
    /// The members of the room that has this name when the message is queued.
    Room(String),
    /// The members of this room and no other.
    RoomId(RoomId),
    /// The connections of the user with this key.
    User(String),
}

impl OwnedAudience {
    /// The same audience, borrowed.
    pub fn as_audience(&self) -> Audience<'_> {
        match self {
            OwnedAudience::Everyone => Audience::Everyone,
            OwnedAudience::Client(client) => Audience::Client(*client),
            OwnedAudience::Clients(clients) => Audience::Clients(clients),
            OwnedAudience::Room(name) => Audience::Room(Room::Name(name)),
            OwnedAudience::RoomId(id) => Audience::Room(Room::Id(*id)),
            OwnedAudience::User(key) => Audience::User(key),
        }
    }
}

impl From<Audience<'_>> for OwnedAudience {
    fn from(audience: Audience<'_>) -> Self {
        match audience {
            Audience::Everyone => OwnedAudience::Everyone,
            Audience::Client(client) => OwnedAudience::Client(client),
            Audience::Clients(clients) => OwnedAudience::Clients(clients.to_vec()),
            Audience::Room(Room::Name(name)) => OwnedAudience::Room(name.to_owned()),
            Audience::Room(Room::Id(id)) => OwnedAudience::RoomId(id),
            Audience::User(key) => OwnedAudience::User(key.to_owned()),
        }
    }
}

impl From<ClientId> for Audience<'_> {
    fn from(client: ClientId) -> Self {
        Audience::Client(client)
    }
}

impl<'a> From<&'a [ClientId]> for Audience<'a> {
    fn from(clients: &'a [ClientId]) -> Self {
        Audience::Clients(clients)
    }
}

impl<'a, const N: usize> From<&'a [ClientId; N]> for Audience<'a> {
    fn from(clients: &'a [ClientId; N]) -> Self {
        Audience::Clients(clients)
    }
}

impl<'a> From<&'a Vec<ClientId>> for Audience<'a> {
    fn from(clients: &'a Vec<ClientId>) -> Self {
        Audience::Clients(clients)
    }
}

impl<'a> From<Room<'a>> for Audience<'a> {
    fn from(room: Room<'a>) -> Self {
        Audience::Room(room)
    }
}

impl From<RoomId> for Audience<'_> {
    fn from(room: RoomId) -> Self {
        Audience::Room(Room::Id(room))
    }
}

impl<'a> From<&'a OwnedAudience> for Audience<'a> {
    fn from(audience: &'a OwnedAudience) -> Self {
        audience.as_audience()
    }
}

impl From<ClientId> for OwnedAudience {
    fn from(client: ClientId) -> Self {
        OwnedAudience::Client(client)
    }
}

impl From<Vec<ClientId>> for OwnedAudience {
    fn from(clients: Vec<ClientId>) -> Self {
        OwnedAudience::Clients(clients)
    }
}

impl From<RoomId> for OwnedAudience {
    fn from(room: RoomId) -> Self {
        OwnedAudience::RoomId(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Serial;

    #[test]
    fn an_owned_audience_is_the_one_that_it_was_made_of() {
        let (client, room) = (ClientId::new(1, Serial::new(2)), RoomId::new(3, Serial::new(4)));
        for audience in [
            Audience::Everyone,
            client.into(),
            (&[client, client]).into(),
            Room::Name("lobby").into(),
            room.into(),
            Audience::User("ada"),
        ] {
            assert_eq!(OwnedAudience::from(audience).as_audience(), audience);
        }
    }
}
