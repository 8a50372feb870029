//! Resolves the path of a request to a file inside a served folder.
//!
//! The rules for names are the same on all systems, so that a folder that is safe on one is safe on
//! all.

use std::{
    borrow::Cow,
    fs::{self, File, Metadata},
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

use percent_encoding::percent_decode_str;

/// The longest path, in bytes as in the request, that is resolved.
const MAX_PATH: usize = 2048;
/// The file that is served for a path that ends in a slash.
const INDEX: &str = "index.html";

/// Result of resolving a path.
#[derive(Debug)]
pub(super) enum Target<'p> {
    /// A file. `extension_of` is the requested name, which may be that of a symlink.
    File { file: File, metadata: Metadata, extension_of: &'p str },
    /// A folder that has an index; the path lacks the slash at its end.
    Folder,
    /// The file exists, but cannot be opened at the moment, as descriptors or memory are used up.
    Busy,
}

/// Percent-decodes the path of a request once. `None`: no route can cover it.
pub(super) fn decode(path: &str) -> Option<Cow<'_, str>> {
    if path.len() > MAX_PATH {
        return None;
    }
    let plain = percent_decode_str(path).decode_utf8().ok()?;
    // An escaped slash does not separate segments (RFC 3986 §2.2), and no name contains a slash.
    let slashes = |text: &str| text.matches('/').count();
    (is_plain(&plain) && slashes(&plain) == slashes(path)).then_some(plain)
}

/// Whether a decoded path may be that of a route.
pub(super) fn is_plain(path: &str) -> bool {
    path.starts_with('/') && path.len() <= MAX_PATH && !path.contains(|c: char| c == '\\' || c.is_control())
}

/// Opens the file at `rest` in `root`, which is canonical. `rest` is decoded, and is empty or
/// begins with a slash.
pub(super) fn open<'p>(root: &Path, rest: &'p str) -> Option<Target<'p>> {
    let mut path = root.to_path_buf();
    let Some(names) = rest.strip_prefix('/') else {
        return is_index_in(root, path).then_some(Target::Folder);
    };
    let mut names = names.split('/');
    let last = names.next_back()?;
    for name in names {
        path.push(Some(name).filter(|name| is_servable(name))?);
    }
    let last = if last.is_empty() { INDEX } else { last };
    path.push(Some(last).filter(|name| is_servable(name))?);

    let path = inside(root, path)?;
    // Checked before the file is opened: opening a pipe waits for a writer, and opening a device
    // may do anything.
    let metadata = fs::metadata(&path).ok()?;
    if metadata.is_dir() && !rest.ends_with('/') {
        return is_index_in(root, path).then_some(Target::Folder);
    }
    if !metadata.is_file() {
        return None;
    }
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return None;
        }
        Err(error) => {
            log::warn!("{} cannot be opened, so the client gets 503: {error}", path.display());
            return Some(Target::Busy);
        }
    };
    // Metadata of the opened file, which another one may have replaced since the check above.
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some(Target::File { file, metadata, extension_of: last })
}

fn is_index_in(root: &Path, mut folder: PathBuf) -> bool {
    folder.push(INDEX);
    inside(root, folder).is_some_and(|index| index.is_file())
}

/// The canonical path, if it is inside `root` and no part of it is a dotfile, wherever symlinks
/// point. On Windows only a canonical path has the long names, where `GIT~1` may be `.git`.
fn inside(root: &Path, path: PathBuf) -> Option<PathBuf> {
    if cfg!(unix) && !has_link(root, &path)? {
        // The root is canonical, and each name in it has been checked.
        return Some(path);
    }
    let path = path.canonicalize().ok()?;
    let visible = |part: Component<'_>| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    };
    path.strip_prefix(root).ok()?.components().all(visible).then_some(path)
}

/// Whether a symlink is on the way from `root` to `path`; `None` if `path` does not exist. For most
/// files this takes half the time of finding the canonical path.
fn has_link(root: &Path, path: &Path) -> Option<bool> {
    let mut at = root.to_path_buf();
    for part in path.strip_prefix(root).ok()?.components() {
        at.push(part);
        if fs::symlink_metadata(&at).ok()?.is_symlink() {
            return Some(true);
        }
    }
    Some(false)
}

/// Whether one segment of a decoded path may be the name of a file or folder.
fn is_servable(name: &str) -> bool {
    // `.` and `..` begin with a dot as well. On Windows a colon follows a drive or precedes an
    // alternate stream, and dots and spaces at the end are dropped, so that `.env.` would be
    // `.env`.
    !name.is_empty()
        && !name.starts_with('.')
        && !name.ends_with(['.', ' '])
        && !name.contains(':')
        && !is_device(name)
}

/// Whether the name is that of a Windows device, which exists in every folder, with any extension.
pub(super) fn is_device(name: &str) -> bool {
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem).trim_end_matches(' ');
    let is = |device: &str| stem.eq_ignore_ascii_case(device);
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"].into_iter().any(is) {
        return true;
    }
    // COM and LPT with a digit, which may be a superscript one, two or three.
    let mut unnumbered = stem.chars();
    unnumbered.next_back().is_some_and(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³'))
        && ["COM", "LPT"].into_iter().any(|device| unnumbered.as_str().eq_ignore_ascii_case(device))
}
