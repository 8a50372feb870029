//! Tests of the single rules, then of all of them against a naive model.
//!
//! `TICKWS_ROOMS_SEEDS=20000 cargo test --lib registry` tries more; a failure prints the seed that
//! repeats it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::util::test_rng::Rng;

const LIMITS: RegistryLimits = RegistryLimits { rooms: 3, rooms_per_client: 2, name: 5 };
const AMPLE: RegistryLimits = RegistryLimits { rooms: usize::MAX, rooms_per_client: usize::MAX, name: 100 };

fn client(index: u32) -> ClientId {
    ClientId::new(index, Serial::new(index.into()))
}

impl RoomRegistry {
    /// Checks that all tables agree.
    fn check(&self) {
        for (slot, group) in &self.rooms {
            assert!(!group.members.is_empty(), "{:?} is empty", group.name);
            assert_eq!(self.names.get(&group.name), Some(&(slot as u32)));
            for (position, &client) in group.members.iter().enumerate() {
                assert_eq!(self.places[&(client, slot as u32)].in_room as usize, position);
            }
        }
        for (&client, rooms) in &self.joined {
            assert!(!rooms.is_empty() && rooms.len() <= self.limits.rooms_per_client);
            for (position, &slot) in rooms.iter().enumerate() {
                assert_eq!(self.places[&(client, slot)].in_client as usize, position);
            }
        }
        let members: usize = self.rooms.iter().map(|(_, group)| group.members.len()).sum();
        let joined: usize = self.joined.values().map(Vec::len).sum();
        assert_eq!((self.places.len(), self.places.len()), (members, joined));
        assert_eq!(self.names.len(), self.rooms.len());
        assert!(self.rooms.len() <= self.limits.rooms);
    }

    /// The capacities of all tables except the slab of rooms.
    fn held(&self) -> usize {
        let members = self.rooms.iter().map(|(_, group)| group.members.capacity());
        let rooms = self.joined.values().map(Vec::capacity);
        self.names.capacity()
            + self.joined.capacity()
            + self.places.capacity()
            + members.chain(rooms).sum::<usize>()
    }

    fn owns_nothing(&self) -> bool {
        self.held() == 0 && self.rooms.capacity() == 0
    }

    fn members_of(&self, room: Room<'_>) -> Vec<ClientId> {
        self.members(room).collect()
    }
}

#[test]
fn a_room_exists_from_its_first_join_to_its_last_leave() {
    let mut registry = RoomRegistry::new(LIMITS);
    assert!(registry.owns_nothing());
    assert_eq!(registry.join(client(1), "a".into()), Ok(true));
    assert_eq!(registry.join(client(1), "a".into()), Ok(false));
    let first = registry.find("a").unwrap();
    assert_eq!(registry.join(client(2), first.into()), Ok(true));
    assert_eq!(
        (registry.name(first), registry.room_len("a".into()), registry.room_count()),
        (Some("a"), 2, 1)
    );
    assert!(registry.contains(client(2), "a".into()) && !registry.contains(client(3), first.into()));

    assert!(registry.leave(client(1), first.into()) && !registry.leave(client(1), "a".into()));
    assert_eq!(registry.members_of("a".into()), [client(2)]);
    assert!(registry.leave(client(2), "a".into()));
    assert!(registry.owns_nothing());
    assert_eq!((registry.find("a"), registry.name(first), registry.room_count()), (None, None, 0));
}

#[test]
fn a_stale_room_id_matches_no_later_room() {
    let mut registry = RoomRegistry::new(LIMITS);
    // The other room keeps the registry from becoming empty in between. The slot is reused all the
    // same.
    for (who, name) in [(0, "other"), (1, "a")] {
        registry.join(client(who), name.into()).unwrap();
    }
    let stale = registry.find("a").unwrap();
    registry.leave_all(client(1));
    assert_eq!(registry.join(client(1), stale.into()), Err(JoinError::NoSuchRoom(stale)));
    registry.join(client(1), "a".into()).unwrap();
    let fresh = registry.find("a").unwrap();
    assert!(fresh.index() == stale.index() && fresh > stale);
    assert_eq!(registry.name(stale), None);
    assert_eq!((registry.room_len(stale.into()), registry.members(stale.into()).len()), (0, 0));
    assert!(!registry.contains(client(1), stale.into()) && !registry.leave(client(1), stale.into()));
    assert!(registry.contains(client(1), fresh.into()));

    // The same if the registry became empty in between.
    registry.leave_all(client(0));
    registry.leave_all(client(1));
    registry.join(client(1), "a".into()).unwrap();
    let latest = registry.find("a").unwrap();
    assert!(latest > fresh && registry.name(stale).is_none() && registry.name(fresh).is_none());
}

