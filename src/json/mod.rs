//! JSON messages (feature `json`).

use std::{
    error::Error,
    fmt::{self, Write},
    io,
};

use serde::{Deserialize, Serialize};
use serde_json::de::{Read, SliceRead, StrRead};

use crate::{
    message::{Kind, Message},
    outbox::prepared::Prepared,
};

impl Prepared {
    /// Serializes the value as JSON into a text message, directly into its frame. Feature `json`.
    ///
    /// The message is serialized and framed once, also for many recipients. As in `serde_json`, a
    /// number that is not finite (`f64::NAN`) becomes `null`.
    ///
    /// # Errors
    ///
    /// [`JsonError`] if JSON cannot express the value (for instance a map with keys that are not
    /// strings), or its `Serialize` fails. A derived `Serialize` of numbers, strings, options and
    /// sequences never fails.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde::Serialize;
    /// use tickws::{JsonError, Prepared, Server};
    ///
    /// #[derive(Serialize)]
    /// struct Score {
    ///     name: String,
    ///     points: u32,
    /// }
    ///
    /// fn announce(server: &mut Server, scores: &[Score]) -> Result<(), JsonError> {
    ///     let _ = server.broadcast(Prepared::json(scores)?);
    ///     Ok(())
    /// }
    /// ```
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Prepared, JsonError> {
        let written = Prepared::try_written(Kind::Text, |bytes| {
            value.serialize(&mut serde_json::Serializer::new(bytes))
        });
        written.map_err(|error| {
            // Tracking the path costs time, so only a failed value is serialized again with it.
            let sink = &mut serde_json::Serializer::new(io::sink());
            JsonError::new(serde_path_to_error::serialize(value, sink).err(), error)
        })
    }
}

impl<'a> Message<'a> {
    /// Parses the message, text or binary, as JSON. Feature `json`.
    ///
    /// `T` may borrow from the message. A `&str` field does, and is an error for a string with
    /// escapes; a [`Cow`](std::borrow::Cow) with `#[serde(borrow)]` takes both. Only white space
    /// may follow the value. Nesting deeper than 128 is an error, so it cannot overflow the stack.
    ///
    /// # Errors
    ///
    /// [`JsonError`] if the message is not JSON or not a `T`, with the place. The connection stays
    /// open: the application decides whether to reply, to close or to ignore the message.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde::Deserialize;
    /// use tickws::Message;
    ///
    /// #[derive(Deserialize)]
    /// struct Say<'a> {
    ///     name: &'a str,
    ///     volume: u8,
    /// }
    ///
    /// let say: Say = Message::Text(r#"{"name": "ann", "volume": 3}"#).parse_json()?;
    /// assert_eq!((say.name, say.volume), ("ann", 3));
    ///
    /// let loud = Message::Text(r#"{"name": "ann", "volume": 300}"#);
    /// let error = loud.parse_json::<Say>().err().unwrap();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "volume: invalid value: integer `300`, expected u8 at line 1 column 29"
    /// );
    /// # Ok::<(), tickws::JsonError>(())
    /// ```
    pub fn parse_json<T: Deserialize<'a>>(self) -> Result<T, JsonError> {
        match self {
            Message::Text(text) => parse(|| StrRead::new(text)),
            Message::Binary(bytes) => parse(|| SliceRead::new(bytes)),
        }
    }
}

/// Parses a whole message. Each call of `source` reads it from the start.
fn parse<'de, T: Deserialize<'de>, R: Read<'de>>(source: impl Fn() -> R) -> Result<T, JsonError> {
    let mut json = serde_json::Deserializer::new(source());
    let value = T::deserialize(&mut json).map_err(|error| {
        // Tracking the path makes parsing two to three times as slow, so only a failed message is
        // parsed again with it.
        let json = &mut serde_json::Deserializer::new(source());
        JsonError::new(serde_path_to_error::deserialize::<_, T>(json).err(), error)
    })?;
    json.end().map_err(|error| JsonError::new(None, error))?;
    Ok(value)
}

/// Why a message is not the expected JSON, and where; or why a value cannot be serialized.
///
/// It displays as `data.position[2].x: invalid type: string "a", expected f32 at line 1 column 34`,
/// and is suitable for a log or a reply to the peer: its text is one line of bounded length for any
/// input. The text of its [`source`](Error::source), the `serde_json::Error`, is not bounded.
pub struct JsonError {
    path: Box<str>,
    source: serde_json::Error,
}

impl JsonError {
    /// The longest path and the longest message in the text, in characters.
    const MAX_PATH: usize = 200;
    const MAX_MESSAGE: usize = 300;

