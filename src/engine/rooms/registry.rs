//! The room registry: which clients are in which rooms. It stores ids only.

#![allow(
    clippy::indexing_slicing,
    reason = "the slots in `joined` and `names` are existing rooms: a room that is removed is removed from both"
)]

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc};

use slab::Slab;

use crate::{
    error::JoinError,
    id::{ClientId, Room, RoomId, Serial},
};

/// The members of each room, and the rooms of each client.
///
/// A room is created when its first client joins and removed when its last one leaves. From then on
/// its [`RoomId`] is stale and matches no room, even if the name or the slot is reused.
///
/// The registry does not know which clients are connected: the caller must call
/// [`leave_all`](RoomRegistry::leave_all) when a client's connection ends. Clients are compared by
/// their whole ids. A client for which this call was missed stays a member, but the client that
/// reuses its index does not inherit its memberships, and a stale id affects no newer client.
///
/// The order of members and of a client's rooms is unspecified and changes as members leave. It is
/// deterministic: it depends only on the earlier calls.
///
/// # Cost
///
/// `join`, `leave` and all queries are O(1), with one hash of the name if the room is given by
/// name. `leave_all` is O(rooms of the client). Iterating over the members reads one `Vec` and
/// neither hashes nor allocates.
///
/// An empty registry owns no memory. Otherwise memory is proportional to the number of memberships:
/// tables that are mostly empty shrink, in amortised O(1). Only the slab of rooms, some 50 bytes
/// per room, keeps its largest size until no room is left.
pub(crate) struct RoomRegistry {
    limits: RegistryLimits,
    rooms: Slab<Group>,
    /// The slot in `rooms` of each name.
    names: HashMap<Arc<str>, u32>,
    /// The slots of the rooms that a client is in. No list is empty.
    joined: HashMap<ClientId, Vec<u32>>,
    /// One entry for each membership, so that neither list need be searched.
    places: HashMap<(ClientId, u32), Place>,
    /// The serial of the next room.
    next_serial: Serial,
}

/// The limits of a [`RoomRegistry`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct RegistryLimits {
    pub(crate) rooms: usize,
    pub(crate) rooms_per_client: usize,
    /// The longest name, in bytes.
    pub(crate) name: usize,
}

#[derive(Debug)]
struct Group {
    serial: Serial,
    /// Shared with the key in `names`.
    name: Arc<str>,
    /// Never empty.
    members: Vec<ClientId>,
}

/// The positions of one membership in the two lists.
#[derive(Debug)]
struct Place {
    /// The position in the room's `members`.
    in_room: u32,
    /// The position in the client's list in `joined`.
    in_client: u32,
}

impl RoomRegistry {
    pub(crate) fn new(limits: RegistryLimits) -> Self {
        RoomRegistry {
            limits,
            rooms: Slab::new(),
            names: HashMap::new(),
            joined: HashMap::new(),
            places: HashMap::new(),
            next_serial: Serial::new(0),
        }
    }

    /// Adds a connected client to a room. Returns `Ok(false)` if it is a member already.
    ///
    /// # Errors
    ///
    /// A limit is reached (the client's is checked first), or the [`RoomId`] is stale. Nothing has
    /// changed then.
    pub(crate) fn join(&mut self, client: ClientId, room: Room<'_>) -> Result<bool, JoinError> {
        let found = self.slot(room);
        if found.is_some_and(|slot| self.places.contains_key(&(client, slot))) {
            return Ok(false);
        }
        let max = self.limits.rooms_per_client;
        if self.joined.get(&client).map_or(0, Vec::len) >= max {
            return Err(JoinError::TooManyForClient { client, max });
        }
        let slot = match (found, room) {
            (Some(slot), _) => slot,
            (None, Room::Name(name)) => self.begin(name)?,
            (None, Room::Id(id)) => return Err(JoinError::NoSuchRoom(id)),
        };
        let members = &mut self.rooms[slot as usize].members;
        let rooms = self.joined.entry(client).or_default();
        let place = Place { in_room: members.len() as u32, in_client: rooms.len() as u32 };
        members.push(client);
        rooms.push(slot);
        self.places.insert((client, slot), place);
        Ok(true)
    }

    /// Removes a client from a room. Returns `false` if it was not a member or there is no such
    /// room.
    pub(crate) fn leave(&mut self, client: ClientId, room: Room<'_>) -> bool {
        let Some(slot) = self.slot(room) else { return false };
        let Some(place) = self.places.remove(&(client, slot)) else { return false };
        if let Some(rooms) = self.joined.get_mut(&client) {
            if let Some(moved) = take(rooms, place.in_client)
                && let Some(moved) = self.places.get_mut(&(client, moved))
            {
                moved.in_client = place.in_client;
            }
            if rooms.is_empty() {
                self.joined.remove(&client);
            }
        }
        self.remove_member(slot, place.in_room);
        self.shrink();
        true
    }

