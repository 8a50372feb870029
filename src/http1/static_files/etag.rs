//! Entity tags, which identify a version of a file's content (RFC 9110 §8.8.3, §13.1.2).

use std::{
    fs::Metadata,
    hash::{DefaultHasher, Hasher},
    time::UNIX_EPOCH,
};

use http::header::{self, HeaderMap, HeaderValue};

/// A tag made from the content.
pub(super) fn of_bytes(bytes: &[u8]) -> Option<HeaderValue> {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    HeaderValue::try_from(format!("\"{:x}-{:x}\"", bytes.len(), hasher.finish())).ok()
}

/// A tag made from length and time of modification, without reading the file. `None` if the system
/// does not record that time.
pub(super) fn of_file(metadata: &Metadata) -> Option<HeaderValue> {
    let (sign, since) = match metadata.modified().ok()?.duration_since(UNIX_EPOCH) {
        Ok(since) => ("", since),
        Err(error) => ("-", error.duration()),
    };
    HeaderValue::try_from(format!("\"{:x}-{sign}{:x}\"", metadata.len(), since.as_nanos())).ok()
}

/// Whether `If-None-Match` contains this tag, so that the client has the content (RFC 9110
/// §13.1.2).
pub(super) fn is_known(etag: Option<&HeaderValue>, headers: &HeaderMap) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().any(|field| {
        let mut rest = field.as_bytes().trim_ascii();
        rest == b"*"
            || etag.is_some_and(|etag| std::iter::from_fn(|| next_tag(&mut rest)).any(|tag| tag == etag))
    })
}

/// Takes the next tag of a list with its quotes, but without `W/`, for the weak comparison (RFC
/// 9110 §8.8.3.2). A tag may contain a comma. A malformed list ends here, and the content is sent.
fn next_tag<'h>(rest: &mut &'h [u8]) -> Option<&'h [u8]> {
    let start = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
    let tag = rest.get(start..)?;
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    let opaque = tag.strip_prefix(b"\"")?;
    let end = opaque.iter().position(|byte| *byte == b'"')?;
    *rest = opaque.get(end + 1..)?;
    tag.get(..end + 2)
}
