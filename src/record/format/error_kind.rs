//! The numbers of [`ErrorKind`]s. Applications see them in events, so a replay compares them.

use std::io::{self, ErrorKind};

use super::codec::{Decode, Encode};

/// An error kind is its position in this table. New kinds go to the end.
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
        CrossesDevices,
        InvalidFilename,
    ]
};

/// Error kinds that stable Rust has no path for, although applications see them: a process that is
/// out of descriptors gets `Uncategorized`. Inside this process they are recognised by the text
/// that the standard library prints; the encoded number is the position here, counted from
/// [`FIRST_UNSTABLE`]. New kinds go to the end.
const UNSTABLE_KINDS: &[&str] = &["Uncategorized", "FilesystemLoop", "InProgress"];

const FIRST_UNSTABLE: usize = 100;

impl Encode for ErrorKind {
    fn put(&self, out: &mut Vec<u8>) {
        let stable = KINDS.iter().position(|kind| kind == self);
        let number = stable.or_else(|| {
            let text = format!("{self:?}");
            let place = UNSTABLE_KINDS.iter().position(|name| *name == text)?;
            Some(FIRST_UNSTABLE + place)
        });
        // A kind that neither table lists is encoded as `Other`, which has the number 0.
        number.unwrap_or(0).put(out);
    }
}

impl Decode for ErrorKind {
    fn get(input: &mut &[u8]) -> Option<Self> {
        let number = usize::get(input)?;
        let Some(place) = number.checked_sub(FIRST_UNSTABLE) else { return KINDS.get(number).copied() };
        let name = UNSTABLE_KINDS.get(place)?;
        let mut kinds = (1..=255).map(|code| io::Error::from_raw_os_error(code).kind());
        // The system that replays may not have the kind of the one that recorded.
        Some(kinds.find(|kind| format!("{kind:?}") == *name).unwrap_or(ErrorKind::Other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_kind_of_this_system_is_read_back() {
        for code in 1..=255 {
            let kind = io::Error::from_raw_os_error(code).kind();
            let mut bytes = Vec::new();
            kind.put(&mut bytes);
            let mut input = &bytes[..];
            assert_eq!((ErrorKind::get(&mut input), input.len()), (Some(kind), 0), "{code}");
        }
    }

    #[test]
    fn numbers_that_no_kind_has_are_refused() {
        let next = FIRST_UNSTABLE + UNSTABLE_KINDS.len();
        for number in [KINDS.len(), FIRST_UNSTABLE - 1, next, usize::MAX] {
            let mut bytes = Vec::new();
            number.put(&mut bytes);
            assert_eq!(ErrorKind::get(&mut &bytes[..]), None, "{number}");
        }
    }
}
