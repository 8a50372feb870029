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
    proto::prepared::Prepared,
};

impl<'a> Message<'a> {
    /// A text message with the value as JSON, written straight into its frame. Feature `json`.
    ///
    /// It can be sent to many, and is serialized and framed once. As with `serde_json`, a number that is
    /// not finite (`f64::NAN`) becomes `null`.
    ///
    /// # Errors
    ///
    /// JSON cannot express the value (a map has keys that are no strings, for instance), or its `Serialize`
    /// refuses it. Never for what `derive` makes of numbers, strings, options and sequences.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde::Serialize;
    /// use tickws::{JsonError, Message, Server};
    ///
    /// #[derive(Serialize)]
    /// struct Score {
    ///     name: String,
    ///     points: u32,
    /// }
    ///
    /// fn announce(server: &mut Server, scores: &[Score]) -> Result<(), JsonError> {
    ///     server.broadcast(Message::json(scores)?);
    ///     Ok(())
    /// }
    /// ```
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Prepared, JsonError> {
        let written = Prepared::try_written(Kind::Text, |bytes| {
            value.serialize(&mut serde_json::Serializer::new(bytes))
        });
        written.map_err(|error| {
            // Keeping track of the path costs time, so it is done for what has failed only.
            let sink = &mut serde_json::Serializer::new(io::sink());
            JsonError::new(serde_path_to_error::serialize(value, sink).err(), error)
        })
    }

    /// Reads the message, text or binary, as JSON. Feature `json`.
    ///
    /// `T` may borrow from the message: a `&str` does, unless the string has escapes, which is an error;
    /// a [`Cow`](std::borrow::Cow) with `#[serde(borrow)]` takes both. Nothing but white space may follow
    /// the value. Nesting deeper than 128 is an error and never a stack that overflows.
    ///
    /// # Errors
    ///
    /// The message is no JSON or no `T`; [`JsonError`] says where. The connection is as it was: to answer,
    /// to close or to ignore it is for the application to decide.
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
    /// let error = Message::Text(r#"{"name": "ann", "volume": 300}"#).parse_json::<Say>().err().unwrap();
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

/// Reads a whole message; `source` begins it anew.
fn parse<'de, T: Deserialize<'de>, R: Read<'de>>(source: impl Fn() -> R) -> Result<T, JsonError> {
    let mut json = serde_json::Deserializer::new(source());
    let value = T::deserialize(&mut json).map_err(|error| {
        // Keeping track of the path makes reading two to three times as slow, so it is done for what has
        // failed only.
        let json = &mut serde_json::Deserializer::new(source());
        JsonError::new(serde_path_to_error::deserialize::<_, T>(json).err(), error)
    })?;
    json.end().map_err(|error| JsonError::new(None, error))?;
    Ok(value)
}

/// Why a message is not the JSON that was expected, and where; or why a value cannot become JSON.
///
/// It reads `data.position[2].x: invalid type: string "a", expected f32 at line 1 column 34`, and is made
/// for a log or an answer to the peer: its text is one line of bounded length, whatever the peer has sent.
/// That does not hold for the text of its [`source`](Error::source), the `serde_json::Error`.
pub struct JsonError {
    path: Box<str>,
    source: serde_json::Error,
}

impl JsonError {
    /// The text's longest path and longest message, in characters.
    const MAX_PATH: usize = 200;
    const MAX_MESSAGE: usize = 300;

    /// `error` is what happened, `tracked` the same with its path. A hand-written `Deserialize` might not
    /// fail twice: then there is no path.
    fn new(tracked: Option<serde_path_to_error::Error<serde_json::Error>>, error: serde_json::Error) -> Self {
        let Some(tracked) = tracked else { return JsonError { path: "".into(), source: error } };
        let mut path = String::new();
        if tracked.path().iter().len() > 0 {
            let _ = write!(OneLine::new(&mut path, Self::MAX_PATH), "{}", tracked.path());
        }
        JsonError { path: path.into(), source: tracked.into_inner() }
    }

    /// The way to what failed, such as `data.position[2].x`; empty if it is the value as a whole. A key of
    /// the peer's making has its control characters escaped, and a very long path is cut.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The line of the message, counted from 1; 0 if a value could not become JSON.
    pub fn line(&self) -> usize {
        self.source.line()
    }

    /// The column in bytes, where reading ended: usually that of the last byte of what failed, counted
    /// from 1. 0 at the very beginning of a line, and if a value could not become JSON.
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
        // Whatever has to be cut, the place stays.
        let (message, place) = match text.strip_suffix(&place) {
            Some(message) => (message, place.as_str()),
            None => (text.as_str(), ""),
        };
        OneLine::new(f, Self::MAX_MESSAGE).write_str(message)?;
        f.write_str(place)
    }
}

/// As `Display`, so that it is fit for a log as well.
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

/// Passes on so many characters, and escapes those that could break a line or garble it.
struct OneLine<'w, W> {
    out: &'w mut W,
    left: usize,
}

impl<'w, W: Write> OneLine<'w, W> {
    fn new(out: &'w mut W, max: usize) -> Self {
        // The last one says that something is missing.
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

/// Control characters, and those of Unicode that end a line or turn the direction of writing.
fn garbles(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A message that says what it is: `{"type": …, "data": …}` on the wire. Feature `json`.
///
/// For programs that look at the type first, or have types that are not known when they are built. Fields
/// besides these two are ignored. `data` may be missing if `T` is an `Option`, and then it is `None`; for
/// any other `T`, `()` included, it must be there (as `null` for `()`). To keep `data` for later, let `T`
/// be a `serde_json::Value`.
///
/// If all types are known, an enum does the same, and the compiler sees to it that none is forgotten:
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
/// let request = Message::Text(r#"{"type": "move", "data": {"x": 1.5, "y": 2}}"#).parse_json::<Request>()?;
/// assert_eq!(request, Request::Move { x: 1.5, y: 2.0 });
/// assert_eq!(Message::Text(r#"{"type": "leave"}"#).parse_json::<Request>()?, Request::Leave);
/// # Ok::<(), tickws::JsonError>(())
/// ```
///
/// # Examples
///
/// A program that answers what it does not understand:
///
/// ```no_run
/// use tickws::{Envelope, Event, Message, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind("127.0.0.1:9001")?;
/// loop {
///     for event in &server.poll_wait(None)? {
///         let Event::Message { client, message } = event else { continue };
///         let answer = match message.parse_json::<Envelope<[f32; 2]>>() {
///             Ok(request) if request.r#type == "move" => Envelope::new("moved", format!("{:?}", request.data)),
///             Ok(request) => Envelope::new("error", format!("what is {:?}?", request.r#type)),
///             Err(error) => Envelope::new("error", error.to_string()), // and the connection stays
///         };
///         if let Err(error) = server.send(client, Message::json(&answer)?) {
///             println!("no answer: {error}");
///         }
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// What `data` is.
    pub r#type: String,
    /// The content.
    pub data: T,
}

impl<T> Envelope<T> {
    /// An envelope of that type.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{Envelope, Message};
    ///
    /// let joined = Message::json(&Envelope::new("joined", "ann"))?;
    /// assert_eq!(joined.len(), r#"{"type":"joined","data":"ann"}"#.len());
    /// # Ok::<(), tickws::JsonError>(())
    /// ```
    pub fn new(r#type: impl Into<String>, data: T) -> Envelope<T> {
        Envelope { r#type: r#type.into(), data }
    }
}

#[cfg(test)]
mod tests;
