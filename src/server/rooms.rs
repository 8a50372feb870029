//! Rooms and users: membership, and messages to their members.

use super::Server;
use crate::{
    config::{
        audience::Audience,
        send_options::{LatestKey, SendOptions},
    },
    error::{JoinError, NotConnectedError},
    event::delivery::Delivery,
    id::{ClientId, Room, RoomId},
    outbox::outgoing::AsMessage,
};

impl Server {
    // ---- rooms ----

    /// Makes the client a member of a room; has no effect if it is one. A room begins with its
    /// first member and ends with its last. A client leaves all rooms before its `Close` event is
    /// handed out; a join while that event is in the current tick succeeds without effect. Work:
    /// O(1).
    ///
    /// # Errors
    ///
    /// [`JoinError`]: the id is stale, a limit is reached, or the [`RoomId`] is of a room that has
    /// ended. Nothing has changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, JoinError, Server};
    ///
    /// fn enter(server: &mut Server, client: ClientId) -> Result<(), JoinError> {
    ///     server.join(client, "lobby")?;
    ///     let delivery = server.publish_except("lobby", client, "someone came in");
    ///     println!("{} others are here", delivery.queued);
    ///     Ok(())
    /// }
    /// ```
    pub fn join<'r>(&mut self, client: ClientId, room: impl Into<Room<'r>>) -> Result<(), JoinError> {
        self.engine.join(client, room.into())
    }

    /// Ends a membership; `false` if there was none. Work: O(1).
    ///
    /// # Errors
    ///
    /// The client's id is stale.
    pub fn leave<'r>(
        &mut self,
        client: ClientId,
        room: impl Into<Room<'r>>,
    ) -> Result<bool, NotConnectedError> {
        self.engine.leave(client, room.into())
    }

    /// Ends all memberships of a client, and returns their number. Work: O(their number).
    ///
    /// # Errors
    ///
    /// The client's id is stale.
    pub fn leave_all(&mut self, client: ClientId) -> Result<usize, NotConnectedError> {
        self.engine.leave_all(client)
    }

    /// Queues a message for every member of a room. It is framed once, and all slow members share
    /// one copy of a large message. [`Delivery`] counts the members that get it; a room that does
    /// not exist has none. Work: O(members).
    pub fn publish<'r>(&mut self, room: impl Into<Room<'r>>, message: impl AsMessage) -> Delivery {
        self.deliver(room.into(), message, &SendOptions::new())
    }

    /// As [`publish`](Server::publish), for all members but one: usually the one that sent the
    /// message.
    pub fn publish_except<'r>(
        &mut self,
        room: impl Into<Room<'r>>,
        except: ClientId,
        message: impl AsMessage,
    ) -> Delivery {
        self.deliver(room.into(), message, &SendOptions::new().except(except))
    }

    /// As [`publish`](Server::publish), but for each member the message replaces the one with the
    /// same key, if that has not begun to leave: see [`send_latest`](Server::send_latest).
    ///
    /// # Examples
    ///
    /// ```
    /// fn frame(server: &mut tickws::Server, positions: &[u8]) {
    ///     // The next frame replaces it.
    ///     let _ = server.publish_latest("match 7", "positions", positions);
    /// }
    /// ```
    pub fn publish_latest<'r>(
        &mut self,
        room: impl Into<Room<'r>>,
        key: impl Into<LatestKey>,
        message: impl AsMessage,
    ) -> Delivery {
        self.deliver(room.into(), message, &SendOptions::new().latest(key))
    }

    /// The members of a room, in no particular order.
    pub fn members<'r>(&self, room: impl Into<Room<'r>>) -> impl ExactSizeIterator<Item = ClientId> {
        self.engine.rooms().members(room.into())
    }

    /// The names of the rooms that a client is in, in no particular order; none for a stale id.
    pub fn rooms(&self, client: ClientId) -> impl ExactSizeIterator<Item = &str> {
        self.engine.rooms().rooms(client)
    }

    /// The number of rooms.
    pub fn room_count(&self) -> usize {
        self.engine.rooms().room_count()
    }

    /// The number of members of a room; 0 if it does not exist.
    pub fn room_len<'r>(&self, room: impl Into<Room<'r>>) -> usize {
        self.engine.rooms().room_len(room.into())
    }

    /// The current id of the room with this name; `None` if there is no such room. Calls that take
    /// the id save the look-up of the name.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let server = tickws::Server::bind("127.0.0.1:0")?;
    /// assert_eq!(server.room("lobby"), None); // no such room
    /// # Ok(())
    /// # }
    /// ```
    pub fn room(&self, name: &str) -> Option<RoomId> {
        self.engine.rooms().find(name)
    }

    /// The name of a room; `None` if the room has ended.
    pub fn room_name(&self, room: RoomId) -> Option<&str> {
        self.engine.rooms().name(room)
    }

    // ---- users ----

    /// Makes the connection one of this user's; the key is any string that names a user to the
    /// application. A user may have many connections, but a connection has one user, the last that
    /// was set. It is cleared before the client's `Close` event is handed out, as with
    /// [`join`](Server::join). Work: O(1).
    ///
    /// # Errors
    ///
    /// The client's id is stale.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, NotConnectedError, Server};
    ///
    /// fn signed_in(server: &mut Server, client: ClientId) -> Result<(), NotConnectedError> {
    ///     server.set_user(client, "ada")?;
    ///     // On all of them.
    ///     let _ = server.send_to_user("ada", "you signed in on one more device");
    ///     Ok(())
    /// }
    /// ```
    pub fn set_user(&mut self, client: ClientId, key: impl AsRef<str>) -> Result<(), NotConnectedError> {
        self.engine.set_user(client, key.as_ref())
    }

    /// Clears the user of a connection; `false` if none was set.
    ///
    /// # Errors
    ///
    /// The client's id is stale.
    pub fn clear_user(&mut self, client: ClientId) -> Result<bool, NotConnectedError> {
        self.engine.clear_user(client)
    }

    /// The user of a connection, if one was set.
    pub fn user(&self, client: ClientId) -> Option<&str> {
        self.engine.users().rooms(client).next()
    }

    /// Queues a message for all connections of a user. Work: O(their number).
    pub fn send_to_user(&mut self, key: impl AsRef<str>, message: impl AsMessage) -> Delivery {
        self.deliver(Audience::User(key.as_ref()), message, &SendOptions::new())
    }

    /// As [`send_to_user`](Server::send_to_user), but on each connection the message replaces the
    /// one with the same `latest` key: see [`send_latest`](Server::send_latest).
    pub fn send_latest_to_user(
        &mut self,
        key: impl AsRef<str>,
        latest: impl Into<LatestKey>,
        message: impl AsMessage,
    ) -> Delivery {
        self.deliver(Audience::User(key.as_ref()), message, &SendOptions::new().latest(latest))
    }

    /// The connections of a user, in no particular order.
    pub fn clients_of(&self, key: impl AsRef<str>) -> impl ExactSizeIterator<Item = ClientId> {
        self.engine.users().members(key.as_ref().into())
    }
}
