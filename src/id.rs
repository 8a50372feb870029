//! Identifiers: small, `Copy` and generational, so that a reused slot gets a different id.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

/// The number of a connection, a link, a timer or a room, which never comes again: at a million per
/// second 64 bits last for half a million years. Two halves need an alignment of four bytes only,
/// so that an id has twelve bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serial([u32; 2]);

impl Serial {
    pub(crate) const fn new(serial: u64) -> Self {
        Serial([serial as u32, (serial >> 32) as u32])
    }

    // On most machines the two halves are read at once.
    #[inline(always)]
    pub(crate) const fn get(self) -> u64 {
        let [low, high] = self.0;
        (high as u64) << 32 | low as u64
    }

    /// Returns this serial and advances to the next.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Serial::new(self.get().wrapping_add(1)))
    }
}

impl PartialEq for Serial {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Serial {}

impl Hash for Serial {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.get().hash(state);
    }
}

impl PartialOrd for Serial {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Serial {
    fn cmp(&self, other: &Self) -> Ordering {
        self.get().cmp(&other.get())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Names one connection for as long as the server lives.
///
/// A `ClientId` is generational: once its connection is gone the id is *stale*, and every call that
/// takes it returns an error instead of reaching the connection that reuses the slot. Ids order by
/// age: a connection accepted, or begun, earlier compares less.
///
/// It displays as `#7`: the seventh connection that this server accepted.
///
/// # Examples
///
/// ```
/// use std::collections::HashMap;
/// use tickws::ClientId;
///
/// struct Player { score: u32 }
/// let players: HashMap<ClientId, Player> = HashMap::new();
/// # assert!(players.is_empty());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId {
    // The first field, so that the derived order is the order of acceptance.
    serial: Serial,
    index: u32,
}

impl ClientId {
    pub(crate) fn new(index: u32, serial: Serial) -> Self {
        ClientId { serial, index }
    }

    pub(crate) fn serial(self) -> Serial {
        self.serial
    }

    /// The dense index of the connection's slot, for side tables (`Vec<Option<Player>>`).
    ///
    /// Indices are small, and an index is reused after its connection is gone. Two clients that are
    /// connected at the same time never share an index.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.serial)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId(#{} at {})", self.serial, self.index)
    }
}

/// Names one outbound connection over all its attempts, from [`Server::link`](crate::Server::link).
///
/// Each connection that a [`Reconnect`](crate::Reconnect) policy opens has its own [`ClientId`], so
/// that a `Close` is always the last event of an id. All of them share one `LinkId`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(Serial);

impl LinkId {
    pub(crate) fn new(serial: Serial) -> Self {
        LinkId(serial)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn serial(self) -> Serial {
        self.0
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "~{}", self.0)
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId(~{})", self.0)
    }
}

/// Names an upgrade request that waits for [`Server::accept`](crate::Server::accept) or
/// [`Server::reject`](crate::Server::reject), from [`Event::Upgrade`](crate::Event::Upgrade).
///
/// Valid for one response. After that, or after [`Event::UpgradeGone`](crate::Event::UpgradeGone),
/// it is stale.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpgradeId {
    serial: u64,
    index: u32,
}

/// Names an HTTP request that waits for [`Server::respond`](crate::Server::respond), from
/// [`Event::Http`](crate::Event::Http).
///
/// Valid for one response. After that, or once its connection is gone, it is stale.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId {
    serial: u64,
    index: u32,
}

/// Implements an id whose serial is unique among all requests of the server.
macro_rules! pending_id {
    ($name:ident) => {
        impl $name {
            pub(crate) fn new(index: u32, serial: u64) -> Self {
                $name { serial, index }
            }

            pub(crate) fn index(self) -> usize {
                self.index as usize
            }

            #[cfg(feature = "sim")]
            pub(crate) fn serial(self) -> u64 {
                self.serial
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "?{}", self.serial)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(?{} at {})"), self.serial, self.index)
            }
        }
    };
}

pending_id!(UpgradeId);
pending_id!(ExchangeId);

