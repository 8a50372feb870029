//! From a request's path to a file that lies in the folder, or to nothing.
//!
//! What a name may be does not depend on the system, so that a folder that is safe on one is safe on all.

use std::{
    borrow::Cow,
    fs::{self, File, Metadata},
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

use percent_encoding::percent_decode_str;

/// Above this many bytes, as they stand in the request, no path is looked at.
const MAX_PATH: usize = 2048;
/// What is served for a path that ends in a slash.
const INDEX: &str = "index.html";

/// What a path leads to.
#[derive(Debug)]
pub(super) enum Target<'p> {
    /// `extension_of` is the name that was asked for, which may be a symlink's.
    File { file: File, metadata: Metadata, extension_of: &'p str },
    /// It has an index, and the path lacks the slash at its end.
    Folder,
    /// It is there, but not to be had for now: no descriptors, or no memory.
    Busy,
}

/// Decodes a request's path, once. `None`: no route can cover it.
pub(super) fn decode(path: &str) -> Option<Cow<'_, str>> {
    if path.len() > MAX_PATH {
        return None;
    }
    let plain = percent_decode_str(path).decode_utf8().ok()?;
    // An escaped slash separates nothing (RFC 3986 §2.2), and no name has one.
    let slashes = |text: &str| text.matches('/').count();
    (is_plain(&plain) && slashes(&plain) == slashes(path)).then_some(plain)
}

/// Whether a decoded path can be that of a route.
pub(super) fn is_plain(path: &str) -> bool {
    path.starts_with('/') && path.len() <= MAX_PATH && !path.contains(|c: char| c == '\\' || c.is_control())
}

/// Opens what is at `rest` below `root`, which is canonical. `rest` is decoded; it is empty or begins with a
/// slash.
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
    // Before it is opened: opening a pipe waits for its writer, and opening a device may do anything.
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
            log::warn!("{} cannot be opened: {error}", path.display());
            return Some(Target::Busy);
        }
    };
    // Of what was opened, which may be another by now.
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some(Target::File { file, metadata, extension_of: last })
}

fn is_index_in(root: &Path, mut folder: PathBuf) -> bool {
    folder.push(INDEX);
    inside(root, folder).is_some_and(|index| index.is_file())
}

/// The canonical path if it is below `root` with no dotfile between, wherever symlinks lead. Canonical names
/// are also the long ones on Windows, where `GIT~1` may be `.git`.
fn inside(root: &Path, path: PathBuf) -> Option<PathBuf> {
    if cfg!(unix) && !has_link(root, &path)? {
        // The root is canonical, and every name below it has been looked at.
        return Some(path);
    }
    let path = path.canonicalize().ok()?;
    let visible = |part: Component<'_>| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    };
    path.strip_prefix(root).ok()?.components().all(visible).then_some(path)
}

/// Whether a symlink is on the way from `root` to `path`; `None` if the way ends before. For most files this
/// costs half of what finding the canonical path does.
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
    // `.` and `..` begin with a dot, too. A colon follows a drive, or precedes an alternate stream. Windows
    // drops dots and spaces at the end, so that `.env.` would be another name of `.env`.
    !name.is_empty()
        && !name.starts_with('.')
        && !name.ends_with(['.', ' '])
        && !name.contains(':')
        && !is_device(name)
}

/// Windows knows these in every folder, with any extension.
pub(super) fn is_device(name: &str) -> bool {
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem).trim_end_matches(' ');
    let is = |device: &str| stem.eq_ignore_ascii_case(device);
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"].into_iter().any(is) {
        return true;
    }
    // COM1, and COM with a superscript one.
    let mut unnumbered = stem.chars();
    unnumbered.next_back().is_some_and(|c| c.is_ascii_digit() || matches!(c, '¹' | '²' | '³'))
        && ["COM", "LPT"].into_iter().any(|device| unnumbered.as_str().eq_ignore_ascii_case(device))
}
