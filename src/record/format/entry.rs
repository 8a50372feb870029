//! What stands on a tape: what the engine was told, in order, and between that what its streams and closures
//! answered.

use std::{collections::HashMap, io::ErrorKind, net::SocketAddr, time::Duration};

use tungstenite::{
    Bytes,
    http::{HeaderMap, Response},
};

use super::{
    Tape,
    code::{Decode, Encode, code_enum, code_struct, numbered},
};
use crate::{
    config::{
        Overflow,
        reconnect::Reconnect,
        send_options::{LatestKey, Priority, SendOptions, SendTerms},
    },
    engine::{Order, Whom},
    id::{ClientId, RequestId, Room, RoomId, TimerId, UpgradeId},
    message::{Kind, Message},
    outbox::prepared::{Outgoing, Prepared},
};

code_enum! {
    /// The numbers are the format's: new ones are added, none is used again.
    #[derive(Debug)]
    pub(crate) enum Entry {
        // ---- what the engine is told ----
        /// What follows happens so many nanoseconds later.
        0 At { nanos: i64 },
        /// The stream's number is that of its coming.
        1 Accept { remote: SocketAddr },
        2 Abandon { index: usize },
        /// One bit each: readable, writable, read closed, urgent.
        3 Ready { index: usize, what: u8 },
        4 Flush {},
        /// The poll was asked for so long before.
        5 Start { waited: Duration, partial: bool },
        6 Fire {},
        7 Service {},
        /// The tick that came of it: its events, and a digest of all that it says.
        8 Finish { more: bool, events: usize, digest: u32 },
        9 NextDial {},
        10 Dialed { client: ClientId, outcome: Result<(), ErrorKind> },
        /// The name's addresses, or what the resolver said; `None`: it is too busy.
        11 Resolved { client: ClientId, addrs: Result<Vec<SocketAddr>, Option<(String, String)>> },
        12 WakeAt { nanos: i64 },
        13 CountPause {},
        14 CountUndelivered {},
        /// Random numbers come from the source anew.
        15 Draw {},
        /// The next deadline is asked for, which may put the wheel in order.
        16 Look {},
        17 CountLostListener {},
        /// What `NextDial` has asked the host for.
        18 Ordered { order: HostOrder },
        /// The application has dropped a `Prepared`.
        19 Forget { shared: u64 },

        // ---- what the application says ----
        20 Send { client: ClientId, words: Words, terms: Terms },
        21 Deliver { whom: Group, words: Words, latest: Option<LatestKey>, except: Option<ClientId> },
        22 Ping { client: ClientId },
        23 Close { client: ClientId, code: u16, reason: String },
        24 Disconnect { client: ClientId },
        25 Shutdown { code: u16, deadline: Duration },
        26 SetOverflow { client: ClientId, overflow: Overflow },
        27 Pause { client: ClientId },
        28 Resume { client: ClientId },
        29 SetTimer { delay: Duration, repeat: bool },
        30 CancelTimer { timer: TimerId },
        31 Join { client: ClientId, room: RoomRef },
        32 Leave { client: ClientId, room: RoomRef },
        33 LeaveAll { client: ClientId },
        34 SetUser { client: ClientId, key: String },
        35 ClearUser { client: ClientId },
        36 AcceptUpgrade { upgrade: UpgradeId, headers: HeaderMap },
        37 RejectUpgrade { upgrade: UpgradeId, response: Response<Bytes> },
        38 Respond { request: RequestId, response: Response<Bytes> },
        39 Connect { plan: PlanCopy },

        // ---- what the engine is answered ----
        60 Read { stream: u32, offered: usize, outcome: Result<Bytes, ErrorKind> },
        /// What was taken, and its digest.
        61 Wrote { stream: u32, offered: usize, outcome: Result<usize, ErrorKind>, digest: u32 },
        62 Fin { stream: u32, outcome: Result<(), ErrorKind> },
        63 Connected { stream: u32, outcome: Result<bool, ErrorKind> },
        64 Random { bytes: Bytes },
        /// `on_upgrade`: accepted (0), deferred (1) or rejected, with the headers that were added.
        65 Decided { decision: Result<bool, Response<Bytes>>, added: HeaderMap },
        66 Answered { response: Response<Bytes> },
        /// `before_attempt`.
        67 Attempted { path: String, headers: HeaderMap },
        /// The server was dropped.
        70 End {},
    }
}

code_enum! {
    /// A copy of an [`Order`].
    #[derive(Debug, PartialEq)]
    pub(crate) enum HostOrder {
        0 Connect { client: ClientId, addr: SocketAddr },
        1 Resolve { client: ClientId, host: String, port: u16 },
        2 Nothing {},
    }
}

impl HostOrder {
    pub(super) fn of(order: &Order) -> Self {
        match order {
            Order::Connect(client, addr) => HostOrder::Connect { client: *client, addr: *addr },
            Order::Resolve(client, host, port) => {
                HostOrder::Resolve { client: *client, host: host.clone(), port: *port }
            }
            Order::Nothing => HostOrder::Nothing {},
        }
    }
}

/// A message, framed already or not.
#[derive(Debug)]
pub(crate) struct Words {
    kind: Kind,
    /// Of a `Prepared` its number, from one: it is compressed once, and counted once.
    shared: u64,
    /// Of a `Prepared` only the first time.
    bytes: Bytes,
}

