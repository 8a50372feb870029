//! How values become bytes: numbers are varints (LEB128), signed ones zigzag, and everything else
//! is made of them.
//!
//! The bytes are chosen here and nowhere derived from the `Debug` or `Display` text of a type.
//! Where a type of this crate is encoded, the match is exhaustive or the struct is destructured, so
//! a new variant or field does not compile before it is encoded.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::{
    config::{reconnect::Reconnect, send_options::LatestKey},
    id::{ClientId, ExchangeId, RoomId, Serial, TimerId, UpgradeId},
    message::Kind,
    peer_addr::{PeerAddr, UnixCredentials},
};

pub(crate) trait Encode {
    /// Appends the value to `out`.
    fn put(&self, out: &mut Vec<u8>);
}

pub(crate) trait Decode: Sized {
    /// Takes a value from the front of `input`. `None` if no `put` of this type gives these bytes.
    fn get(input: &mut &[u8]) -> Option<Self>;
}

impl Encode for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        let mut left = *self;
        while left >= 0x80 {
            out.push(left as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
    }
}

impl Decode for u64 {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = u8::get(input)?;
            let part = u64::from(byte & 0x7f);
            // A number whose upper bits would be shifted out is invalid.
            value |= part.checked_mul(1 << shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl Encode for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
}

impl Decode for u8 {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let (first, rest) = input.split_first()?;
        *input = rest;
        Some(*first)
    }
}

impl Encode for i64 {
    fn put(&self, out: &mut Vec<u8>) {
        (((*self << 1) ^ (*self >> 63)) as u64).put(out);
    }
}

impl Decode for i64 {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let coded = u64::get(input)?;
        Some((coded >> 1) as i64 ^ -((coded & 1) as i64))
    }
}

/// Implements both traits for a number by way of `u64`.
macro_rules! as_u64 {
    ($($type:ty)*) => {$(
        impl Encode for $type {
            fn put(&self, out: &mut Vec<u8>) {
                (*self as u64).put(out);
            }
        }

        impl Decode for $type {
            fn get(input: &mut &[u8]) -> Option<Self> {
                <$type>::try_from(u64::get(input)?).ok()
            }
        }
    )*};
}

as_u64!(u16 u32 usize);

impl Encode for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Decode for bool {
    fn get(input: &mut &[u8]) -> Option<Self> {
        match u8::get(input)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Encode for () {
    fn put(&self, _: &mut Vec<u8>) {}
}

impl Decode for () {
    fn get(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl Encode for [u8] {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        out.extend_from_slice(self);
    }
}

impl Encode for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        self[..].put(out);
    }
}

impl Decode for Bytes {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let len = usize::get(input)?;
        let (taken, rest) = input.split_at_checked(len)?;
        *input = rest;
        Some(Bytes::copy_from_slice(taken))
    }
}

impl Encode for str {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_bytes().put(out);
    }
}

impl Encode for String {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().put(out);
    }
}

impl Decode for String {
    fn get(input: &mut &[u8]) -> Option<Self> {
        String::from_utf8(Bytes::get(input)?.into()).ok()
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
}

impl<T: Encode> Encode for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|value| value.put(out));
    }
}

impl<T: Decode> Decode for Option<T> {
    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(if bool::get(input)? { Some(T::get(input)?) } else { None })
    }
}

impl<T: Encode, E: Encode> Encode for Result<T, E> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_ok().put(out);
        match self {
            Ok(value) => value.put(out),
            Err(error) => error.put(out),
        }
    }
}

impl<T: Decode, E: Decode> Decode for Result<T, E> {
    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(if bool::get(input)? { Ok(T::get(input)?) } else { Err(E::get(input)?) })
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        self.iter().for_each(|value| value.put(out));
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn get(input: &mut &[u8]) -> Option<Self> {
        // Memory grows with the elements that are there, never by the length that is claimed.
        (0..usize::get(input)?).map(|_| T::get(input)).collect()
    }
}

impl<A: Encode, B: Encode> Encode for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
}

impl<A: Decode, B: Decode> Decode for (A, B) {
    fn get(input: &mut &[u8]) -> Option<Self> {
        Some((A::get(input)?, B::get(input)?))
    }
}

impl Encode for Duration {
    fn put(&self, out: &mut Vec<u8>) {
        (self.as_secs(), self.subsec_nanos()).put(out);
    }
}

impl Decode for Duration {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let (secs, nanos) = <(u64, u32)>::get(input)?;
        (nanos < 1_000_000_000).then(|| Duration::new(secs, nanos))
    }
}

