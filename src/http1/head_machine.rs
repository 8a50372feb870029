//! tungstenite's handshake machine between received bytes and a parsed head.
//!
//! The machine reads from a stream in memory and not from the socket, so that a head that it
//! rejects can still get a response. It counts what it reads and takes a head in many small pieces
//! for an attack, so the pieces are gathered here before that point.

use std::io::{self, ErrorKind, Read, Write};

use tungstenite::{
    Error,
    error::ProtocolError,
    handshake::machine::{HandshakeMachine, RoundResult, StageResult, TryParse},
};

/// A head that is arriving.
#[derive(Debug)]
pub(crate) struct HeadMachine {
    /// `None` only during a round, and after an error or the end of the head.
    machine: Option<HandshakeMachine<Received>>,
    /// Pieces that the machine has read.
    pieces: u8,
}

/// The received bytes of a head, of which the machine has read a part.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    /// Bytes that the machine has read, and bytes that it may read now.
    read: usize,
    available: usize,
}

impl Read for Received {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let unread = self.bytes.get(self.read..self.available).unwrap_or_default();
        if unread.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = unread.len().min(buf.len());
        let (Some(to), Some(from)) = (buf.get_mut(..count), unread.get(..count)) else { return Ok(0) };
        to.copy_from_slice(from);
        self.read += count;
        Ok(count)
    }
}

/// The machine writes nothing while it reads a head.
impl Write for Received {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HeadMachine {
    /// The two buffers of the machine, in bytes: what it reads at once, and what it keeps at first.
    const BUFFERS: usize = 2 * Self::CHUNK;
    const CHUNK: usize = 4096;

    /// Pieces of any size before gathering begins. The machine objects to the 65th piece if they
    /// have less than 128 bytes each on average. A head of 64 KiB has at most 16 chunks more from
    /// pieces that are longer than a chunk, and 16 from gathered ones.
    const UNGATHERED: u8 = 24;

    pub(crate) fn new() -> Self {
        HeadMachine { machine: Some(HandshakeMachine::start_read(Received::default())), pieces: 0 }
    }

    /// The bytes of the head so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.machine.as_ref().map_or(&[], |machine| &machine.get_ref().bytes)
    }

    /// Memory held, in bytes. What the machine has read is there twice.
    pub(crate) fn memory(&self) -> usize {
        self.machine.as_ref().map_or(0, |machine| {
            let received = machine.get_ref();
            Self::BUFFERS + received.bytes.capacity() + received.read
        })
    }

    /// Adds received bytes. The buffer doubles as `Vec` does, but not beyond `max`.
    pub(crate) fn push(&mut self, bytes: &[u8], max: usize) {
        let Some(machine) = &mut self.machine else { return };
        let buffer = &mut machine.get_mut().bytes;
        let len = buffer.len() + bytes.len();
        if len > buffer.capacity() {
            let capacity = len.max(max.min(2 * buffer.capacity()));
            buffer.reserve_exact(capacity - buffer.len());
        }
        buffer.extend_from_slice(bytes);
    }

    /// Lets the machine read the bytes of a head that is not complete, or gathers them.
    pub(crate) fn advance<T: TryParse>(&mut self) -> Result<(), Error> {
        let Some(machine) = &mut self.machine else { return Err(gone()) };
        let received = machine.get_mut();
        let gathered = received.bytes.len() - received.read;
        if self.pieces >= Self::UNGATHERED && gathered < Self::CHUNK {
            return Ok(());
        }
        self.pieces = self.pieces.saturating_add(1);
        received.available = received.bytes.len();
        match self.run::<T>()? {
            None => Ok(()),
            // `T` found the end of a head where there is none.
            Some(_) => Err(Error::Protocol(ProtocolError::JunkAfterRequest)),
        }
    }

    /// Lets the machine read the head, which ends after `len` bytes, and parse it.
    pub(crate) fn finish<T: TryParse>(&mut self, len: usize) -> Result<T, Error> {
        let Some(machine) = &mut self.machine else { return Err(gone()) };
        let received = machine.get_mut();
        received.bytes.truncate(len);
        received.available = len;
        self.run::<T>()?.ok_or_else(gone)
    }