code_struct!(Words { kind, shared, bytes });

impl Words {
    pub(super) fn of(message: &Outgoing<'_>, tape: &Tape) -> Self {
        let (shared, known) = match message {
            Outgoing::Message(_) => (0, false),
            Outgoing::Prepared(prepared) => tape.number_of(prepared),
        };
        let bytes = if known { Bytes::new() } else { Bytes::copy_from_slice(message.payload()) };
        Words { kind: message.kind(), shared, bytes }
    }

    /// `None`: it says that it is text, and is none.
    pub(super) fn outgoing(&self, all: &mut HashMap<u64, Prepared>) -> Option<Outgoing<'_>> {
        if let Some(known) = all.get(&self.shared) {
            return Some(known.into());
        }
        let message = match self.kind {
            Kind::Text => Message::Text(std::str::from_utf8(&self.bytes).ok()?),
            Kind::Binary => Message::Binary(&self.bytes),
        };
        if self.shared == 0 {
            return Some(message.into());
        }
        Some((&*all.entry(self.shared).or_insert_with(|| Prepared::new(message))).into())
    }
}

#[derive(Debug)]
pub(crate) struct Terms {
    expires_in: Option<Duration>,
    priority: Priority,
    latest: Option<LatestKey>,
    uncompressed: bool,
}

numbered!(Priority { 0 Normal, 1 High });

code_struct!(Terms { expires_in, priority, latest, uncompressed });

impl Terms {
    pub(super) fn of(terms: &SendTerms) -> Self {
        let SendTerms { options: SendOptions { expires_in, priority, latest }, uncompressed } = terms.clone();
        Terms { expires_in, priority, latest, uncompressed }
    }

    pub(super) fn terms(self) -> SendTerms {
        let Terms { expires_in, priority, latest, uncompressed } = self;
        SendTerms { options: SendOptions { expires_in, priority, latest }, uncompressed }
    }
}

/// A room by its name or its id.
pub(crate) type RoomRef = Result<String, RoomId>;

pub(super) fn room_ref(room: Room<'_>) -> RoomRef {
    match room {
        Room::Name(name) => Ok(name.to_owned()),
        Room::Id(id) => Err(id),
    }
}

pub(super) fn room(room: &RoomRef) -> Room<'_> {
    match room {
        Ok(name) => Room::Name(name),
        Err(id) => Room::Id(*id),
    }
}

/// Everyone, a room or a user.
pub(crate) type Group = Option<Result<RoomRef, String>>;

pub(super) fn group(whom: Whom<'_>) -> Group {
    match whom {
        Whom::Everyone => None,
        Whom::Room(room) => Some(Ok(room_ref(room))),
        Whom::User(key) => Some(Err(key.to_owned())),
    }
}

pub(super) fn whom(group: &Group) -> Whom<'_> {
    match group {
        None => Whom::Everyone,
        Some(Ok(name)) => Whom::Room(room(name)),
        Some(Err(key)) => Whom::User(key),
    }
}

/// What a `Connect` says, but for its closure.
#[derive(Debug)]
pub(crate) struct PlanCopy {
    pub(super) url: String,
    pub(super) headers: HeaderMap,
    pub(super) subprotocols: Vec<String>,
    pub(super) addrs: Vec<SocketAddr>,
    pub(super) timeout: Duration,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) keeps: Option<usize>,
    pub(super) has_closure: bool,
}

code_struct!(PlanCopy { url, headers, subprotocols, addrs, timeout, reconnect, keeps, has_closure });

/// Whether both sides of the codec agree is for the tests of the whole to say; here only that nothing is lost.
#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use crate::tape::code::{Decode, Encode};

    /// Those without a name in stable Rust, too: what the application is told is compared in a replay.
    #[test]
    fn every_kind_of_error_that_the_system_has_comes_back() {
        for code in 1..=255 {
            let kind = Error::from_raw_os_error(code).kind();
            let mut bytes = Vec::new();
            kind.put(&mut bytes);
            let mut input = &bytes[..];
            assert_eq!((ErrorKind::get(&mut input), input.len()), (Some(kind), 0), "{code}");
        }
    }

    #[test]
    fn numbers_at_the_edges_come_back_and_longer_ones_do_not() {
        let mut bytes = Vec::new();
        for number in [0, 1, 127, 128, u64::MAX / 2, u64::MAX] {
            bytes.clear();
            number.put(&mut bytes);
            let mut input = &bytes[..];
            assert_eq!((u64::get(&mut input), input), (Some(number), &[][..]));
            for number in [number as i64, (number as i64).wrapping_neg()] {
                bytes.clear();
                number.put(&mut bytes);
                assert_eq!(i64::get(&mut &bytes[..]), Some(number));
            }
        }
        assert_eq!(u64::get(&mut &[0xff; 20][..]), None);
        assert_eq!(u64::get(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]), None);
        assert_eq!(u64::get(&mut &[0x80][..]), None);
        assert_eq!(bool::get(&mut &[2][..]), None);
        assert_eq!(Vec::<u8>::get(&mut &[0xff, 0xff, 0xff, 0xff, 0x0f, 1][..]), None);
    }
}
