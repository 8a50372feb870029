//! Rooms and users: the engine's side of the hub.

use super::{Engine, Stream};
use crate::{
    error::{JoinError, NotConnected},
    hub::{Hub, HubLimits},
    id::{ClientId, Room},
};

impl HubLimits {
    /// For users: there are as many as clients, and each client is one.
    pub(super) const USERS: HubLimits =
        HubLimits { rooms: usize::MAX, rooms_per_client: 1, name: usize::MAX };
}

impl<S: Stream> Engine<S> {
    /// Who is in which room.
    pub(crate) fn rooms(&self) -> &Hub {
        &self.rooms
    }

    /// Who is which user; a user is a room that its connections are in.
    pub(crate) fn users(&self) -> &Hub {
        &self.users
    }

    pub(crate) fn join(&mut self, id: ClientId, room: Room<'_>) -> Result<(), JoinError> {
        if self.is_member_material(id).map_err(|NotConnected(id)| JoinError::NotConnected(id))? {
            self.rooms.join(id, room)?;
        }
        Ok(())
    }

    pub(crate) fn leave(&mut self, id: ClientId, room: Room<'_>) -> Result<bool, NotConnected> {
        Ok(self.is_member_material(id)? && self.rooms.leave(id, room))
    }

    pub(crate) fn leave_all(&mut self, id: ClientId) -> Result<usize, NotConnected> {
        Ok(if self.is_member_material(id)? { self.rooms.leave_all(id) } else { 0 })
    }

    /// Makes a client a connection of that user, and of no other.
    pub(crate) fn set_user(&mut self, id: ClientId, key: &str) -> Result<(), NotConnected> {
        if self.is_member_material(id)? && !self.users.contains(id, key.into()) {
            self.users.leave_all(id);
            let joined = self.users.join(id, key.into());
            debug_assert_eq!(joined, Ok(true), "users have no limits");
        }
        Ok(())
    }

    pub(crate) fn clear_user(&mut self, id: ClientId) -> Result<bool, NotConnected> {
        Ok(self.is_member_material(id)? && self.users.leave_all(id) > 0)
    }

    /// `false`: its end has been reported, so it has left everything and joins nothing any more. That is no
    /// error: the application is still looking at what it said before.
    fn is_member_material(&self, id: ClientId) -> Result<bool, NotConnected> {
        self.get(id).map(|client| client.is_live()).ok_or(NotConnected(id))
    }

    /// It is gone: nobody must find it.
    pub(super) fn forget_groups(&mut self, id: ClientId) {
        self.rooms.leave_all(id);
        self.users.leave_all(id);
    }
}
