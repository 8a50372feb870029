//! Static content on the WebSocket port: finds what is at a path, in memory or in a folder. Does no
//! network I/O.

mod etag;
mod path;
#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{self, HeaderValue},
};
use mime_guess::{Mime, mime};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{error::ConfigError, outbox::prepared::Prepared};
use path::Target;

/// The routes of the static content: to bytes in memory and to folders.
///
/// A route to bytes takes precedence over all folders. Of the folders that cover a path only the
/// one with the longest prefix is searched. A route that is registered again replaces the earlier
/// one.
///
/// A folder is searched on every request, so that files may change while the server runs. That
/// takes a handful of system calls on the server's thread, so a folder belongs on a local disk.
/// Clients cannot reach files outside of the folder, but anyone who may write to it decides what is
/// served.
#[derive(Debug, Default)]
pub(crate) struct StaticFiles {
    /// The routes to bytes, by decoded path.
    assets: HashMap<String, Asset>,
    /// The routes to folders, the longest prefix first; no two prefixes are equal.
    folders: Vec<Folder>,
}

/// The body of a response.
#[derive(Debug)]
pub(crate) enum Content {
    Empty,
    /// Bytes in memory, shared by all clients they are sent to.
    Shared(Prepared),
    /// A file, of which the caller reads `len` bytes as the client takes them.
    File {
        file: File,
        len: u64,
    },
}

impl Content {
    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Content::Empty => 0,
            Content::Shared(bytes) => bytes.len() as u64,
            Content::File { len, .. } => *len,
        }
    }
}

#[derive(Debug)]
struct Asset {
    content_type: HeaderValue,
    etag: Option<HeaderValue>,
    bytes: Prepared,
}

#[derive(Debug)]
struct Folder {
    /// Decoded path without the slash at its end; empty for `/`.
    prefix: String,
    /// Canonical path of the folder.
    root: PathBuf,
}

/// Headers and content of the response to a GET.
struct Entry {
    content_type: HeaderValue,
    etag: Option<HeaderValue>,
    len: u64,
    content: Content,
}

enum Found {
    Entry(Entry),
    /// A folder that was requested without the slash at its end; the location to redirect to.
    Elsewhere(HeaderValue),
    /// A file that exists but cannot be opened at the moment.
    Busy,
}

impl StaticFiles {
    /// Serves `bytes` at exactly `path`, which is not percent-decoded.
    pub(crate) fn serve_bytes(&mut self, path: &str, mime: &str, bytes: Vec<u8>) -> Result<(), ConfigError> {
        let wrong = || ConfigError::InvalidMime(mime.to_string());
        let content_type = content_type(&mime.parse().map_err(|_| wrong())?).ok_or_else(wrong)?;
        // Clients resolve `.` and `..` before they send a request.
        if !path::is_plain(path) || path.split('/').any(|name| matches!(name, "." | "..")) {
            return Err(ConfigError::InvalidPath(path.to_string()));
        }
        let asset = Asset { content_type, etag: etag::of_bytes(&bytes), bytes: Prepared::raw(bytes) };
        self.assets.insert(path.to_string(), asset);
        Ok(())
    }

    /// Serves the files in `dir` and its subfolders under `prefix`, with or without a slash at its
    /// end.
    pub(crate) fn serve_dir(&mut self, prefix: &str, dir: &Path) -> Result<(), ConfigError> {
        let wrong = || ConfigError::InvalidPath(prefix.to_string());
        let trimmed = prefix.strip_suffix('/').unwrap_or(prefix);
        // An empty segment could turn the Location of a redirect into another host (`//host`).
        if !path::is_plain(prefix) || trimmed.split('/').skip(1).any(|name| matches!(name, "" | "." | "..")) {
            return Err(wrong());
        }
        let missing = |error| ConfigError::NoFolder { dir: dir.to_path_buf(), error };
        let root = dir.canonicalize().map_err(|error| missing(error.kind()))?;
        if !root.is_dir() {
            return Err(missing(io::ErrorKind::NotADirectory));
        }
        self.folders.retain(|folder| folder.prefix != trimmed);
        self.folders.push(Folder { prefix: trimmed.to_string(), root });
        self.folders.sort_by_key(|folder| std::cmp::Reverse(folder.prefix.len()));
        Ok(())
    }

    /// The routes to bytes, ordered by path, each with its content type and its bytes.
    #[cfg(feature = "sim")]
    pub(crate) fn assets(&self) -> Vec<(String, (String, bytes::Bytes))> {
        let asset = |(path, asset): (&String, &Asset)| {
            let content_type = asset.content_type.to_str().unwrap_or_default().to_owned();
            let bytes = bytes::Bytes::copy_from_slice(asset.bytes.payload());
            (path.clone(), (content_type, bytes))
        };
        let mut assets: Vec<_> = self.assets.iter().map(asset).collect();
        assets.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        assets
    }

