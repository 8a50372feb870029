//! Replays a recorded server.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
    time::Duration,
};

use crate::{
    event::{Event, tick::Tick},
    net::kernel,
    record::{ReplayError, Replayer},
    stats::Stats,
};

/// Repeats what a [recorded](crate::ServerBuilder::record) server did: the same engine gets the
/// same calls at the same times, without sockets, without the application and as fast as it can.
///
/// Each event, each byte written, each read, each address that was asked for, and how long the
/// server would sleep is compared with the recording; the first difference is an error that names
/// its place. Return values that the application got are not compared. A recording of an incident
/// thus is a test: it passes as long as the engine does the same, and shows what the application
/// saw.
///
/// A [`Prepared`](crate::Prepared) that several servers send is compressed by the first one and
/// counts towards its `max_total_buffered`. A recording knows nothing of other servers: if another
/// one sent the message first, with other settings, the replay reports a difference.
///
/// The file begins with `tickws\0tape` and the version of the format, 2. Blocks follow, at least
/// one for each poll: length (32 bits) and digest (64 bits, FNV-1a), both in little endian, then
/// entries, each a number and its fields in varints. The digests find damage, not forgery. A forged
/// recording ends as well, with an error or without. Its limits are those in its header, so it may
/// hold what they allow a server to hold (broadcasts to many, messages that inflate); beyond that
/// it holds less than 256 bytes for each of its own, and a megabyte.
///
/// # Examples
///
/// ```
/// use tickws::{Event, Server, sim::{Replay, Sim}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = std::env::temp_dir().join(format!("tickws-doc-{}.recording", std::process::id()));
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
    replayer: Replayer,
    /// An error has ended the replay.
    failed: bool,
}

impl Replay {
    /// Opens a recording and builds an engine with the recorded settings.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Io`], [`ReplayError::Foreign`] for a file of another kind,
    /// [`ReplayError::Version`] for a recording in another version of the format, and as
    /// [`next_tick`](Replay::next_tick).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReplayError> {
        Replay::new(BufReader::new(File::open(path)?))
    }

    /// As [`open`](Replay::open), from any reader. The recording is read as the replay goes on:
    /// memory holds the entries of one poll at a time.
    ///
    /// # Errors
    ///
    /// As [`open`](Replay::open).
    pub fn new(recording: impl Read + Send + 'static) -> Result<Self, ReplayError> {
        Ok(Replay { replayer: Replayer::new(Box::new(recording), kernel::clock())?, failed: false })
    }

    /// Replays to the end of the next poll and gives the tick that the application got. `None` if
    /// the server was dropped instead.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Diverged`] with the first difference, [`ReplayError::Truncated`] if the
    /// recording ends before the server was dropped, [`ReplayError::Corrupt`] if it is damaged or
    /// goes on after that. An error ends the replay: further calls give `None`.
    pub fn next_tick(&mut self) -> Result<Option<Tick>, ReplayError> {
        if self.failed {
            return Ok(None);
        }
        let outcome = self.replayer.next_tick();
        self.failed = outcome.is_err();
        outcome
    }

    /// Replays to the end; `on_event` gets each event and the time since the server was built.
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

    /// The position of the replay: the time since the server was built.
    pub fn elapsed(&self) -> Duration {
        self.replayer.elapsed()
    }

    /// The counters of the server at this position.
    pub fn stats(&self) -> Stats {
        self.replayer.stats()
    }

    /// The version of this library that recorded. Another version may differ for good reason.
    pub fn version(&self) -> &str {
        self.replayer.version()
    }
}
