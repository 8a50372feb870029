//! The entries of a recording: the calls to the engine in their order, and between them what its
//! streams and closures returned during the calls.

use std::{collections::HashMap, io::ErrorKind, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response};

use super::codec::{Decode, Encode, codec_enum, codec_fieldless, codec_struct};
use crate::{
    config::{
        OverflowPolicy,
        audience::Audience,
        connect::{Plan, WhileDown},
        reconnect::Reconnect,
        send_options::{Priority, SendOptions},
    },
    engine::{HandshakePart, HandshakeStep, Order, Readiness, Work},
    id::{ClientId, ExchangeId, Room, RoomId, TimerId, UpgradeId},
    message::{Kind, Message},
    outbox::{outgoing::Outgoing, prepared::Prepared},
    peer_addr::PeerAddr,
};

codec_enum! {
    /// The numbers belong to the format: new ones are added, and none is used again.
    #[derive(Debug)]
    pub(crate) enum Entry {
        // ---- calls by the host ----
        /// The following entries happen this many nanoseconds later.
        0 At { nanos: i64 },
        /// Streams are numbered in the order in which they come, dialed ones included.
        1 Accept { remote: PeerAddr },
        2 Abandon { index: usize },
        3 Ready { index: usize, readiness: Readiness },
        4 Flush {},
        /// `waited` is the time since the host was asked to poll.
        5 Start { waited: Duration, partial: bool },
        6 Fire {},
        7 Service {},
        /// The resulting tick: the number of its events, and a digest of its content.
        8 Finish { more: bool, events: usize, digest: u32 },
        9 NextDial {},
        10 Dialed { client: ClientId, outcome: Result<(), ErrorKind> },
        /// The addresses of a name, or the name and the error of the resolver. `Err(None)` means
        /// that the resolver was too busy.
        11 Resolved { client: ClientId, addrs: Result<Vec<SocketAddr>, Option<(String, String)>> },
        12 WakeAt { nanos: i64 },
        13 CountPause {},
        14 CountUndelivered {},
        /// The engine gets a new source of random numbers.
        15 Draw {},
        /// A query for the next deadline, which may reorder the timer wheel.
        16 Look {},
        17 CountLostListener {},
        /// The work that `NextDial` asked the host for.
        18 Ordered { order: OrderCopy },
        /// The application has dropped a `Prepared`.
        19 Forget { shared: u64 },
        /// One step of a poll or a flush with a time budget.
        50 Step { work: Work },
        51 BeginSteps {},
        /// Output continues after the readiness of streams was reported.
        52 WriteResumed {},
        53 CountCut {},
        54 CountLostConnection {},
        /// As `Accept`, for a connection that begins with a header of the PROXY protocol.
        55 AcceptNamed { remote: PeerAddr },
        /// The stream of the next entry is encrypted.
        57 Secure { handshake: HandshakePart },
        /// Steps of TLS handshakes in a poll without a time budget.
        58 DoHandshakes {},
        /// As `Accept`, for a connection whose opening handshake was made elsewhere.
        56 AdoptUpgraded { remote: PeerAddr, target: String, headers: HeaderMap, leftover: Bytes },

        // ---- calls by the application ----
        20 Send { client: ClientId, message: MessageCopy, options: SendOptions },
        21 Deliver { audience: AudienceCopy, message: MessageCopy, options: SendOptions },
        22 Ping { client: ClientId },
        23 Close { client: ClientId, code: u16, reason: String },
        24 Disconnect { client: ClientId },
        25 Shutdown { code: u16, reason: String, deadline: Duration },
        26 SetOverflow { client: ClientId, overflow: OverflowPolicy },
        27 Pause { client: ClientId },
        28 Resume { client: ClientId },
        29 SetTimer { delay: Duration, repeat: bool },
        30 CancelTimer { timer: TimerId },
        31 Join { client: ClientId, room: RoomCopy },
        32 Leave { client: ClientId, room: RoomCopy },
        33 LeaveAll { client: ClientId },
        34 SetUser { client: ClientId, key: String },
        35 ClearUser { client: ClientId },
        36 AcceptUpgrade { upgrade: UpgradeId, headers: HeaderMap },
        37 RejectUpgrade { upgrade: UpgradeId, response: Response<Bytes> },
        38 Respond { request: ExchangeId, response: Response<Bytes> },
        39 Connect { plan: PlanCopy },
        40 SetMaxMessageSize { client: ClientId, bytes: usize },

        // ---- results that the engine gets during a call ----
        60 Read { stream: u32, offered: usize, outcome: Result<Bytes, ErrorKind> },
        /// The digest covers the bytes that were accepted.
        61 Wrote { stream: u32, offered: usize, outcome: Result<usize, ErrorKind>, digest: u32 },
        62 Fin { stream: u32, outcome: Result<(), ErrorKind> },
        63 Connected { stream: u32, outcome: Result<bool, ErrorKind> },
        64 Random { bytes: Bytes },
        /// `on_upgrade` accepted (`Ok(false)`), deferred (`Ok(true)`) or rejected; `added` holds
        /// the headers that it added.
        65 Decided { decision: Result<bool, Response<Bytes>>, added: HeaderMap },
        /// `on_http` returned this response.
        66 Responded { response: Response<Bytes> },
        /// `before_attempt` left the request like this.
        67 Attempted { path: String, headers: HeaderMap },
        /// `check_origin` allowed the page or not.
        68 OriginChecked { allowed: bool },
        /// The wall clock showed this time since 1970-01-01 UTC.
        69 Dated { elapsed: Duration },
        /// A step of a TLS handshake had this outcome, and the next one is of this kind.
        71 Shook { stream: u32, step: HandshakeStep, next: Option<HandshakePart> },
        /// A flush of an encrypted stream.
        72 Flushed { stream: u32, outcome: Result<(), ErrorKind> },
        /// An encrypted stream holds so much memory.
        73 Held { stream: u32, bytes: usize },
        /// Whether an encrypted stream holds input.
        74 HadInput { stream: u32, found: bool },
        /// The server was dropped.
        70 End {},
    }
}