    /// Whether any folder is served. Its files may change at any time.
    #[cfg(feature = "sim")]
    pub(crate) fn has_folders(&self) -> bool {
        !self.folders.is_empty()
    }

    /// Whether there are no routes.
    pub(crate) fn is_empty(&self) -> bool {
        self.assets.is_empty() && self.folders.is_empty()
    }

    /// The response to a request for `path`, as it stands in the request without its query. Only a
    /// 200 to a GET has a body, the `Content`.
    ///
    /// `None`: no route covers this path, or a folder covers it and has no such file.
    pub(crate) fn find(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Content>> {
        let path = path::decode(path)?;
        let found = match self.assets.get(&*path) {
            Some(asset) => Found::Entry(asset.entry()),
            None => {
                let (folder, rest) = self.folders.iter().find_map(|f| Some((f, f.rest(&path)?)))?;
                folder.find(&path, rest)?
            }
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = bodiless(StatusCode::METHOD_NOT_ALLOWED);
            // RFC 9110 §15.5.6: a 405 must list the allowed methods.
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Some(response);
        }
        Some(match found {
            Found::Entry(entry) => entry.respond(method, headers),
            // Caches may store a 404 (RFC 9110 §15.1), but not a 503.
            Found::Busy => bodiless(StatusCode::SERVICE_UNAVAILABLE),
            Found::Elsewhere(location) => {
                let mut response = bodiless(StatusCode::MOVED_PERMANENTLY);
                response.headers_mut().insert(header::LOCATION, location);
                // Without this field a browser may store the redirect for years (RFC 9110 §15.4.2).
                response.headers_mut().insert(header::CACHE_CONTROL, NO_CACHE);
                response
            }
        })
    }
}

impl Asset {
    fn entry(&self) -> Entry {
        let len = self.bytes.len() as u64;
        let content = if len == 0 { Content::Empty } else { Content::Shared(self.bytes.clone()) };
        Entry { content_type: self.content_type.clone(), etag: self.etag.clone(), len, content }
    }
}

impl Folder {
    /// The part of `path` behind the prefix: empty, or beginning with a slash. `None` if the folder
    /// does not cover `path`.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(&*self.prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn find(&self, path: &str, rest: &str) -> Option<Found> {
        match path::open(&self.root, rest)? {
            Target::File { file, metadata, extension_of } => {
                let len = metadata.len();
                let content = if len == 0 { Content::Empty } else { Content::File { file, len } };
                let content_type =
                    content_type(&mime_guess::from_path(extension_of).first_or_octet_stream())?;
                Some(Found::Entry(Entry { content_type, etag: etag::of_file(&metadata), len, content }))
            }
            Target::Busy => Some(Found::Busy),
            Target::Folder => {
                // The path has no empty segment, so the Location cannot be read as `//host`.
                let location = format!("{}/", utf8_percent_encode(path, ESCAPED));
                HeaderValue::try_from(location).ok().map(Found::Elsewhere)
            }
        }
    }
}

impl Entry {
    fn respond(self, method: &Method, headers: &HeaderMap) -> Response<Content> {
        let known = etag::is_known(self.etag.as_ref(), headers);
        let content = if known || *method == Method::HEAD { Content::Empty } else { self.content };
        let mut response = Response::new(content);
        let fields = response.headers_mut();
        if let Some(etag) = self.etag {
            fields.insert(header::ETAG, etag);
        }
        fields.insert(header::CACHE_CONTROL, NO_CACHE);
        fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if known {
            // RFC 9110 §8.6: Content-Length would have to be that of the 200, which some clients
            // take for the length of this response.
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            fields.insert(header::CONTENT_TYPE, self.content_type);
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(self.len));
        }
        response
    }
}

/// A cache may store the response, but must validate it before each use (RFC 9111 §5.2.2.4).
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// Characters that are escaped in a `Location`: all but the slash and the unreserved ones (RFC 3986
/// §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn bodiless(status: StatusCode) -> Response<Content> {
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    response
}

/// Adds `charset=utf-8` to a text type without a charset, because a browser would guess one. `None`
/// if the type is not a valid header.
fn content_type(mime: &Mime) -> Option<HeaderValue> {
    if mime.subtype() == "" {
        return None;
    }
    if mime.type_() == mime::TEXT && mime.get_param(mime::CHARSET).is_none() {
        HeaderValue::try_from(format!("{mime}; charset=utf-8")).ok()
    } else {
        HeaderValue::from_str(mime.as_ref()).ok()
    }
}