/// Two bytes in little endian: a varint would give addresses of one kind different lengths.
fn put_port(port: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&port.to_le_bytes());
}

fn get_array<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*array)
}

impl Encode for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            SocketAddr::V4(addr) => {
                out.push(4);
                out.extend_from_slice(&addr.ip().octets());
                put_port(addr.port(), out);
            }
            SocketAddr::V6(addr) => {
                out.push(6);
                out.extend_from_slice(&addr.ip().octets());
                put_port(addr.port(), out);
                (addr.flowinfo(), addr.scope_id()).put(out);
            }
        }
    }
}

impl Decode for SocketAddr {
    fn get(input: &mut &[u8]) -> Option<Self> {
        match u8::get(input)? {
            4 => {
                let (octets, port) = (get_array::<4>(input)?, get_array(input)?);
                Some(SocketAddrV4::new(octets.into(), u16::from_le_bytes(port)).into())
            }
            6 => {
                let (octets, port) = (get_array::<16>(input)?, get_array(input)?);
                let (flowinfo, scope_id) = Decode::get(input)?;
                Some(SocketAddrV6::new(octets.into(), u16::from_le_bytes(port), flowinfo, scope_id).into())
            }
            _ => None,
        }
    }
}

impl Encode for PeerAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            PeerAddr::Ip(addr) => addr.put(out),
            // Without a port: the tags differ from those of addresses with one.
            PeerAddr::Portless(IpAddr::V4(ip)) => {
                out.push(40);
                out.extend_from_slice(&ip.octets());
            }
            PeerAddr::Portless(IpAddr::V6(ip)) => {
                out.push(60);
                out.extend_from_slice(&ip.octets());
            }
            PeerAddr::Unix(None) => out.push(1),
            PeerAddr::Unix(Some(UnixCredentials { pid, uid, gid })) => {
                out.push(2);
                ((*pid, *uid), *gid).put(out);
            }
        }
    }
}

impl Decode for PeerAddr {
    fn get(input: &mut &[u8]) -> Option<Self> {
        match input.first()? {
            4 | 6 => return SocketAddr::get(input).map(PeerAddr::Ip),
            _ => {}
        }
        match u8::get(input)? {
            40 => Some(PeerAddr::Portless(IpAddr::from(get_array::<4>(input)?))),
            60 => Some(PeerAddr::Portless(IpAddr::from(get_array::<16>(input)?))),
            1 => Some(PeerAddr::Unix(None)),
            2 => {
                let ((pid, uid), gid) = Decode::get(input)?;
                Some(PeerAddr::Unix(Some(UnixCredentials { pid, uid, gid })))
            }
            _ => None,
        }
    }
}

impl Encode for Serial {
    fn put(&self, out: &mut Vec<u8>) {
        self.get().put(out);
    }
}

impl Decode for Serial {
    fn get(input: &mut &[u8]) -> Option<Self> {
        u64::get(input).map(Serial::new)
    }
}

/// Implements both traits for an id: its index, then its serial.
macro_rules! ids {
    ($($type:ident)*) => {$(
        impl Encode for $type {
            fn put(&self, out: &mut Vec<u8>) {
                (self.index(), self.serial()).put(out);
            }
        }

        impl Decode for $type {
            fn get(input: &mut &[u8]) -> Option<Self> {
                Some($type::new(Decode::get(input)?, Decode::get(input)?))
            }
        }
    )*};
}

ids!(ClientId TimerId RoomId UpgradeId ExchangeId);

impl Encode for LatestKey {
    fn put(&self, out: &mut Vec<u8>) {
        self.parts().put(out);
    }
}

impl Decode for LatestKey {
    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(match Result::<String, Result<u64, i64>>::get(input)? {
            Ok(name) => name.into(),
            Err(Ok(number)) => number.into(),
            Err(Err(number)) => number.into(),
        })
    }
}

impl Encode for Reconnect {
    fn put(&self, out: &mut Vec<u8>) {
        let (base, cap, stable_after, max_tries) = self.parts();
        ((base, cap), (stable_after, max_tries)).put(out);
    }
}

impl Decode for Reconnect {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let policy = Reconnect::new()
            .base(Decode::get(input)?)
            .cap(Decode::get(input)?)
            .stable_after(Decode::get(input)?);
        let max_tries: Option<u32> = Decode::get(input)?;
        Some(max_tries.map_or(policy, |tries| policy.max_tries(tries)))
    }
}