#[test]
fn room_serials_go_on_beyond_32_bits() {
    let mut registry = RoomRegistry::new(LIMITS);
    registry.next_serial = Serial::new(u32::MAX.into());
    registry.join(client(0), "a".into()).unwrap();
    registry.join(client(0), "b".into()).unwrap();
    let [a, b] = ["a", "b"].map(|name| registry.find(name).unwrap());
    assert_eq!([a.serial().get(), b.serial().get()], [0xffff_ffff, 0x1_0000_0000]);
    assert!(a < b);
    // The low half of a serial comes again, and the id of the earlier room stays stale.
    registry.leave(client(0), b.into());
    registry.next_serial = Serial::new(0x2_0000_0000);
    registry.join(client(0), "b".into()).unwrap();
    let again = registry.find("b").unwrap();
    assert_eq!(again.index(), b.index());
    assert!(again != b && registry.name(b).is_none() && registry.name(again).is_some());
}

#[test]
fn a_client_that_reuses_an_index_inherits_no_rooms() {
    let mut registry = RoomRegistry::new(LIMITS);
    let (old, new) = (ClientId::new(4, Serial::new(1)), ClientId::new(4, Serial::new(2)));
    registry.join(old, "a".into()).unwrap();
    assert!(!registry.contains(new, "a".into()) && !registry.leave(new, "a".into()));
    assert_eq!((registry.rooms(new).len(), registry.room_len("a".into())), (0, 1));
    assert_eq!(registry.leave_all(new), 0);

    // The old client never left: both are members, and each leaves only for itself.
    assert_eq!(registry.join(new, "a".into()), Ok(true));
    assert_eq!(registry.join(new, "b".into()), Ok(true));
    assert_eq!((registry.room_len("a".into()), registry.leave_all(old), registry.leave_all(old)), (2, 1, 0));
    assert!(!registry.leave(old, "b".into()));
    assert_eq!((registry.members_of("a".into()), registry.rooms(new).len()), (vec![new], 2));
    registry.check();
}

#[test]
fn a_join_beyond_a_limit_changes_nothing() {
    let mut registry = RoomRegistry::new(LIMITS);
    let too_long = JoinError::NameTooLong { len: 6, max: 5 };
    // Bytes count, not characters.
    assert_eq!(registry.join(client(0), "ééé".into()), Err(too_long));
    assert!(registry.owns_nothing());
    for (who, name) in [(0, "ab"), (0, "cd"), (1, "fünf")] {
        assert_eq!(registry.join(client(who), name.into()), Ok(true));
    }
    let full = JoinError::TooManyForClient { client: client(0), max: 2 };
    assert_eq!(registry.join(client(0), "fünf".into()), Err(full));
    assert_eq!(registry.join(client(0), "new".into()), Err(full));
    assert_eq!(registry.join(client(0), "ab".into()), Ok(false), "it is a member: nothing is added");
    assert_eq!(registry.join(client(1), "new".into()), Err(JoinError::TooManyRooms { max: 3 }));
    assert_eq!(registry.join(client(1), "ab".into()), Ok(true), "no new room");
    assert_eq!(registry.join(client(2), "new".into()), Err(JoinError::TooManyRooms { max: 3 }));
    assert_eq!((registry.room_count(), registry.rooms(client(2)).len(), registry.find("new")), (3, 0, None));
    registry.check();
    // Leaving makes room again.
    assert!(registry.leave(client(0), "cd".into()));
    assert_eq!(registry.join(client(0), "new".into()), Ok(true));
    assert_eq!(registry.join(client(2), "ab".into()), Ok(true));
}

#[test]
fn extreme_limits_work() {
    let mut none = RoomRegistry::new(RegistryLimits { rooms: 0, rooms_per_client: 0, name: 0 });
    let would_block = JoinError::TooManyForClient { client: client(0), max: 0 };
    assert_eq!(none.join(client(0), "".into()), Err(would_block));
    assert!(none.owns_nothing());
    let mut ample = RoomRegistry::new(AMPLE);
    assert_eq!(ample.join(client(0), "".into()), Ok(true), "an empty name is a name");
    assert_eq!(ample.rooms(client(0)).collect::<Vec<_>>(), [""]);
}

#[test]
fn the_iterator_over_members_does_not_borrow_the_name() {
    let mut registry = RoomRegistry::new(LIMITS);
    registry.join(client(1), "a".into()).unwrap();
    let members = registry.members(Room::Name(&String::from("a")));
    assert_eq!((members.len(), members.count()), (1, 1));
}