codec_enum! {
    /// A copy of an [`Order`].
    #[derive(Debug, PartialEq)]
    pub(crate) enum OrderCopy {
        0 Connect { client: ClientId, addr: SocketAddr },
        1 Resolve { client: ClientId, host: String, port: u16 },
        2 Nothing {},
        3 ConnectUnix { client: ClientId },
    }
}

impl OrderCopy {
    pub(crate) fn of(order: &Order) -> Self {
        match order {
            Order::Connect(client, addr) => OrderCopy::Connect { client: *client, addr: *addr },
            Order::ConnectUnix(client, _) => OrderCopy::ConnectUnix { client: *client },
            Order::Resolve(client, host, port) => {
                OrderCopy::Resolve { client: *client, host: host.clone(), port: *port }
            }
            Order::Nothing => OrderCopy::Nothing {},
        }
    }
}

/// One bit for each field, the first field in the lowest bit.
impl Encode for Readiness {
    fn put(&self, out: &mut Vec<u8>) {
        let Readiness { readable, writable, read_closed, urgent } = *self;
        let bits = [readable, writable, read_closed, urgent];
        out.push(bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
    }
}

impl Decode for Readiness {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let byte = u8::get(input)?;
        let bit = |number: u8| byte >> number & 1 == 1;
        let (readable, writable, read_closed, urgent) = (bit(0), bit(1), bit(2), bit(3));
        (byte < 1 << 4).then_some(Readiness { readable, writable, read_closed, urgent })
    }
}

/// A copy of an [`Outgoing`].
#[derive(Debug)]
pub(crate) struct MessageCopy {
    kind: Kind,
    /// The number of a `Prepared`, from one; zero for any other message. A `Prepared` keeps its
    /// identity in a replay because it is compressed once and counted once.
    shared: u64,
    /// Empty for a `Prepared` that an earlier entry has.
    payload: Bytes,
}

codec_struct!(MessageCopy { kind, shared, payload });

impl MessageCopy {
    pub(crate) fn new(kind: Kind, shared: u64, payload: &[u8]) -> Self {
        MessageCopy { kind, shared, payload: Bytes::copy_from_slice(payload) }
    }

    /// The message, from `known` or added to it if it is a `Prepared`. `None` if it claims to be
    /// text and is not UTF-8.
    pub(crate) fn outgoing(&self, known: &mut HashMap<u64, Prepared>) -> Option<Outgoing<'_>> {
        if let Some(prepared) = known.get(&self.shared) {
            return Some(prepared.into());
        }
        let message = match self.kind {
            Kind::Text => Message::Text(std::str::from_utf8(&self.payload).ok()?),
            Kind::Binary => Message::Binary(&self.payload),
        };
        if self.shared == 0 {
            return Some(message.into());
        }
        Some((&*known.entry(self.shared).or_insert_with(|| Prepared::new(message))).into())
    }
}