impl Encode for HeaderMap {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        for (name, value) in self {
            name.as_str().put(out);
            value.as_bytes().put(out);
        }
    }
}

impl Decode for HeaderMap {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let mut headers = HeaderMap::new();
        for _ in 0..usize::get(input)? {
            let (name, value) = <(String, Bytes)>::get(input)?;
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.try_append(name, HeaderValue::from_bytes(&value).ok()?).ok()?;
        }
        Some(headers)
    }
}

impl Encode for Response<Bytes> {
    fn put(&self, out: &mut Vec<u8>) {
        self.status().as_u16().put(out);
        self.headers().put(out);
        self.body().put(out);
    }
}

impl Decode for Response<Bytes> {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let status = u16::get(input)?;
        let headers = <HeaderMap as Decode>::get(input)?;
        let mut response = Response::builder().status(status).body(Bytes::get(input)?).ok()?;
        *response.headers_mut() = headers;
        Some(response)
    }
}

/// Implements both traits for an existing enum without fields: the number of the variant.
macro_rules! codec_fieldless {
    ($type:ident { $($number:literal $variant:ident),* $(,)? }) => {
        impl Encode for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.push(match self {
                    $($type::$variant => $number,)*
                });
            }
        }

        impl Decode for $type {
            fn get(input: &mut &[u8]) -> Option<Self> {
                match u8::get(input)? {
                    $($number => Some($type::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

codec_fieldless!(Kind { 0 Binary, 1 Text });

/// Implements both traits for a struct: its fields, one after the other.
macro_rules! codec_struct {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl Encode for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $(Encode::put(&self.$field, out);)*
            }
        }

        impl Decode for $type {
            fn get(input: &mut &[u8]) -> Option<Self> {
                $(let $field = Decode::get(input)?;)*
                Some($type { $($field),* })
            }
        }
    };
}

/// Declares an enum and implements both traits for it: the number of the variant, then its fields.
macro_rules! codec_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[$doc:meta])* $tag:literal $variant:ident { $($field:ident: $type:ty),* $(,)? },)*
    }) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$doc])* $variant { $($field: $type),* },)*
        }

        impl Encode for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant { $($field),* } => {
                        out.push($tag);
                        $(Encode::put($field, out);)*
                    })*
                }
            }
        }

        impl Decode for $name {
            fn get(input: &mut &[u8]) -> Option<Self> {
                match u8::get(input)? {
                    $($tag => Some($name::$variant { $($field: Decode::get(input)?),* }),)*
                    _ => None,
                }
            }
        }
    };
}

pub(super) use codec_enum;
pub(super) use codec_fieldless;
pub(super) use codec_struct;

/// The tests of whole replays show that both sides of the codec agree; these show its edges.
#[cfg(test)]
mod tests {
    use super::*;

    /// The encoded bytes, and what is decoded from them.
    fn round_trip<T: Encode + Decode>(value: &T) -> (Vec<u8>, Option<T>) {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        let mut input = &bytes[..];
        let decoded = T::get(&mut input);
        assert!(input.is_empty());
        (bytes, decoded)
    }

    #[test]
    fn numbers_at_the_edges_are_read_back_and_longer_ones_are_refused() {
        for number in [0, 1, 127, 128, u64::MAX / 2, u64::MAX] {
            assert_eq!(round_trip(&number).1, Some(number));
            for number in [number as i64, (number as i64).wrapping_neg()] {
                assert_eq!(round_trip(&number).1, Some(number));
            }
        }
        assert_eq!(u64::get(&mut &[0xff; 20][..]), None);
        assert_eq!(u64::get(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]), None);
        assert_eq!(u64::get(&mut &[0x80][..]), None);
        assert_eq!(bool::get(&mut &[2][..]), None);
        assert_eq!(Vec::<u8>::get(&mut &[0xff, 0xff, 0xff, 0xff, 0x0f, 1][..]), None);
    }

    #[test]
    fn addresses_are_read_back_with_their_scope() {
        let v4: SocketAddr = "10.0.0.2:80".parse().unwrap();
        assert_eq!(round_trip(&v4), (vec![4, 10, 0, 0, 2, 80, 0], Some(v4)));
        let v6 = SocketAddrV6::new("fe80::1".parse().unwrap(), 443, 5, 3).into();
        assert_eq!(round_trip::<SocketAddr>(&v6).1, Some(v6));
        assert_eq!(SocketAddr::get(&mut &[5, 1, 2, 3, 4, 80, 0][..]), None);
    }
}
