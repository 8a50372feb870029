//! Paths in settings, compared with those of requests.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Whether the path of a request is the one of a setting. With or without percent-encoding it is
/// the same path (RFC 3986 §6.2.2.2), but an encoded slash is none.
pub(super) fn is_same(setting: &str, path: &str) -> bool {
    decoded(setting) == decoded(path)
}

/// Whether the path of a request begins with the one of a setting.
pub(super) fn begins(setting: &str, path: &str) -> bool {
    decoded(path).starts_with(&decoded(setting))
}

/// The path without percent-encoding. A slash and a percent sign stay encoded, so that different
/// paths stay different.
fn decoded(path: &str) -> Cow<'_, [u8]> {
    if !path.contains('%') {
        return Cow::Borrowed(path.as_bytes());
    }
    let kept = path.replace("%25", "%2525").replace("%2F", "%252F").replace("%2f", "%252F");
    Cow::Owned(percent_decode_str(&kept).collect())
}

/// Whether a request of a client can have this path. Browsers remove the segments `.` and `..`,
/// encoded ones too, and turn a backslash into a slash (WHATWG URL, §4.4).
pub(super) fn can_match(path: &str, max_head_bytes: usize) -> bool {
    path.starts_with('/')
        && path.len() < max_head_bytes
        && !path.contains(|sign: char| matches!(sign, '*' | '?' | '#' | '\\') || sign.is_control())
        && !decoded(path).split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_without_their_encoding() {
        for (setting, path) in [
            ("/ws", "/ws"),
            ("/ws", "/%77%73"),
            ("/b\u{fc}cher", "/b%C3%BCcher"),
            ("/b\u{fc}cher", "/b%c3%bccher"),
            ("/b%C3%BCcher", "/b\u{fc}cher"),
            ("/a b", "/a%20b"),
            ("/a%20b", "/a%20b"),
            ("/%FF", "/%ff"),
            ("/a%2fb", "/a%2Fb"),
            ("/100%", "/100%"),
            ("/%zz", "/%zz"),
        ] {
            assert!(is_same(setting, path), "{setting} {path}");
        }
        for (setting, path) in [
            ("/ws", "/WS"),
            ("/ws", "/ws/"),
            ("/a/b", "/a%2Fb"),
            ("/a%2Fb", "/a%252Fb"),
            ("/%41", "/%2541"),
            ("/b\u{fc}cher", "/bu%CC%88cher"),
        ] {
            assert!(!is_same(setting, path), "{setting} {path}");
        }
        assert!(begins("/r\u{e4}ume/", "/r%C3%A4ume/7") && !begins("/rooms/", "/rooms%2F7"));
    }

    #[test]
    fn paths_that_no_request_has_are_recognised() {
        for path in ["/", "/ws", "/b\u{fc}cher", "/a b", "/a%20b", "/.well-known/x", "/a..b", "/..."] {
            assert!(can_match(path, 16_384), "{path}");
        }
        for path in
            ["", "ws", "/a?b", "/a#b", "/a*", "/a\\b", "/a\nb", "/.", "/a/../b", "/%2e%2E/x", "/a/.", "*"]
        {
            assert!(!can_match(path, 16_384), "{path}");
        }
        assert!(can_match("/a", 3) && !can_match("/ab", 3));
    }
}