#[test]
fn an_emptied_registry_frees_its_memory() {
    const CROWD: u32 = 10_000;
    let mut registry = RoomRegistry::new(AMPLE);
    for index in 0..CROWD {
        for room in ["lobby".into(), format!("of {index}")] {
            assert_eq!(registry.join(client(index), Room::from(&room)), Ok(true));
        }
        assert_eq!(registry.join(client(0), Room::from(&format!("of {index}"))), Ok(index > 0));
    }
    assert_eq!((registry.room_len("lobby".into()), registry.rooms(client(0)).len()), (10_000, 10_001));
    assert!(registry.held() >= 10_000 * 8);
    for index in 0..CROWD {
        assert!(index < 1 || registry.leave(client(0), Room::from(&format!("of {index}"))));
        // Removes from the front, where each removed member is replaced by the last one.
        assert!(index < 10 || registry.leave_all(client(index)) == 2);
    }
    assert_eq!((registry.room_len("lobby".into()), registry.room_count()), (10, 11));
    assert!(registry.held() < 1000, "{} entries for 21 memberships", registry.held());
    registry.check();
    for index in 0..10 {
        registry.leave_all(client(index));
    }
    assert!(registry.owns_nothing());
}

/// The registry and its model.
struct Pair {
    registry: RoomRegistry,
    rooms: BTreeMap<String, BTreeSet<ClientId>>,
    /// All rooms ever created, in order of age. The last one with a name is current if the room
    /// exists.
    given: Vec<(RoomId, String)>,
    clients: Vec<ClientId>,
    gone: Vec<ClientId>,
    names: usize,
}

impl Pair {
    fn new(rng: &mut Rng) -> Self {
        // Small enough that each limit is reached. For every third seed a client is in at most one
        // room.
        let rooms_per_client = [1, 2 + rng.below(4), 100][rng.below(3)];
        let limits = RegistryLimits { rooms: 1 + rng.below(8), rooms_per_client, name: 2 };
        let clients = (0..1 + rng.below(12) as u32).map(client).collect();
        let (rooms, given, gone) = (BTreeMap::new(), Vec::new(), Vec::new());
        Pair { registry: RoomRegistry::new(limits), rooms, given, clients, gone, names: 1 + rng.below(10) }
    }

    /// The id of a room that exists.
    fn current(&self, name: &str) -> Option<RoomId> {
        let latest = self.given.iter().rev().find(|(_, given)| given == name);
        self.rooms.contains_key(name).then(|| latest.unwrap().0)
    }

    fn rooms_of(&self, client: ClientId) -> BTreeSet<&str> {
        let rooms = self.rooms.iter().filter(|(_, members)| members.contains(&client));
        rooms.map(|(name, _)| name.as_str()).collect()
    }

    /// Resolves `room` in the model: its name if it exists or may be created.
    fn meant(&self, room: Room<'_>) -> Option<String> {
        match room {
            Room::Name(name) => Some(name.to_string()),
            Room::Id(id) => {
                let name = &self.given.iter().find(|(given, _)| *given == id)?.1;
                (self.current(name) == Some(id)).then(|| name.clone())
            }
        }
    }

    fn contains(&self, client: ClientId, room: Room<'_>) -> bool {
        let members = self.meant(room).and_then(|name| self.rooms.get(&name));
        members.is_some_and(|members| members.contains(&client))
    }

    fn join(&mut self, client: ClientId, room: Room<'_>) {
        let RegistryLimits { rooms, rooms_per_client, name: max } = self.registry.limits;
        let name = self.meant(room);
        let is_new = name.as_ref().is_none_or(|name| !self.rooms.contains_key(name));
        let len = name.as_ref().map_or(0, String::len);
        let expected = if self.contains(client, room) {
            Ok(false)
        } else if self.rooms_of(client).len() == rooms_per_client {
            Err(JoinError::TooManyForClient { client, max: rooms_per_client })
        } else if let (None, Room::Id(id)) = (&name, room) {
            Err(JoinError::NoSuchRoom(id))
        } else if len > max {
            Err(JoinError::NameTooLong { len, max })
        } else if is_new && self.rooms.len() == rooms {
            Err(JoinError::TooManyRooms { max: rooms })
        } else {
            Ok(true)
        };
        assert_eq!(self.registry.join(client, room), expected);
        if expected == Ok(true) {
            let name = name.unwrap();
            if is_new {
                let id = self.registry.find(&name).unwrap();
                assert!(self.given.last().is_none_or(|(latest, _)| *latest < id), "ids order by age");
                self.given.push((id, name.clone()));
            }
            self.rooms.entry(name).or_default().insert(client);
        }
    }

