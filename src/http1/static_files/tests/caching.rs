//! Entity tags, methods, and the headers of responses.

use std::{
    fs::{self, File},
    time::{Duration, SystemTime},
};

use super::*;

fn with_tags(tags: &[&str]) -> HeaderMap {
    let values = tags.iter().map(|tag| (header::IF_NONE_MATCH, tag.parse().unwrap()));
    values.fold(HeaderMap::new(), |mut headers, (name, value)| {
        headers.append(name, value);
        headers
    })
}

fn status(static_files: &StaticFiles, path: &str, tags: &[&str]) -> u16 {
    static_files.find(&Method::GET, path, &with_tags(tags)).unwrap().status().as_u16()
}

/// A site with a file at `/file.txt` and bytes at `/bytes`.
fn both() -> (Folder, StaticFiles) {
    let folder = Folder::new();
    folder.write("root/file.txt");
    let mut static_files = folder.static_files("/");
    static_files.serve_bytes("/bytes", "text/plain", b"some bytes".to_vec()).unwrap();
    (folder, static_files)
}

#[test]
fn a_matching_tag_gets_304_without_content() {
    let (_folder, static_files) = both();
    for path in ["/file.txt", "/bytes"] {
        let etag = text(&get(&static_files, path).unwrap(), header::ETAG).to_string();
        assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 4, "{etag}");
        for method in [Method::GET, Method::HEAD] {
            let response = static_files.find(&method, path, &with_tags(&[&etag])).unwrap();
            assert_eq!(response.status(), 304);
            assert_eq!(text(&response, header::ETAG), etag);
            assert_eq!(text(&response, header::CACHE_CONTROL), "no-cache");
            assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
            assert!(matches!(response.into_body(), Content::Empty));
        }
        let weak = format!("W/{etag}");
        let among = format!("\"x\", W/\"a,b\",,\t {weak} , \"y\"");
        let close = format!("\"x\",{etag},\"y\"");
        let unfinished = format!("{etag}, \"x");
        let inner = etag.trim_matches('"');
        for known in
            [&[&*weak] as &[&str], &[&among], &[&close], &["\"x\"", &etag], &["*"], &[" * "], &[&unfinished]]
        {
            assert_eq!(status(&static_files, path, known), 304, "{known:?}");
        }
        let longer = format!("\"{inner}0\"");
        let shorter = format!("\"{}\"", &inner[1..]);
        let no_list = format!("x {etag}");
        let lower = format!("w/{etag}");
        let inside = format!("\" {inner} \"");
        for unknown in [
            &["\"x\""] as &[&str],
            &[],
            &[""],
            &[","],
            &[inner],
            &[&etag[1..]],
            &[&etag[..etag.len() - 1]],
            &[&longer],
            &[&shorter],
            &[&no_list],
            &[&lower],
            &[&inside],
            &["\"*\""],
            &["W/*"],
            &["\""],
            &["W/"],
            &["W/\""],
            &["\"\""],
        ] {
            assert_eq!(status(&static_files, path, unknown), 200, "{unknown:?}");
        }
        let mut odd = HeaderMap::new();
        odd.append(header::IF_NONE_MATCH, header::HeaderValue::from_bytes(b"\xff\"\xfe").unwrap());
        assert_eq!(static_files.find(&Method::GET, path, &odd).unwrap().status(), 200);
        odd.append(header::IF_NONE_MATCH, etag.parse().unwrap());
        assert_eq!(static_files.find(&Method::GET, path, &odd).unwrap().status(), 304);
    }
}

#[test]
fn a_change_of_content_or_time_changes_the_tag() {
    let (folder, mut static_files) = both();
    let tag = |static_files: &StaticFiles, path: &str| {
        text(&get(static_files, path).unwrap(), header::ETAG).to_string()
    };
    let mut seen = Vec::new();
    let path = folder.root().join("file.txt");
    let times = [
        SystemTime::UNIX_EPOCH,
        SystemTime::UNIX_EPOCH + Duration::from_nanos(1_000),
        SystemTime::UNIX_EPOCH - Duration::from_nanos(1_000),
        SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33),
    ];
    for content in ["one", "three"] {
        fs::write(&path, content).unwrap();
        for time in times {
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            seen.push(tag(&static_files, "/file.txt"));
            assert_eq!(seen.last(), Some(&tag(&static_files, "/file.txt")));
        }
    }
    for content in ["", "1", "2", "11"] {
        static_files.serve_bytes("/bytes", "text/plain", content.into()).unwrap();
        seen.push(tag(&static_files, "/bytes"));
        static_files.serve_bytes("/bytes", "text/plain", content.into()).unwrap();
        assert_eq!(seen.last(), Some(&tag(&static_files, "/bytes")));
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "{seen:?}");
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let (_folder, static_files) = both();
    for (path, len) in [("/file.txt", "13"), ("/bytes", "10")] {
        let get = get(&static_files, path).unwrap();
        let head = static_files.find(&Method::HEAD, path, &HeaderMap::new()).unwrap();
        assert_eq!((head.status(), head.headers()), (get.status(), get.headers()));
        assert_eq!(text(&head, header::CONTENT_LENGTH), len);
        assert!(matches!(head.into_body(), Content::Empty));
        assert!(!matches!(get.into_body(), Content::Empty));
    }
    let head = static_files.find(&Method::HEAD, "/docs", &HeaderMap::new()).unwrap();
    assert_eq!((head.status().as_u16(), text(&head, header::LOCATION)), (301, "/docs/"));
    assert!(static_files.find(&Method::HEAD, "/missing", &HeaderMap::new()).is_none());
}

#[test]
fn only_existing_paths_give_405() {
    let (_folder, static_files) = both();
    let brew = Method::from_bytes(b"BREW").unwrap();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE, brew] {
        for path in ["/file.txt", "/bytes", "/", "/docs", "/docs/"] {
            let response = static_files.find(&method, path, &with_tags(&["*"])).unwrap();
            assert_eq!((response.status().as_u16(), text(&response, header::ALLOW)), (405, "GET, HEAD"));
            assert_eq!(body(response), "");
        }
        for path in ["/missing", "/.env", "*", ""] {
            assert!(static_files.find(&method, path, &HeaderMap::new()).is_none(), "{method} {path}");
        }
    }
}

#[test]
fn empty_content_is_served() {
    let folder = Folder::new();
    fs::write(folder.root().join("empty.css"), "").unwrap();
    let mut static_files = folder.static_files("/");
    static_files.serve_bytes("/bytes.css", "text/css", Vec::new()).unwrap();
    for path in ["/empty.css", "/bytes.css"] {
        let response = get(&static_files, path).unwrap();
        assert_eq!((response.status().as_u16(), text(&response, header::CONTENT_LENGTH)), (200, "0"));
        assert_eq!(text(&response, header::CONTENT_TYPE), "text/css; charset=utf-8");
        assert_eq!(status(&static_files, path, &[text(&response, header::ETAG)]), 304);
        // An empty file is not kept open.
        assert!(matches!(response.into_body(), Content::Empty));
    }
}

#[test]
fn all_responses_share_the_bytes() {
    let (_folder, static_files) = both();
    let bytes = || match get(&static_files, "/bytes").unwrap().into_body() {
        Content::Shared(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    assert!(std::ptr::eq(bytes().frame(), bytes().frame()));
}
