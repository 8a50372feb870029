//! Values ↔ bytes: numbers as varints (LEB128), signed ones zigzag, everything else made of them.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use tungstenite::{
    Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Response},
};

use crate::{
    config::{reconnect::Reconnect, send_options::LatestKey},
    id::{ClientId, RequestId, RoomId, TimerId, UpgradeId},
};

/// What can be written, and read back; `None`: that is not what was written.
pub(crate) trait Code: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(input: &mut &[u8]) -> Option<Self>;
}

impl Code for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        let mut left = *self;
        while left >= 0x80 {
            out.push(left as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = u8::get(input)?;
            let part = u64::from(byte & 0x7f);
            // Nothing may be shifted out at the top.
            value |= part.checked_mul(1 << shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl Code for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        let (first, rest) = input.split_first()?;
        *input = rest;
        Some(*first)
    }
}

impl Code for i64 {
    fn put(&self, out: &mut Vec<u8>) {
        (((*self << 1) ^ (*self >> 63)) as u64).put(out);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        let coded = u64::get(input)?;
        Some((coded >> 1) as i64 ^ -((coded & 1) as i64))
    }
}

/// Numbers that are written as `u64`.
macro_rules! as_u64 {
    ($($type:ty)*) => {$(
        impl Code for $type {
            fn put(&self, out: &mut Vec<u8>) {
                (*self as u64).put(out);
            }

            fn get(input: &mut &[u8]) -> Option<Self> {
                <$type>::try_from(u64::get(input)?).ok()
            }
        }
    )*};
}

as_u64!(u16 u32 usize);

impl Code for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        match u8::get(input)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Code for () {
    fn put(&self, _: &mut Vec<u8>) {}

    fn get(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl Code for Bytes {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        out.extend_from_slice(self);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        let len = usize::get(input)?;
        let (taken, rest) = input.split_at_checked(len)?;
        *input = rest;
        Some(Bytes::copy_from_slice(taken))
    }
}

impl Code for String {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        String::from_utf8(Bytes::get(input)?.into()).ok()
    }
}

impl<T: Code> Code for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(if bool::get(input)? { Some(T::get(input)?) } else { None })
    }
}

impl<T: Code, E: Code> Code for Result<T, E> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_ok().put(out);
        match self {
            Ok(value) => value.put(out),
            Err(error) => error.put(out),
        }
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(if bool::get(input)? { Ok(T::get(input)?) } else { Err(E::get(input)?) })
    }
}

impl<T: Code> Code for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        // Not by the length that is claimed.
        (0..usize::get(input)?).map(|_| T::get(input)).collect()
    }
}

impl<A: Code, B: Code> Code for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        Some((A::get(input)?, B::get(input)?))
    }
}

impl Code for Duration {
    fn put(&self, out: &mut Vec<u8>) {
        (self.as_secs(), self.subsec_nanos()).put(out);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        let (secs, nanos) = <(u64, u32)>::get(input)?;
        (nanos < 1_000_000_000).then(|| Duration::new(secs, nanos))
    }
}

impl Code for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_string().put(out);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        String::get(input)?.parse().ok()
    }
}

/// Ids: their place and their serial.
macro_rules! ids {
    ($($type:ident)*) => {$(
        impl Code for $type {
            fn put(&self, out: &mut Vec<u8>) {
                (self.index(), self.serial()).put(out);
            }

            fn get(input: &mut &[u8]) -> Option<Self> {
                Some($type::new(Code::get(input)?, Code::get(input)?))
            }
        }
    )*};
}

ids!(ClientId TimerId RoomId UpgradeId RequestId);

impl Code for LatestKey {
    fn put(&self, out: &mut Vec<u8>) {
        self.parts().map(str::to_owned).put(out);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(match Result::<String, Result<u64, i64>>::get(input)? {
            Ok(name) => name.into(),
            Err(Ok(number)) => number.into(),
            Err(Err(number)) => number.into(),
        })
    }
}

