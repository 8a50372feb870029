//! Per-message send options: expiry, priority, replacement, compression.

use std::{sync::Arc, time::Duration};

use crate::id::ClientId;

/// How a message is treated: expiry, priority, replacement, compression, one client left out.
///
/// [`Server::send_with`](crate::Server::send_with) and [`Server::deliver`](crate::Server::deliver)
/// take it. The default is that of [`Server::send`](crate::Server::send): no expiry, normal
/// priority, never replaced, compressed where compression was negotiated, nobody left out.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tickws::{ClientId, Priority, SendError, SendOptions, Server};
///
/// /// A chat line may overtake a map that is being downloaded, and is dropped after 2 s.
/// fn say(server: &mut Server, client: ClientId, line: &str) -> Result<(), SendError> {
///     let options =
/// SendOptions::new().expires_in(Duration::from_secs(2)).priority(Priority::High);
///     server.send_with(client, line, &options)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SendOptions {
    pub(crate) expires_in: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) latest: Option<LatestKey>,
    pub(crate) uncompressed: bool,
    pub(crate) except: Option<ClientId>,
}

impl SendOptions {
    /// The options of [`Server::send`](crate::Server::send).
    pub fn new() -> Self {
        SendOptions::default()
    }

    /// Drops the message if none of it has been written after this time, and counts it in
    /// [`Stats::expired`](crate::Stats::expired). A message whose first byte was written is sent
    /// whole.
    pub fn expires_in(self, time: Duration) -> Self {
        SendOptions { expires_in: Some(time), ..self }
    }

    /// The queue in which the message waits.
    pub fn priority(self, priority: Priority) -> Self {
        SendOptions { priority, ..self }
    }

    /// Lets the message replace the client's queued message of the same key unless the latter is
    /// partly written, as [`Server::send_latest`](crate::Server::send_latest) does.
    ///
    /// Use one priority per key: a message of high priority can overtake an older one of its key
    /// that is partly written.
    pub fn latest(self, key: impl Into<LatestKey>) -> Self {
        SendOptions { latest: Some(key.into()), ..self }
    }

    /// Sends the message uncompressed even if compression was negotiated. Use it for data that is
    /// already compressed, and for secrets next to data chosen by an attacker. Without the feature
    /// `deflate` it has no effect.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, SendError, SendOptions, Server};
    ///
    /// fn picture(server: &mut Server, client: ClientId, jpeg: &[u8]) -> Result<(), SendError> {
    ///     server.send_with(client, jpeg, &SendOptions::new().uncompressed())
    /// }
    /// ```
    pub fn uncompressed(self) -> Self {
        SendOptions { uncompressed: true, ..self }
    }

    /// Leaves this client out of an audience: usually the one that sent the message.
    /// [`Server::send_with`](crate::Server::send_with), which has one recipient, ignores it.
    pub fn except(self, client: ClientId) -> Self {
        SendOptions { except: Some(client), ..self }
    }
}

/// The priority of a message. Each client has one queue per priority, and each queue keeps its
/// order; control frames (pings, pongs) are sent before both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Priority {
    /// After all earlier messages.
    #[default]
    Normal,
    /// Before all messages of normal priority that are not yet partly written. Meant for small
    /// messages: a message of high priority is copied for each client, even if it is a
    /// [`Prepared`](crate::Prepared).
    High,
}

/// Names a value of which a client needs only the latest: an entity's number, or the name of a
/// topic.
///
/// Every integer and every string is a distinct key: `7` and `"7"` differ. A number costs no
/// allocation, a name costs one.
///
/// # Examples
///
/// ```
/// use tickws::LatestKey;
///
/// assert_eq!(LatestKey::from(7u8), LatestKey::from(7i64));
/// assert_ne!(LatestKey::from(-1), LatestKey::from(u64::MAX));
/// assert_ne!(LatestKey::from(7), LatestKey::from("7"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LatestKey(Repr);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Repr {
    Number(u64),
    Negative(i64),
    Name(Arc<str>),
}

impl LatestKey {
    /// The name, or the number: `Err(Err(_))` if it is negative.
    #[cfg(feature = "sim")]
    pub(crate) fn parts(&self) -> Result<&str, Result<u64, i64>> {
        match &self.0 {
            Repr::Name(name) => Ok(name),
            Repr::Number(number) => Err(Ok(*number)),
            Repr::Negative(number) => Err(Err(*number)),
        }
    }

    /// The bytes that the key occupies on the heap.
    pub(crate) fn heap(&self) -> usize {
        match &self.0 {
            Repr::Name(name) => name.len(),
            Repr::Number(_) | Repr::Negative(_) => 0,
        }
    }
}

macro_rules! from_unsigned {
    ($($number:ty)*) => {$(
        impl From<$number> for LatestKey {
            fn from(number: $number) -> Self {
                LatestKey(Repr::Number(number as u64))
            }
        }
    )*};
}

macro_rules! from_signed {
    ($($number:ty)*) => {$(
        impl From<$number> for LatestKey {
            fn from(number: $number) -> Self {
                let number = number as i64;
                LatestKey(u64::try_from(number).map_or(Repr::Negative(number), Repr::Number))
            }
        }
    )*};
}

from_unsigned!(u8 u16 u32 u64 usize);
from_signed!(i8 i16 i32 i64 isize);

impl From<&str> for LatestKey {
    fn from(name: &str) -> Self {
        LatestKey(Repr::Name(name.into()))
    }
}

impl From<&String> for LatestKey {
    fn from(name: &String) -> Self {
        name.as_str().into()
    }
}

impl From<String> for LatestKey {
    fn from(name: String) -> Self {
        LatestKey(Repr::Name(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_integer_is_the_same_key_in_every_integer_type() {
        let sevens: [LatestKey; 10] = [
            7u8.into(),
            7u16.into(),
            7u32.into(),
            7u64.into(),
            7usize.into(),
            7i8.into(),
            7i16.into(),
            7i32.into(),
            7i64.into(),
            7isize.into(),
        ];
        assert_eq!(HashSet::from(sevens).len(), 1);
        let minus: [LatestKey; 5] =
            [(-7i8).into(), (-7i16).into(), (-7i32).into(), (-7i64).into(), (-7isize).into()];
        assert_eq!(HashSet::from(minus).len(), 1);
        let others: [LatestKey; 8] = [
            0.into(),
            1.into(),
            (-1).into(),
            i64::MIN.into(),
            i64::MAX.into(),
            (i64::MIN as u64).into(),
            u64::MAX.into(),
            "0".into(),
        ];
        assert_eq!(HashSet::from(others).len(), 8);
    }

    #[test]
    fn a_string_is_the_same_key_in_every_string_type() {
        let name = "a room".to_owned();
        let keys: [LatestKey; 3] = ["a room".into(), (&name).into(), name.into()];
        assert!(keys.iter().all(|key| key.heap() == 6));
        assert_eq!(HashSet::from(keys).len(), 1);
        let empty = LatestKey::from("");
        assert_eq!((empty.heap(), LatestKey::from(u64::MAX).heap(), LatestKey::from(-1).heap()), (0, 0, 0));
        assert_ne!(empty, LatestKey::from(0));
        assert_ne!(LatestKey::from("a room"), LatestKey::from("A room"));
    }

    #[test]
    fn default_options_are_those_of_send() {
        let SendOptions { expires_in, priority, latest, uncompressed, except } = SendOptions::new();
        assert_eq!((expires_in, priority, latest), (None, Priority::Normal, None));
        assert_eq!((uncompressed, except), (false, None));
        assert!(Priority::Normal < Priority::High);
    }
}
