//! Each test file contains its own path, so that a response tells which file it is.

mod caching;
#[cfg(unix)]
pub(crate) mod fuzz;
mod hostile;
#[cfg(unix)]
mod links;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use http::{HeaderMap, Method, Response, header};

use super::{Content, StaticFiles};
use crate::{error::ConfigError, util::test_dir::TestDir};

/// A folder `root` that is served, and files beside it that must not be.
struct Folder(TestDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(TestDir::new());
        for path in [
            "outside.txt",
            "outside/index.html",
            "root-too/index.html",
            "root/index.html",
            "root/a.txt",
            "root/grüße.txt",
            "root/with space.txt",
            "root/%41.txt",
            "root/docs/index.html",
            "root/docs/deep/page.html",
            "root/docs/.hidden/index.html",
            "root/bare/data.json",
            "root/index.html.d/index.html/index.html",
            "root/.env",
            "root/.git/index.html",
        ] {
            folder.write(path);
        }
        folder
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn write(&self, path: &str) -> PathBuf {
        let file = self.0.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, path).unwrap();
        file
    }

    fn static_files(&self, prefix: &str) -> StaticFiles {
        let mut static_files = StaticFiles::default();
        static_files.serve_dir(prefix, &self.root()).unwrap();
        static_files
    }
}

fn get(static_files: &StaticFiles, path: &str) -> Option<Response<Content>> {
    static_files.find(&Method::GET, path, &HeaderMap::new())
}

fn text(response: &Response<Content>, name: header::HeaderName) -> &str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// The body; checks that it is as long as the header says.
fn body(response: Response<Content>) -> String {
    let announced: usize = text(&response, header::CONTENT_LENGTH).parse().unwrap();
    let body = match response.into_body() {
        Content::Empty => Vec::new(),
        Content::Shared(bytes) => bytes.frame().to_vec(),
        Content::File { mut file, len } => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, len);
            bytes
        }
    };
    assert_eq!(body.len(), announced);
    String::from_utf8(body).unwrap()
}

/// The response to a GET in short: the body, the status and location of a redirect, or "404".
fn fetch(static_files: &StaticFiles, path: &str) -> String {
    let Some(response) = get(static_files, path) else { return "404".into() };
    match response.status().as_u16() {
        200 => body(response),
        301 => format!("301 {}", text(&response, header::LOCATION)),
        other => panic!("{other} to a GET of {path}"),
    }
}

#[test]
fn a_folder_is_served_under_its_prefix() {
    let folder = Folder::new();
    for (prefix, written) in
        [("/", ""), ("/assets", "/assets"), ("/assets/", "/assets"), ("/a/b c", "/a/b%20c")]
    {
        let static_files = folder.static_files(prefix);
        for (path, expected) in [
            ("/", "root/index.html"),
            ("/a.txt", "root/a.txt"),
            ("/docs/", "root/docs/index.html"),
            ("/docs/deep/page.html", "root/docs/deep/page.html"),
            ("/bare/data.json", "root/bare/data.json"),
            ("/bare", "404"),
            ("/bare/", "404"),
            ("/missing.txt", "404"),
            ("/a.txt/", "404"),
            ("/index.html.d/", "404"),
            ("/a.txt/a.txt", "404"),
        ] {
            assert_eq!(fetch(&static_files, &format!("{written}{path}")), expected, "{written}{path}");
        }
        assert_eq!(fetch(&static_files, &format!("{written}/docs")), format!("301 {written}/docs/"));
    }
}

#[test]
fn a_prefix_covers_only_whole_segments() {
    let folder = Folder::new();
    for prefix in ["/assets", "/assets/"] {
        let static_files = folder.static_files(prefix);
        assert_eq!(fetch(&static_files, "/assets"), "301 /assets/");
        for path in
            ["/assetsx", "/assetsa.txt", "/assetsx/a.txt", "/asset/a.txt", "/a.txt", "/", "/Assets/a.txt"]
        {
            assert_eq!(fetch(&static_files, path), "404", "{path}");
        }
    }
}

#[test]
fn the_most_specific_route_is_used() {
    let folder = Folder::new();
    let mut static_files = StaticFiles::default();
    assert!(static_files.is_empty());
    static_files.serve_dir("/", &folder.root()).unwrap();
    assert!(!static_files.is_empty());
    static_files.serve_dir("/docs/deep", &folder.root().join("bare")).unwrap();
    static_files.serve_dir("/docs", &folder.0.join("outside")).unwrap();
    static_files.serve_bytes("/a.txt", "text/plain", b"bytes".to_vec()).unwrap();
    static_files.serve_bytes("/docs/deep/", "text/plain", b"deep".to_vec()).unwrap();
    for (path, expected) in [
        ("/", "root/index.html"),
        ("/a.txt", "bytes"),
        ("/%61.txt", "bytes"),
        ("/a.txt/", "404"),
        ("/docs/", "outside/index.html"),
        // Only the longest prefix is searched, even if it has no such file.
        ("/docs/deep/page.html", "404"),
        ("/docs/deep/data.json", "root/bare/data.json"),
        ("/docs/deep/", "deep"),
    ] {
        assert_eq!(fetch(&static_files, path), expected, "{path}");
    }
    // A later registration replaces an earlier one, with or without a slash at the end.
    static_files.serve_dir("/docs/", &folder.root().join("docs")).unwrap();
    static_files.serve_bytes("/a.txt", "text/plain", Vec::new()).unwrap();
    assert_eq!(fetch(&static_files, "/docs/"), "root/docs/index.html");
    assert_eq!(fetch(&static_files, "/a.txt"), "");
}

