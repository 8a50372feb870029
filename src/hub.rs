//! Rooms: groups of clients by name. Knows ids only.

#![allow(
    clippy::indexing_slicing,
    reason = "a member's slots, and what `by_name` gives, are rooms that are there: a room that goes is taken out of both"
)]

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc};

use slab::Slab;

use crate::{
    error::JoinError,
    id::{ClientId, Room, RoomId},
};

/// Who is in which room.
///
/// A room begins when its first client joins and vanishes when its last one leaves; its [`RoomId`] is stale
/// from then on and finds nothing, also when the name or the slot is used again.
///
/// The hub does not know who is connected: whoever lets a client join calls [`leave_all`](Hub::leave_all) at
/// its end. Clients are told apart by their whole ids, so one that was forgotten here stays a member but lends
/// nothing to the client that takes over its index, and a stale id touches no newer client.
///
/// The order of members, and that of a client's rooms, has no meaning and changes as others leave. It depends
/// on nothing but the calls before.
///
/// # Cost
///
/// `join`, `leave` and all questions are O(1), with one hash of the name if the room is meant by name;
/// `leave_all` is O(rooms of the client). Walking the members reads one `Vec` and neither hashes nor allocates.
///
/// A hub without members owns nothing. Otherwise memory follows the number of memberships: tables that are
/// mostly empty shrink, in amortised O(1). Only the slab of rooms, some 50 bytes for each, stays as long as it
/// ever was until no room is left.
pub(crate) struct Hub {
    limits: HubLimits,
    rooms: Slab<Group>,
    /// The slot in `rooms` of each name.
    names: HashMap<Arc<str>, u32>,
    /// The slots of the rooms that a client is in. No list is empty.
    joined: HashMap<ClientId, Vec<u32>>,
    /// One for each membership, so that neither list need be searched.
    places: HashMap<(ClientId, u32), Place>,
    /// Of the next room. A stale id could match again only after exactly 2^32 rooms.
    next_serial: u32,
}

/// What a [`Hub`] holds at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HubLimits {
    pub(crate) rooms: usize,
    pub(crate) rooms_per_client: usize,
    /// Bytes of a name.
    pub(crate) name: usize,
}

#[derive(Debug)]
struct Group {
    serial: u32,
    /// Shared with the key in `names`.
    name: Arc<str>,
    /// Never empty.
    members: Vec<ClientId>,
}

/// Where the two lists mention one membership.
#[derive(Debug)]
struct Place {
    /// The position in the room's `members`.
    in_room: u32,
    /// The position in the client's list in `joined`.
    in_client: u32,
}

impl Hub {
    pub(crate) fn new(limits: HubLimits) -> Self {
        Hub {
            limits,
            rooms: Slab::new(),
            names: HashMap::new(),
            joined: HashMap::new(),
            places: HashMap::new(),
            next_serial: 0,
        }
    }

    /// Makes a connected client a member. `Ok(false)`: it was one already.
    ///
    /// # Errors
    ///
    /// A cap is reached, that of the client being looked at first, or the [`RoomId`] is stale. Nothing has
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

    /// `false` if the client was no member, or there is no such room.
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

    /// Ends all memberships of a client and tells how many there were.
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

    /// The members, in no meaningful order. None for an unknown room.
    pub(crate) fn members<'h>(&'h self, room: Room<'_>) -> impl ExactSizeIterator<Item = ClientId> + use<'h> {
        let members = self.slot(room).map_or(&[][..], |slot| &self.rooms[slot as usize].members);
        members.iter().copied()
    }

    /// The names of the rooms that a client is in, in no meaningful order.
    pub(crate) fn rooms(&self, client: ClientId) -> impl ExactSizeIterator<Item = &str> {
        let rooms = self.joined.get(&client).map_or(&[][..], Vec::as_slice);
        rooms.iter().map(|&slot| &*self.rooms[slot as usize].name)
    }

    pub(crate) fn find(&self, name: &str) -> Option<RoomId> {
        let slot = self.slot(Room::Name(name))?;
        Some(RoomId::new(slot, self.rooms[slot as usize].serial))
    }

    /// `None` if the id is stale.
    pub(crate) fn name(&self, id: RoomId) -> Option<&str> {
        let slot = self.slot(Room::Id(id))?;
        Some(&self.rooms[slot as usize].name)
    }

    pub(crate) fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// 0 for an unknown room.
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

    /// A room that is new, and without members: the caller adds the first one.
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
        let group = Group { serial: self.next_serial, name: Arc::clone(&name), members: Vec::new() };
        self.next_serial = self.next_serial.wrapping_add(1);
        let slot = self.rooms.insert(group) as u32;
        self.names.insert(name, slot);
        Ok(slot)
    }

    /// Takes a member out of the room's list, and the room out of the hub if it was the last.
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

    /// Gives back what a fuller hub needed.
    fn shrink(&mut self) {
        if self.rooms.is_empty() {
            *self = Hub { next_serial: self.next_serial, ..Hub::new(self.limits) };
        }
        shrink(&mut self.names);
        shrink(&mut self.joined);
        shrink(&mut self.places);
    }
}

/// Not the names and the members: they say too much to a reader of a log.
impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("limits", &self.limits)
            .field("rooms", &self.rooms.len())
            .field("memberships", &self.places.len())
            .finish_non_exhaustive()
    }
}

/// Takes an element out of a list without order, and gives the one that now has its position.
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

/// Whether so little of a capacity is used that moving the rest is paid for by those that left. A small
/// capacity is kept: it would soon be wanted again.
fn is_vast(len: usize, capacity: usize) -> bool {
    capacity > 64 && len < capacity / 8
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;