    /// Removes a client from all rooms and returns how many there were.
    pub(crate) fn leave_all(&mut self, client: ClientId) -> usize {
        let Some(rooms) = self.joined.remove(&client) else { return 0 };
        for &slot in &rooms {
            if let Some(place) = self.places.remove(&(client, slot)) {
                self.remove_member(slot, place.in_room);
            }
        }
        self.shrink();
        rooms.len()
    }

    /// The members of a room, in unspecified order. Empty for an unknown room.
    pub(crate) fn members<'h>(&'h self, room: Room<'_>) -> impl ExactSizeIterator<Item = ClientId> + use<'h> {
        let members = self.slot(room).map_or(&[][..], |slot| &self.rooms[slot as usize].members);
        members.iter().copied()
    }

    /// The names of the rooms that a client is in, in unspecified order.
    pub(crate) fn rooms(&self, client: ClientId) -> impl ExactSizeIterator<Item = &str> {
        let rooms = self.joined.get(&client).map_or(&[][..], Vec::as_slice);
        rooms.iter().map(|&slot| &*self.rooms[slot as usize].name)
    }

    pub(crate) fn find(&self, name: &str) -> Option<RoomId> {
        let slot = self.slot(Room::Name(name))?;
        Some(RoomId::new(slot, self.rooms[slot as usize].serial))
    }

    /// The name of a room; `None` if the id is stale.
    pub(crate) fn name(&self, id: RoomId) -> Option<&str> {
        let slot = self.slot(Room::Id(id))?;
        Some(&self.rooms[slot as usize].name)
    }

    pub(crate) fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// The number of members; 0 for an unknown room.
    pub(crate) fn room_len(&self, room: Room<'_>) -> usize {
        self.members(room).len()
    }

    pub(crate) fn contains(&self, client: ClientId, room: Room<'_>) -> bool {
        self.slot(room).is_some_and(|slot| self.places.contains_key(&(client, slot)))
    }

    /// All clients that are in a room.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn everyone(&self) -> impl Iterator<Item = ClientId> {
        self.joined.keys().copied()
    }

    fn slot(&self, room: Room<'_>) -> Option<u32> {
        match room {
            Room::Name(name) => self.names.get(name).copied(),
            Room::Id(id) => {
                let group = self.rooms.get(id.index())?;
                (group.serial == id.serial()).then_some(id.index() as u32)
            }
        }
    }

    /// Creates a room without members. The caller must add the first one.
    fn begin(&mut self, name: &str) -> Result<u32, JoinError> {
        if name.len() > self.limits.name {
            return Err(JoinError::NameTooLong { len: name.len(), max: self.limits.name });
        }
        // A slot is a u32 everywhere, however generous the limit.
        let max = self.limits.rooms.min(u32::MAX as usize);
        if self.rooms.len() >= max {
            return Err(JoinError::TooManyRooms { max });
        }
        let name: Arc<str> = name.into();
        let serial = self.next_serial.take();
        let group = Group { serial, name: Arc::clone(&name), members: Vec::new() };
        let slot = self.rooms.insert(group) as u32;
        self.names.insert(name, slot);
        Ok(slot)
    }

    /// Removes a member from the room's list, and the room if it was the last member.
    fn remove_member(&mut self, slot: u32, position: u32) {
        let members = &mut self.rooms[slot as usize].members;
        if let Some(moved) = take(members, position)
            && let Some(moved) = self.places.get_mut(&(moved, slot))
        {
            moved.in_room = position;
        }
        if members.is_empty() {
            let group = self.rooms.remove(slot as usize);
            self.names.remove(&group.name);
        }
    }

    /// Frees memory that is no longer needed.
    fn shrink(&mut self) {
        if self.rooms.is_empty() {
            *self = RoomRegistry { next_serial: self.next_serial, ..RoomRegistry::new(self.limits) };
        }
        shrink(&mut self.names);
        shrink(&mut self.joined);
        shrink(&mut self.places);
    }
}

/// Omits names and members, which may be private and would flood a log.
impl fmt::Debug for RoomRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomRegistry")
            .field("limits", &self.limits)
            .field("rooms", &self.rooms.len())
            .field("memberships", &self.places.len())
            .finish_non_exhaustive()
    }
}

/// Removes an element from an unordered list, and returns the element that took its position.
fn take<T: Copy>(list: &mut Vec<T>, position: u32) -> Option<T> {
    list.swap_remove(position as usize);
    if is_vast(list.len(), list.capacity()) {
        list.shrink_to(2 * list.len());
    }
    list.get(position as usize).copied()
}

fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if is_vast(table.len(), table.capacity()) {
        table.shrink_to(2 * table.len());
    }
}

/// Whether so little of a capacity is used that the removals pay for moving the rest. A small
/// capacity is kept, because it would soon be needed again.
fn is_vast(len: usize, capacity: usize) -> bool {
    capacity > 64 && len < capacity / 8
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
