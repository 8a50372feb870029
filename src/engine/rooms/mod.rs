//! Rooms and users: the engine's calls to the room registry.

pub(crate) mod registry;

use super::{Engine, Stream};
use crate::{
    engine::rooms::registry::{RegistryLimits, RoomRegistry},
    error::{JoinError, NotConnectedError},
    id::{ClientId, Room},
};

impl RegistryLimits {
    /// The limits for users: any number of them, but one for each client.
    pub(super) const USERS: RegistryLimits =
        RegistryLimits { rooms: usize::MAX, rooms_per_client: 1, name: usize::MAX };
}

impl<S: Stream> Engine<S> {
    /// The registry of rooms and their members.
    pub(crate) fn rooms(&self) -> &RoomRegistry {
        &self.rooms
    }

    /// The registry of users. A user is a room whose members are the connections of that user.
    pub(crate) fn users(&self) -> &RoomRegistry {
        &self.users
    }

    pub(crate) fn join(&mut self, id: ClientId, room: Room<'_>) -> Result<(), JoinError> {
        if self.may_join(id)? {
            self.rooms.join(id, room)?;
        }
        Ok(())
    }

    pub(crate) fn leave(&mut self, id: ClientId, room: Room<'_>) -> Result<bool, NotConnectedError> {
        Ok(self.may_join(id)? && self.rooms.leave(id, room))
    }

    pub(crate) fn leave_all(&mut self, id: ClientId) -> Result<usize, NotConnectedError> {
        Ok(if self.may_join(id)? { self.rooms.leave_all(id) } else { 0 })
    }

    /// Makes a client a connection of this user, and of no other.
    pub(crate) fn set_user(&mut self, id: ClientId, key: &str) -> Result<(), NotConnectedError> {
        if self.may_join(id)? && !self.users.contains(id, key.into()) {
            self.users.leave_all(id);
            let joined = self.users.join(id, key.into());
            debug_assert_eq!(joined, Ok(true), "users have no limits");
        }
        Ok(())
    }

    pub(crate) fn clear_user(&mut self, id: ClientId) -> Result<bool, NotConnectedError> {
        Ok(self.may_join(id)? && self.users.leave_all(id) > 0)
    }

    /// `false`: the client's `Close` was reported, so it has left all rooms and cannot join any.
    /// This is no error, because the application may still be handling earlier events of the same
    /// tick.
    fn may_join(&self, id: ClientId) -> Result<bool, NotConnectedError> {
        self.get(id).map(|client| client.is_live()).ok_or(NotConnectedError(id))
    }

    /// Removes a client that was reported closed from its rooms and from its user.
    pub(super) fn unregister(&mut self, id: ClientId) {
        self.rooms.leave_all(id);
        self.users.leave_all(id);
    }
}