    /// `error` is the original error, `tracked` the same error with its path. There is no path if a
    /// hand-written `Deserialize` does not fail again.
    fn new(tracked: Option<serde_path_to_error::Error<serde_json::Error>>, error: serde_json::Error) -> Self {
        let Some(tracked) = tracked else { return JsonError { path: "".into(), source: error } };
        let mut path = String::new();
        if tracked.path().iter().len() > 0 {
            let _ = write!(OneLine::new(&mut path, Self::MAX_PATH), "{}", tracked.path());
        }
        JsonError { path: path.into(), source: tracked.into_inner() }
    }

    /// The path of the value that failed, such as `data.position[2].x`; empty for the whole
    /// message. Control characters in keys are escaped, and a very long path is truncated.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The line in the message, counted from 1; 0 if a value could not be serialized.
    pub fn line(&self) -> usize {
        self.source.line()
    }

    /// The column in bytes where parsing stopped, counted from 1: usually the last byte of the
    /// value that failed. 0 at the beginning of a line, or if a value could not be serialized.
    pub fn column(&self) -> usize {
        self.source.column()
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        let text = self.source.to_string();
        let place = format!(" at line {} column {}", self.line(), self.column());
        // Only the message is truncated, so that the place is always shown.
        let (message, place) = match text.strip_suffix(&place) {
            Some(message) => (message, place.as_str()),
            None => (text.as_str(), ""),
        };
        OneLine::new(f, Self::MAX_MESSAGE).write_str(message)?;
        f.write_str(place)
    }
}

/// Prints the text of `Display`, which is safe to log.
impl fmt::Debug for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonError({self})")
    }
}

impl Error for JsonError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Writes at most a given number of characters, and escapes those that break or garble a line.
struct OneLine<'w, W> {
    out: &'w mut W,
    left: usize,
}

impl<'w, W: Write> OneLine<'w, W> {
    fn new(out: &'w mut W, max: usize) -> Self {
        // One more, for the ellipsis that marks truncation.
        OneLine { out, left: max + 1 }
    }
}

impl<W: Write> Write for OneLine<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            if self.left == 0 {
                self.out.write_char('…')?;
            } else if garbles(c) {
                write!(self.out, "{}", c.escape_default())?;
            } else {
                self.out.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Whether `c` is a control character, a Unicode line end or a Unicode direction mark.
fn garbles(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A JSON message with a type: `{"type": …, "data": …}`. Feature `json`.
///
/// For programs that examine the type first, or whose types are not known at compile time. Other
/// fields are ignored. A missing `data` is `None` if `T` is an `Option`, and an error for any other
/// `T`, including `()` (which is `null`). To parse `data` later, use `serde_json::Value` as `T`.
///
/// If all types are known, an enum does the same, and the compiler checks that each one is handled:
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use tickws::Message;
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// #[serde(tag = "type", content = "data", rename_all = "snake_case")]
/// enum Request {
///     Say(String),
///     Move { x: f32, y: f32 },
///     Leave,
/// }
///
/// let message = Message::Text(r#"{"type": "move", "data": {"x": 1.5, "y": 2}}"#);
/// assert_eq!(message.parse_json::<Request>()?, Request::Move { x: 1.5, y: 2.0 });
/// assert_eq!(Message::Text(r#"{"type": "leave"}"#).parse_json::<Request>()?, Request::Leave);
/// # Ok::<(), tickws::JsonError>(())
/// ```
///
/// # Examples
///
/// A program that replies to messages it does not understand:
///
/// ```no_run
/// use tickws::{Envelope, Event, Prepared, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind("127.0.0.1:9001")?;
/// loop {
///     for event in &server.poll_wait(None)? {
///         let Event::Message { client, message } = event else { continue };
///         let reply = match message.parse_json::<Envelope<[f32; 2]>>() {
///             Ok(Envelope { kind, data }) if kind == "move" => {
///                 Envelope::new("moved", format!("{data:?}"))
///             }
///             Ok(other) => Envelope::new("error", format!("unknown type {:?}", other.kind)),
///             // The connection stays open.
///             Err(error) => Envelope::new("error", error.to_string()),
///         };
///         if let Err(error) = server.send(client, Prepared::json(&reply)?) {
///             println!("no reply: {error}");
///         }
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// The type of `data`, `type` on the wire.
    #[serde(rename = "type")]
    pub kind: String,
    /// The content.
    pub data: T,
}

impl<T> Envelope<T> {
    /// Makes an envelope of this type.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{Envelope, Prepared};
    ///
    /// let joined = Prepared::json(&Envelope::new("joined", "ann"))?;
    /// assert_eq!(joined.len(), r#"{"type":"joined","data":"ann"}"#.len());
    /// # Ok::<(), tickws::JsonError>(())
    /// ```
    pub fn new(kind: impl Into<String>, data: T) -> Envelope<T> {
        Envelope { kind: kind.into(), data }
    }
}

#[cfg(test)]
mod tests;
