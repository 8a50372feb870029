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

/// Replays the [recording](crate::ServerBuilder::record) of a server: an engine gets the same calls
/// at the same times, without sockets, without the application and without waiting.
///
/// The replay compares with the recording: each event, each byte written, each read, each address
/// of an outbound connection, and the timeout of each sleep. The first difference is an error that
/// names its position. Return values of the application's calls are not compared. The recording of
/// an incident thus is a test: it passes as long as the engine behaves in the same way, and gives
/// the events that the application got.
///
/// A [`Prepared`](crate::Prepared) that several servers send is compressed by the first server and
/// counts towards the `max_total_buffered` of that server. A recording does not contain other
/// servers: if another server with other settings sent the message first, the replay reports a
/// difference.
///
/// The file begins with `tickws\0tape` and the version of the format, 5. Over TLS it holds the
/// plain text above the records, and the parameters of each handshake, so that a replay needs no
/// keys. Blocks follow, at least one for each poll: length (32 bits) and digest (64 bits, FNV-1a),
/// both in little endian, then entries, each a number and its fields in varints. The digests detect
/// damage, not forgery. The
/// replay of a forged recording terminates, with or without an error. Its memory is bounded by what
/// the limits in the header allow a server to hold, plus 256 bytes for each byte of the recording,
/// plus 1 MB.
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
/// let mut received = Vec::new();
/// let replay = Replay::open(&path)?;
/// replay.run(|event, _at| {
///     if let Event::Message { message, .. } = event {
///         received.push(message.as_text().unwrap_or_default().to_owned());
///     }
/// })?;
/// assert_eq!(received, ["hello"]);
/// # std::fs::remove_file(path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Replay {
    replayer: Replayer,
    /// Whether an error has ended the replay.
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

    /// Same as [`open`](Replay::open), from any reader. The recording is read during the replay;
    /// memory holds the entries of one poll at a time.
    ///
    /// # Errors
    ///
    /// Same as [`open`](Replay::open).
    pub fn new(recording: impl Read + Send + 'static) -> Result<Self, ReplayError> {
        Ok(Replay { replayer: Replayer::new(Box::new(recording), kernel::clock())?, failed: false })
    }

    /// Replays to the end of the next poll and returns the tick that the application got; `None` if
    /// the recorded server was dropped instead.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Diverged`] with the first difference, [`ReplayError::Truncated`] if the
    /// recording ends before the server was dropped, [`ReplayError::Corrupt`] if the recording is
    /// damaged or continues after that. An error ends the replay: further calls return `None`.
    pub fn next_tick(&mut self) -> Result<Option<Tick>, ReplayError> {
        if self.failed {
            return Ok(None);
        }
        let outcome = self.replayer.next_tick();
        self.failed = outcome.is_err();
        outcome
    }

    /// Replays to the end and returns the counters of the server. Calls `on_event` with each event
    /// and the time since the server was built.
    ///
    /// # Errors
    ///
    /// Same as [`next_tick`](Replay::next_tick).
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

    /// The version of the library that made the recording. Another version may behave differently
    /// on purpose, for example after a fix.
    pub fn version(&self) -> &str {
        self.replayer.version()
    }
}
