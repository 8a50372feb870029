//! A recorded server, once more.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
    time::Duration,
};

use crate::{
    event::{Event, tick::Tick},
    net::kernel,
    stats::Stats,
    tape::{Player, ReplayError},
};

/// Does again what a server did that was [recorded](crate::ServerBuilder::record): the same engine is told the
/// same things at the same times, without sockets, without the application and as fast as it can.
///
/// Each event, each byte written, each read and each address that was asked for, and how long the server would sleep
/// is compared with the recording; the first difference is an error that names its place. What calls of the
/// application returned is not. So a recording of an incident is a test: it passes as long as the
/// engine does the same, and shows what the application saw.
///
/// What the engine is told does not include what other servers did with the same [`Prepared`](crate::Prepared). It is
/// compressed by the one that sends it first, and counts towards that one's `max_total_buffered`: if another server did
/// with other settings, that is told as a difference.
///
/// The file begins with `tickws\0tape` and the format's version, 2. Then come blocks, at least one for each poll:
/// length (32 bits) and digest (64 bits, FNV-1a) in little endian, then entries of a number and its fields, in
/// varints. The digests find damage, not forgery. A forged recording ends, too, with an error or without; but its limits are those
/// that it says, and what they allow a server to hold (broadcasts to many, messages that inflate) it may hold. Besides
/// that, less than 256 bytes for each of its own, and a megabyte.
///
/// # Examples
///
/// ```
/// use tickws::{Event, Server, sim::{Replay, Sim}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("tickws-doc-{}.tape", std::process::id()));
/// // The incident, here a simulated one.
/// let sim = Sim::new(1);
/// let mut server = sim.server(Server::builder().record(std::fs::File::create(&path)?))?;
/// let mut client = sim.connect(&server, "/");
/// client.send("hello");
/// for _ in 0..3 {
///     server.poll_once()?;
/// }
/// drop(server);
///
/// // The test.
/// let mut heard = Vec::new();
/// let replay = Replay::open(&path)?;
/// replay.run(|event, _at| {
///     if let Event::Message { message, .. } = event {
///         heard.push(message.as_text().unwrap_or_default().to_owned());
///     }
/// })?;
/// assert_eq!(heard, ["hello"]);
/// # std::fs::remove_file(path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Replay {
    player: Player,
    /// Nothing more is to be learned.
    failed: bool,
}

impl Replay {
    /// Opens a recording and builds the engine that it was made with.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Io`], [`ReplayError::Foreign`] for any other file, [`ReplayError::Version`], and as
    /// [`next_tick`](Replay::next_tick).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReplayError> {
        Replay::new(BufReader::new(File::open(path)?))
    }

    /// As [`open`](Replay::open), from anything. It is read as the replay goes on; what one poll received, sent
    /// and was told is held at a time.
    ///
    /// # Errors
    ///
    /// As [`open`](Replay::open).
    pub fn new(recording: impl Read + Send + 'static) -> Result<Self, ReplayError> {
        Ok(Replay { player: Player::new(Box::new(recording), kernel::clock())?, failed: false })
    }

    /// Goes on to the end of the next poll, and gives the tick that the application got. `None`: the server was
    /// dropped then.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Diverged`] with the first difference, [`ReplayError::Truncated`] where the recording ends
    /// without the server's end, [`ReplayError::Corrupt`] where it is damaged or goes on behind that end. After an
    /// error there is nothing more to be learned: further calls give `None`.
    pub fn next_tick(&mut self) -> Result<Option<Tick>, ReplayError> {
        if self.failed {
            return Ok(None);
        }
        let outcome = self.player.next_tick();
        self.failed = outcome.is_err();
        outcome
    }

    /// Replays all of it; `on_event` gets each event with the time since the server began.
    ///
    /// # Errors
    ///
    /// As [`next_tick`](Replay::next_tick).
    pub fn run(mut self, mut on_event: impl FnMut(Event<'_>, Duration)) -> Result<Stats, ReplayError> {
        while let Some(tick) = self.next_tick()? {
            for event in &tick {
                on_event(event, self.elapsed());
            }
        }
        Ok(self.stats())
    }

    /// How far the replay is, since the server began.
    pub fn elapsed(&self) -> Duration {
        self.player.elapsed()
    }

    /// The server's counters at this point.
    pub fn stats(&self) -> Stats {
        self.player.stats()
    }

    /// The version of this library that has recorded. Another version may do something else, rightly.
    pub fn version(&self) -> &str {
        self.player.version()
    }
}