impl Code for Reconnect {
    fn put(&self, out: &mut Vec<u8>) {
        let (base, cap, stable_after, max_tries) = self.parts();
        ((base, cap), (stable_after, max_tries)).put(out);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        let policy =
            Reconnect::new().base(Code::get(input)?).cap(Code::get(input)?).stable_after(Code::get(input)?);
        let max_tries: Option<u32> = Code::get(input)?;
        Some(max_tries.map_or(policy, |tries| policy.max_tries(tries)))
    }
}

impl Code for HeaderMap {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        for (name, value) in self {
            name.as_str().to_owned().put(out);
            Bytes::copy_from_slice(value.as_bytes()).put(out);
        }
    }

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

impl Code for Response<Bytes> {
    fn put(&self, out: &mut Vec<u8>) {
        self.status().as_u16().put(out);
        self.headers().put(out);
        self.body().put(out);
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        let status = u16::get(input)?;
        let headers = <HeaderMap as Code>::get(input)?;
        let mut response = Response::builder().status(status).body(Bytes::get(input)?).ok()?;
        *response.headers_mut() = headers;
        Some(response)
    }
}

/// As a place in this table: it grows at its end only.
const KINDS: &[ErrorKind] = {
    use ErrorKind::*;
    &[
        Other,
        NotFound,
        PermissionDenied,
        ConnectionRefused,
        ConnectionReset,
        HostUnreachable,
        NetworkUnreachable,
        ConnectionAborted,
        NotConnected,
        AddrInUse,
        AddrNotAvailable,
        NetworkDown,
        BrokenPipe,
        AlreadyExists,
        WouldBlock,
        NotADirectory,
        IsADirectory,
        DirectoryNotEmpty,
        ReadOnlyFilesystem,
        StaleNetworkFileHandle,
        InvalidInput,
        InvalidData,
        TimedOut,
        WriteZero,
        StorageFull,
        NotSeekable,
        QuotaExceeded,
        FileTooLarge,
        ResourceBusy,
        ExecutableFileBusy,
        Deadlock,
        TooManyLinks,
        ArgumentListTooLong,
        Interrupted,
        Unsupported,
        UnexpectedEof,
        OutOfMemory,
    ]
};

/// In place of that: the name follows. Some kinds have none in stable Rust that could be written here, and the
/// application sees them all the same: `Uncategorized` is what a process out of descriptors gets.
const NAMED: usize = 0xff;

impl Code for ErrorKind {
    fn put(&self, out: &mut Vec<u8>) {
        match KINDS.iter().position(|kind| kind == self) {
            Some(place) => place.put(out),
            None => (NAMED, format!("{self:?}")).put(out),
        }
    }

    fn get(input: &mut &[u8]) -> Option<Self> {
        match usize::get(input)? {
            NAMED => {
                let name = String::get(input)?;
                let kinds = (1..=255).map(|code| std::io::Error::from_raw_os_error(code).kind());
                // Of another system, perhaps.
                Some(kinds.into_iter().find(|kind| format!("{kind:?}") == name).unwrap_or(ErrorKind::Other))
            }
            place => KINDS.get(place).copied(),
        }
    }
}

/// Structs: their fields, one after the other.
macro_rules! code_struct {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::tape::code::Code for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::tape::code::Code::put(&self.$field, out);)*
            }

            fn get(input: &mut &[u8]) -> Option<Self> {
                $(let $field = $crate::tape::code::Code::get(input)?;)*
                Some($type { $($field),* })
            }
        }
    };
}

/// Enums: the variant's number, then its fields.
macro_rules! code_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[$doc:meta])* $tag:literal $variant:ident { $($field:ident: $type:ty),* $(,)? },)*
    }) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$doc])* $variant { $($field: $type),* },)*
        }

        impl $crate::tape::code::Code for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant { $($field),* } => {
                        out.push($tag);
                        $($crate::tape::code::Code::put($field, out);)*
                    })*
                }
            }

            fn get(input: &mut &[u8]) -> Option<Self> {
                match <u8 as $crate::tape::code::Code>::get(input)? {
                    $($tag => Some($name::$variant { $($field: $crate::tape::code::Code::get(input)?),* }),)*
                    _ => None,
                }
            }
        }
    };
}

pub(super) use code_enum;
pub(super) use code_struct;