    /// Runs rounds until the machine waits for more (`None`) or is done.
    fn run<T: TryParse>(&mut self) -> Result<Option<T>, Error> {
        loop {
            match self.machine.take().ok_or_else(gone)?.single_round::<T>()? {
                RoundResult::Incomplete(machine) => self.machine = Some(machine),
                RoundResult::WouldBlock(machine) => {
                    self.machine = Some(machine);
                    return Ok(None);
                }
                RoundResult::StageFinished(StageResult::DoneReading { result, .. }) => {
                    return Ok(Some(result));
                }
                RoundResult::StageFinished(StageResult::DoneWriting(_)) => return Err(gone()),
            }
        }
    }
}

fn gone() -> Error {
    Error::Protocol(ProtocolError::HandshakeIncomplete)
}

/// Whether `bytes` end with the empty line of a head. Empty lines before it are no head.
pub(crate) fn is_complete(bytes: &[u8]) -> bool {
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    blank < bytes.len() && bytes.ends_with(b"\r\n\r\n")
}

/// Writes `bytes` with the machine. `out` takes all of them, so that the machine never waits.
pub(crate) fn write_all(bytes: Vec<u8>, out: impl FnMut(&[u8])) {
    if bytes.is_empty() {
        return;
    }
    let mut machine = HandshakeMachine::start_write(Sink(out), bytes);
    // Its rounds need a type to parse, though none is parsed.
    while let Ok(RoundResult::Incomplete(next)) = machine.single_round::<Nothing>() {
        machine = next;
    }
}

struct Sink<F>(F);

impl<F> Read for Sink<F> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl<F: FnMut(&[u8])> Write for Sink<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Nothing;

impl TryParse for Nothing {
    fn try_parse(_: &[u8]) -> tungstenite::Result<Option<(usize, Self)>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of the head that was parsed.
    struct Length(usize);

    impl TryParse for Length {
        fn try_parse(data: &[u8]) -> tungstenite::Result<Option<(usize, Self)>> {
            Ok(is_complete(data).then_some((data.len(), Length(data.len()))))
        }
    }

    /// A head of `len` bytes.
    fn head(len: usize) -> Vec<u8> {
        let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
        head.resize(len - 4, b'a');
        head.extend_from_slice(b"\r\n\r\n");
        head
    }

    #[test]
    fn a_head_of_any_size_in_pieces_of_any_size_is_no_attack() {
        for len in [32, 1 << 10, 4096, 5_000, 16 << 10, 40_000, (64 << 10) - 1, 64 << 10] {
            let head = head(len);
            for size in (1..=200).chain([1_000, 4_095, 4_096, 4_097, 10_000, 65_536]) {
                let mut machine = HeadMachine::new();
                for piece in head[..len - 1].chunks(size) {
                    machine.push(piece, 64 << 10);
                    machine.advance::<Length>().unwrap_or_else(|error| panic!("{len}, {size}: {error}"));
                }
                machine.push(&head[len - 1..], 64 << 10);
                let Length(parsed) = machine.finish(len).unwrap();
                assert_eq!(parsed, len, "pieces of {size}");
            }
        }
    }

    #[test]
    fn memory_includes_the_buffers_of_the_machine() {
        let mut machine = HeadMachine::new();
        assert_eq!(machine.memory(), 8 << 10);
        machine.push(&[b'a'; 1_000], 64 << 10);
        machine.advance::<Length>().unwrap();
        assert_eq!(machine.memory(), (8 << 10) + 1_000 + 1_000);
    }

    #[test]
    fn empty_lines_alone_are_no_head() {
        assert!(!is_complete(b"") && !is_complete(b"\r\n\r\n") && !is_complete(b"\r\n\r\n\r\n"));
        assert!(is_complete(b"\r\nGET / HTTP/1.1\r\n\r\n") && !is_complete(b"GET / HTTP/1.1\r\n"));
    }

    #[test]
    fn everything_is_written_and_nothing_is_no_panic() {
        let mut written = Vec::new();
        write_all(Vec::new(), |bytes| written.extend_from_slice(bytes));
        assert!(written.is_empty());
        write_all(vec![7; 100_000], |bytes| written.extend_from_slice(bytes));
        assert_eq!(written, [7; 100_000]);
    }
}
