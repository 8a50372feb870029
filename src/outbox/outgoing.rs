//! The message argument of the sending calls.

use std::{borrow::Cow, rc::Rc, sync::Arc};

use bytes::{Bytes, BytesMut};

use crate::{
    message::{Kind, Message},
    outbox::prepared::Prepared,
};

/// Anything that can be sent: text becomes a text message, bytes a binary one.
///
/// The sending calls take `impl AsMessage`, which is
///
/// - text: `&str`, `String`, `Cow<str>`, `Box<str>`, `Arc<str>`, `Rc<str>`;
/// - bytes: `&[u8]`, `[u8; N]`, `Vec<u8>`, `Cow<[u8]>`, `Box<[u8]>`, `Arc<[u8]>`, `Rc<[u8]>`,
///   `Bytes`, `BytesMut`;
/// - a received [`Message`], and a [`Prepared`], which is framed already;
/// - a reference to any of these.
///
/// The payload is copied into the client's outbox, or written directly; an owned value is dropped
/// when the call returns. Implement the trait for a type that holds its encoded form.
///
/// # Examples
///
/// ```
/// use tickws::{AsMessage, ClientId, Outgoing, SendError, Server};
///
/// struct Snapshot {
///     encoded: Vec<u8>,
/// }
///
/// impl AsMessage for Snapshot {
///     fn as_message(&self) -> Outgoing<'_> {
///         self.encoded.as_message()
///     }
/// }
///
/// fn update(server: &mut Server, client: ClientId, state: &Snapshot) -> Result<(), SendError> {
///     server.send(client, format!("{} bytes follow", state.encoded.len()))?;
///     server.send(client, state)
/// }
/// ```
pub trait AsMessage {
    /// The message, borrowed.
    fn as_message(&self) -> Outgoing<'_>;
}

/// A borrowed message, framed already or not.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outgoing<'m> {
    /// A message that is framed when it is queued.
    Message(Message<'m>),
    /// A message that is framed already.
    Prepared(Prepared),
}

impl Outgoing<'_> {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Outgoing::Message(message) => message.kind(),
            Outgoing::Prepared(prepared) => prepared.kind(),
        }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        match self {
            Outgoing::Message(message) => message.as_bytes(),
            Outgoing::Prepared(prepared) => prepared.payload(),
        }
    }

    /// Whether this is a prepared message, large enough to be shared by its recipients' outboxes.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Outgoing::Prepared(prepared) if prepared.is_shared())
    }

    /// Frames the message, unless it is framed already.
    pub(crate) fn prepare(self) -> Prepared {
        match self {
            Outgoing::Message(message) => Prepared::frame_message(message),
            Outgoing::Prepared(prepared) => prepared,
        }
    }
}

impl<'m, M: Into<Message<'m>>> From<M> for Outgoing<'m> {
    fn from(message: M) -> Self {
        Outgoing::Message(message.into())
    }
}

impl From<&Prepared> for Outgoing<'_> {
    fn from(prepared: &Prepared) -> Self {
        Outgoing::Prepared(prepared.clone())
    }
}

impl From<Prepared> for Outgoing<'_> {
    fn from(prepared: Prepared) -> Self {
        Outgoing::Prepared(prepared)
    }
}

impl Prepared {
    /// Frames a message (RFC 6455 §5.2), unfragmented and unmasked, as a server sends it.
    pub fn new(message: impl AsMessage) -> Prepared {
        message.as_message().prepare()
    }
}

impl AsMessage for str {
    #[inline(always)]
    fn as_message(&self) -> Outgoing<'_> {
        Outgoing::Message(Message::Text(self))
    }
}

impl AsMessage for [u8] {
    #[inline(always)]
    fn as_message(&self) -> Outgoing<'_> {
        Outgoing::Message(Message::Binary(self))
    }
}

impl AsMessage for Message<'_> {
    #[inline(always)]
    fn as_message(&self) -> Outgoing<'_> {
        Outgoing::Message(*self)
    }
}

impl AsMessage for Outgoing<'_> {
    #[inline(always)]
    fn as_message(&self) -> Outgoing<'_> {
        self.clone()
    }
}

impl AsMessage for Prepared {
    #[inline(always)]
    fn as_message(&self) -> Outgoing<'_> {
        Outgoing::Prepared(self.clone())
    }
}

impl<const N: usize> AsMessage for [u8; N] {
    #[inline(always)]
    fn as_message(&self) -> Outgoing<'_> {
        self.as_slice().as_message()
    }
}

/// Implements the trait for types that dereference to text or bytes.
macro_rules! by_deref {
    ($([$($generics:tt)*] $owner:ty,)*) => {$(
        impl<$($generics)*> AsMessage for $owner {
            #[inline(always)]
            fn as_message(&self) -> Outgoing<'_> {
                (**self).as_message()
            }
        }
    )*};
}

by_deref! {
    [] String,
    [] Vec<u8>,
    [] Bytes,
    [] BytesMut,
    [T: AsMessage + ?Sized] &T,
    [T: AsMessage + ?Sized] &mut T,
    [T: AsMessage + ?Sized] Box<T>,
    [T: AsMessage + ?Sized] Rc<T>,
    [T: AsMessage + ?Sized] Arc<T>,
}

impl<T: AsMessage + ToOwned + ?Sized> AsMessage for Cow<'_, T> {
    #[inline(always)]
    fn as_message(&self) -> Outgoing<'_> {
        (**self).as_message()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: impl AsMessage) -> bool {
        matches!(message.as_message(), Outgoing::Message(Message::Text("hi")))
    }

    fn bytes(message: impl AsMessage) -> bool {
        matches!(message.as_message(), Outgoing::Message(Message::Binary(b"hi")))
    }

    #[test]
    fn all_kinds_of_text_are_text_messages() {
        let owned = String::from("hi");
        assert!(text("hi") && text("hi") && text(&owned) && text(owned.clone()) && text(format!("h{}", 'i')));
        assert!(text(Box::<str>::from("hi")) && text(Rc::<str>::from("hi")) && text(Arc::<str>::from("hi")));
        assert!(text(Cow::Borrowed("hi")) && text(Cow::Borrowed("hi")) && text(Cow::<str>::Owned(owned)));
        assert!(text(Message::Text("hi")) && text(Message::Text("hi")) && text(String::from("hi")));
    }

    #[test]
    fn all_kinds_of_bytes_are_binary_messages() {
        let owned = b"hi".to_vec();
        assert!(bytes(b"hi") && bytes(*b"hi") && bytes(&owned) && bytes(&owned[..]) && bytes(owned.clone()));
        assert!(bytes(Box::<[u8]>::from(&b"hi"[..])) && bytes(Arc::<[u8]>::from(&b"hi"[..])));
        assert!(bytes(Cow::Borrowed(&b"hi"[..])) && bytes(Cow::<[u8]>::Owned(owned)));
        assert!(bytes(Bytes::from_static(b"hi")) && bytes(Bytes::from_static(b"hi")));
        assert!(bytes(BytesMut::from(&b"hi"[..])) && bytes(Message::Binary(b"hi")));
    }

    #[test]
    fn a_prepared_message_stays_framed() {
        let prepared = Prepared::new("hi");
        assert!(matches!(prepared.as_message(), Outgoing::Prepared(_)));
        let again = Prepared::new(&prepared);
        assert_eq!(again.frame().as_ptr(), prepared.frame().as_ptr());
    }
}