codec_struct!(SendOptions { expires_in, priority, latest, uncompressed, except });
codec_fieldless!(Priority { 0 Normal, 1 High });
codec_fieldless!(Work { 0 Output, 1 Endings, 2 Timers, 3 Input, 4 Handshakes });

/// A room by its name or its id.
pub(crate) type RoomCopy = Result<String, RoomId>;

pub(crate) fn copy_room(room: Room<'_>) -> RoomCopy {
    match room {
        Room::Name(name) => Ok(name.to_owned()),
        Room::Id(id) => Err(id),
    }
}

pub(crate) fn room(room: &RoomCopy) -> Room<'_> {
    match room {
        Ok(name) => Room::Name(name),
        Err(id) => Room::Id(*id),
    }
}

codec_enum! {
    /// A copy of an [`Audience`].
    #[derive(Debug)]
    pub(crate) enum AudienceCopy {
        0 Everyone {},
        1 Clients { ids: Vec<ClientId> },
        2 Room { room: RoomCopy },
        3 User { key: String },
        4 Client { id: ClientId },
    }
}

impl AudienceCopy {
    pub(crate) fn of(audience: Audience<'_>) -> Self {
        match audience {
            Audience::Everyone => AudienceCopy::Everyone {},
            Audience::Client(id) => AudienceCopy::Client { id },
            Audience::Clients(ids) => AudienceCopy::Clients { ids: ids.to_vec() },
            Audience::Room(room) => AudienceCopy::Room { room: copy_room(room) },
            Audience::User(key) => AudienceCopy::User { key: key.to_owned() },
        }
    }

    pub(crate) fn audience(&self) -> Audience<'_> {
        match self {
            AudienceCopy::Everyone {} => Audience::Everyone,
            AudienceCopy::Client { id } => Audience::Client(*id),
            AudienceCopy::Clients { ids } => Audience::Clients(ids),
            AudienceCopy::Room { room: name } => Audience::Room(room(name)),
            AudienceCopy::User { key } => Audience::User(key),
        }
    }
}

/// A copy of a [`Plan`]; of its closure it says only whether there is one.
#[derive(Debug)]
pub(crate) struct PlanCopy {
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) addrs: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) reconnect: Option<Reconnect>,
    pub(crate) keeps: Option<usize>,
    pub(crate) has_closure: bool,
}

codec_struct!(PlanCopy { url, headers, subprotocols, addrs, timeout, reconnect, keeps, has_closure });

impl PlanCopy {
    pub(crate) fn of(plan: &Plan) -> Self {
        let Plan {
            target,
            headers,
            subprotocols,
            addrs,
            timeout,
            reconnect,
            while_down,
            before,
            #[cfg(feature = "tls")]
                tls: _,
        } = plan;
        PlanCopy {
            url: target.to_string(),
            headers: headers.clone(),
            subprotocols: subprotocols.clone(),
            addrs: addrs.clone(),
            timeout: *timeout,
            reconnect: *reconnect,
            keeps: match while_down {
                WhileDown::Refuse => None,
                WhileDown::KeepLast(count) => Some(*count),
            },
            has_closure: before.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Serial;

    fn bytes(value: &impl Encode) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        bytes
    }

    /// Holds the encoding to bytes written down by hand: if this fails, the format needs a new
    /// version.
    #[test]
    fn orders_and_readiness_have_the_bytes_of_this_format_version() {
        let client = ClientId::new(3, Serial::new(300));
        let connect = Order::Connect(client, "10.0.0.2:80".parse().unwrap());
        assert_eq!(bytes(&OrderCopy::of(&connect)), [0, 3, 0xac, 2, 4, 10, 0, 0, 2, 80, 0]);
        let resolve = Order::Resolve(client, "a.b".to_owned(), 443);
        assert_eq!(bytes(&OrderCopy::of(&resolve)), *b"\x01\x03\xac\x02\x03a.b\xbb\x03");
        assert_eq!(bytes(&OrderCopy::of(&Order::Nothing)), [2]);
        for byte in 0..16 {
            assert_eq!(bytes(&Readiness::get(&mut &[byte][..]).unwrap()), [byte]);
        }
        assert!(Readiness::get(&mut &[16][..]).is_none());
        let read_closed = Readiness { read_closed: true, ..Readiness::default() };
        assert_eq!(bytes(&read_closed), [4]);
    }
}