    fn leave(&mut self, client: ClientId, room: Room<'_>) {
        let was = self.contains(client, room);
        assert_eq!(self.registry.leave(client, room), was);
        if was {
            let name = self.meant(room).unwrap();
            self.rooms.get_mut(&name).unwrap().remove(&client);
            self.rooms.retain(|_, members| !members.is_empty());
        }
    }

    fn leave_all(&mut self, client: ClientId) {
        assert_eq!(self.registry.leave_all(client), self.rooms_of(client).len());
        self.rooms.retain(|_, members| {
            members.remove(&client);
            !members.is_empty()
        });
    }

    /// A new client reuses the slot at `index`. With `tell` the old client leaves its rooms first.
    fn reconnect(&mut self, index: usize, tell: bool) {
        let (old, serial) = (self.clients[index], self.clients.len() + self.gone.len());
        if tell {
            self.leave_all(old);
        }
        self.gone.push(old);
        self.clients[index] = ClientId::new(index as u32, Serial::new(serial as u64));
    }

    fn step(&mut self, rng: &mut Rng) {
        let index = rng.below(self.clients.len());
        let live = self.clients[index];
        let anyone = if self.gone.is_empty() || !rng.one_in(4) { live } else { rng.pick(&self.gone) };
        let name = if rng.one_in(20) { "abc".to_string() } else { format!("{}", rng.below(self.names)) };
        let id = match rng.below(8) {
            0 if !self.given.is_empty() => Some(self.given[rng.below(self.given.len())].0),
            1..4 => self.current(&name),
            _ => None,
        };
        let room = id.map_or(Room::Name(&name), Room::Id);
        match rng.below(20) {
            0..11 => self.join(live, room),
            11..16 => self.leave(anyone, room),
            16 => self.leave_all(anyone),
            17 => self.leave_all(live),
            18 => self.reconnect(index, !rng.one_in(3)),
            _ => assert_eq!(self.registry.contains(anyone, room), self.contains(anyone, room)),
        }
    }

    /// Removes all clients from all rooms.
    fn end(&mut self) {
        for client in [self.clients.clone(), self.gone.clone()].concat() {
            self.leave_all(client);
            self.compare();
        }
        assert!(self.rooms.is_empty() && self.registry.owns_nothing());
    }

    fn compare(&self) {
        self.registry.check();
        assert_eq!(self.registry.room_count(), self.rooms.len());
        for (name, expected) in &self.rooms {
            let room = Room::from(name);
            let id = self.current(name).unwrap();
            assert_eq!((self.registry.find(name), self.registry.name(id)), (Some(id), Some(name.as_str())));
            for room in [room, id.into()] {
                let members = self.registry.members(room);
                assert_eq!((members.len(), self.registry.room_len(room)), (expected.len(), expected.len()));
                assert_eq!(members.collect::<BTreeSet<_>>(), *expected);
            }
        }
        for (id, name) in self.given.iter().filter(|(id, name)| self.current(name) != Some(*id)) {
            assert_eq!(
                (self.registry.name(*id), self.registry.room_len(Room::Id(*id))),
                (None, 0),
                "{name} is gone"
            );
        }
        for number in 0..self.names {
            let name = number.to_string();
            assert_eq!(self.registry.find(&name).is_some(), self.rooms.contains_key(&name));
        }
        for &client in self.clients.iter().chain(&self.gone) {
            let (rooms, expected) = (self.registry.rooms(client), self.rooms_of(client));
            assert_eq!(rooms.len(), expected.len());
            assert_eq!(rooms.collect::<BTreeSet<_>>(), expected);
        }
    }
}

/// Runs up to 150 steps.
fn play(rng: &mut Rng) -> Pair {
    let mut pair = Pair::new(rng);
    for _ in 0..150 {
        if rng.is_spent() {
            break;
        }
        pair.step(rng);
        pair.compare();
    }
    pair
}

/// The fuzz target that runs the same steps as the seeds below.
pub(crate) fn target(data: &[u8]) {
    play(&mut Rng::from_bytes(data)).end();
}

#[test]
fn behaves_like_sets_by_name() {
    let seeds = std::env::var("TICKWS_ROOMS_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let (mut stale, mut would_block, mut forgotten) = (0, 0, 0);
    for seed in 0..seeds.unwrap_or(300) {
        println!("seed {seed}");
        let mut pair = play(&mut Rng::new(seed));
        stale += pair.given.len() - pair.rooms.len();
        would_block += usize::from(pair.rooms.len() == pair.registry.limits.rooms);
        forgotten += pair.gone.iter().filter(|&&client| pair.registry.rooms(client).len() > 0).count();
        pair.end();
    }
    assert!(
        stale > 0 && would_block > 0 && forgotten > 0,
        "no seed met a stale id, a full registry or a missed leave_all"
    );
}