/// Names one application timer, from [`Server::set_timer`](crate::Server::set_timer) or
/// [`Server::set_interval`](crate::Server::set_interval).
///
/// Generational like [`ClientId`]: cancelling a timer that has fired or was cancelled does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId {
    serial: Serial,
    index: u32,
}

impl TimerId {
    pub(crate) fn new(index: u32, serial: Serial) -> Self {
        TimerId { serial, index }
    }

    pub(crate) fn index(self) -> usize {
        self.index as usize
    }

    pub(crate) fn serial(self) -> Serial {
        self.serial
    }
}

impl fmt::Display for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.serial)
    }
}

impl fmt::Debug for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimerId(#{} at {})", self.serial, self.index)
    }
}

/// Names one room for as long as it has members, so that calls need not look up the name.
///
/// Generational like [`ClientId`]: a room is removed when its last member leaves, which makes its
/// id *stale*, and a later room with the same name has another id. Ids order by age: a room that
/// was created earlier compares less.
///
/// # Examples
///
/// ```
/// use std::collections::HashMap;
/// use tickws::RoomId;
///
/// struct Match { round: u32 }
/// let matches: HashMap<RoomId, Match> = HashMap::new();
/// # assert!(matches.is_empty());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId {
    // The first field, so that the derived order is by age.
    serial: Serial,
    index: u32,
}

impl RoomId {
    pub(crate) fn new(index: u32, serial: Serial) -> Self {
        RoomId { serial, index }
    }

    pub(crate) fn index(self) -> usize {
        self.index as usize
    }

    pub(crate) fn serial(self) -> Serial {
        self.serial
    }
}

impl fmt::Display for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.serial)
    }
}

impl fmt::Debug for RoomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomId(#{} at {})", self.serial, self.index)
    }
}

/// A room by its name or by its id.
///
/// Calls about rooms take `impl Into<Room<'_>>`: `&str`, `&String` and [`RoomId`] all convert. A
/// name refers to the room that has the name now; an id never refers to a later room of the same
/// name.
///
/// # Examples
///
/// ```
/// use tickws::Room;
///
/// assert_eq!(Room::from("lobby"), Room::Name("lobby"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Room<'a> {
    /// The room that has this name now.
    Name(&'a str),
    /// This room and no other.
    Id(RoomId),
}

impl<'a> From<&'a str> for Room<'a> {
    fn from(name: &'a str) -> Self {
        Room::Name(name)
    }
}

impl<'a> From<&'a String> for Room<'a> {
    fn from(name: &'a String) -> Self {
        Room::Name(name)
    }
}

impl From<RoomId> for Room<'_> {
    fn from(id: RoomId) -> Self {
        Room::Id(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reused_slot_gets_another_client_id_and_ids_order_by_age() {
        let (first, second) = (ClientId::new(5, Serial::new(7)), ClientId::new(5, Serial::new(8)));
        assert_ne!(first, second);
        assert_eq!(first.index(), second.index());
        assert!(first < second && ClientId::new(9, Serial::new(1)) < first);
        assert_eq!(first.to_string(), "#7");
    }

    #[test]
    fn serials_go_on_beyond_32_bits() {
        let mut serial = Serial::new(u64::from(u32::MAX));
        let (last, next) = (serial.take(), serial.take());
        assert_eq!((last.get(), next.get()), (0xffff_ffff, 0x1_0000_0000));
        assert!(last < next && next < serial);
        let ids = [last, next].map(|serial| ClientId::new(3, serial));
        assert!(ids[0] < ids[1]);
        assert_eq!(ids[1].to_string(), "#4294967296");
        assert_eq!(size_of::<ClientId>(), 12);
    }

    #[test]
    fn room_converts_from_name_or_id_and_ids_order_by_age() {
        let (first, second) = (RoomId::new(5, Serial::new(7)), RoomId::new(5, Serial::new(8)));
        assert!(first < second && RoomId::new(9, Serial::new(1)) < first);
        assert_eq!(Room::from(first), Room::Id(first));
        assert_ne!(Room::from(first), Room::from(second));
        assert_eq!(Room::from(&String::from("lobby")), "lobby".into());
        assert_eq!(format!("{first:?}"), "RoomId(#7 at 5)");
    }
}