#[test]
fn bytes_are_served_only_at_their_exact_path() {
    let mut static_files = StaticFiles::default();
    for path in ["/", "/grüße", "/a b", "/.well-known/x", "/100%", "/C:"] {
        static_files.serve_bytes(path, "text/plain", path.into()).unwrap();
    }
    assert!(!static_files.is_empty());
    for (path, expected) in [
        ("/", "/"),
        ("/gr%C3%BC%c3%9fe", "/grüße"),
        ("/grüße", "/grüße"),
        ("/a%20b", "/a b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/100%25", "/100%"),
        // Browsers send a lone percent sign like this.
        ("/100%", "/100%"),
        ("/C:", "/C:"),
        ("/.well-known%2fx", "404"),
        ("/.well-known/../", "404"),
        ("//", "404"),
        ("", "404"),
        ("*", "404"),
        ("%2f", "404"),
        ("/gr%FC%DFe", "404"),
    ] {
        assert_eq!(fetch(&static_files, path), expected, "{path}");
    }
}

#[test]
fn longer_paths_than_2048_bytes_are_rejected() {
    let mut static_files = StaticFiles::default();
    let longest = format!("/{}", "a".repeat(2047));
    let longer = format!("{longest}a");
    assert_eq!(static_files.serve_bytes(&longest, "text/plain", b"far".into()), Ok(()));
    assert_eq!(
        static_files.serve_bytes(&longer, "text/plain", Vec::new()),
        Err(ConfigError::InvalidPath(longer.clone()))
    );
    assert_eq!(fetch(&static_files, &longest), "far");
    // The limit applies to the path before it is decoded.
    assert_eq!(fetch(&static_files, &longest.replacen('a', "%61", 1)), "404");
}

#[test]
fn invalid_routes_are_configuration_errors() {
    let folder = Folder::new();
    let mut static_files = StaticFiles::default();
    for path in ["", "a", "a/", "*", "\\a", "/a\\b", "/a\nb", "/\0"] {
        let error = Err(ConfigError::InvalidPath(path.into()));
        assert_eq!(static_files.serve_bytes(path, "text/plain", Vec::new()), error, "{path:?}");
        assert_eq!(static_files.serve_dir(path, &folder.root()), error, "{path:?}");
    }
    for prefix in ["//", "//evil.example", "/a//b", "/a//", "/a/..", "/./a"] {
        let error = Err(ConfigError::InvalidPath(prefix.into()));
        assert_eq!(static_files.serve_dir(prefix, &folder.root()), error, "{prefix}");
    }
    for mime in
        ["", "text", "text/", "/plain", "text/plain\r\nSet-Cookie: a=b", "text/plain;x=\"\n\"", "text/ä"]
    {
        let error = Err(ConfigError::InvalidMime(mime.into()));
        assert_eq!(static_files.serve_bytes("/a", mime, Vec::new()), error, "{mime:?}");
    }
    for (name, error) in
        [("missing", std::io::ErrorKind::NotFound), ("a.txt", std::io::ErrorKind::NotADirectory)]
    {
        let dir = folder.root().join(name);
        assert_eq!(static_files.serve_dir("/", &dir), Err(ConfigError::NoFolder { dir, error }));
    }
    assert!(static_files.is_empty());
    let error = static_files.serve_dir("/", Path::new("no such folder")).unwrap_err().to_string();
    assert_eq!(error, "cannot serve the folder no such folder: entity not found");
}

#[test]
fn the_content_type_follows_the_extension() {
    let folder = Folder::new();
    let static_files = folder.static_files("/");
    for (name, expected) in [
        ("index.html", "text/html; charset=utf-8"),
        ("STYLE.CSS", "text/css; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("app.min.mjs", "application/javascript"),
        ("game.wasm", "application/wasm"),
        ("data.json", "application/json"),
        ("logo.svg", "image/svg+xml"),
        ("logo.png", "image/png"),
        ("favicon.ico", "image/x-icon"),
        ("font.woff2", "font/woff2"),
        ("README", "application/octet-stream"),
        ("x.unheard-of", "application/octet-stream"),
        ("x.grüße", "application/octet-stream"),
    ] {
        folder.write(&format!("root/types/{name}"));
        let response = get(&static_files, &format!("/types/{name}")).unwrap();
        assert_eq!(text(&response, header::CONTENT_TYPE), expected, "{name}");
        assert_eq!(text(&response, header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(text(&response, header::CACHE_CONTROL), "no-cache");
    }
    assert_eq!(
        text(&get(&static_files, "/docs/").unwrap(), header::CONTENT_TYPE),
        "text/html; charset=utf-8"
    );
    let mut static_files = StaticFiles::default();
    for (mime, expected) in [
        ("text/html", "text/html; charset=utf-8"),
        ("TEXT/html", "text/html; charset=utf-8"),
        ("text/html; charset=latin1", "text/html; charset=latin1"),
        ("text/markdown; variant=GFM", "text/markdown; variant=GFM; charset=utf-8"),
        ("application/octet-stream", "application/octet-stream"),
        ("image/svg+xml", "image/svg+xml"),
    ] {
        static_files.serve_bytes("/a", mime, Vec::new()).unwrap();
        let response = get(&static_files, "/a").unwrap();
        assert_eq!(text(&response, header::CONTENT_TYPE).to_lowercase(), expected.to_lowercase());
    }
}
