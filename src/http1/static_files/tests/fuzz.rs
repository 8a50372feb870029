//! Random paths, whose responses are checked against the files on disk.

use std::cell::OnceCell;

use super::{links::links, *};
use crate::util::test_rng::Rng;

/// Prefixes of the sites; the last one also exists as a folder in another site.
const PREFIXES: [&str; 3] = ["/", "/assets", "/self/docs/"];

enum Found {
    Nothing,
    File,
    Folder,
}

/// Requests a path, and checks the response against the file, which contains its own path.
fn hold(folder: &Folder, static_files: &StaticFiles, path: &str) -> Found {
    let fetch = fetch(static_files, path);
    if fetch == "404" {
        return Found::Nothing;
    }
    if let Some(location) = fetch.strip_prefix("301 ") {
        assert!(location.starts_with('/') && !location.starts_with("//"), "{path:?}: {fetch}");
        assert!(location.ends_with('/') && location.is_ascii(), "{path:?}: {fetch}");
        assert!(!location.contains(['\\', '?', '#', ' ', ':']), "{path:?}: {fetch}");
        assert!(self::fetch(static_files, location).starts_with("root/"), "{path:?}: {fetch}");
        return Found::Folder;
    }
    // A visible file must not be served under a hidden name either.
    assert!(!path.contains("/.") && !path.contains("/%2e"), "{path:?}: {fetch}");
    let visible = fetch
        .strip_prefix("root/")
        .is_some_and(|below| below.split('/').all(|name| !name.is_empty() && !name.starts_with('.')));
    assert!(visible && folder.0.join(&fetch).is_file(), "{path:?}: {fetch}");
    Found::File
}

/// Fuzz target: the first byte chooses the site, the rest is the path.
pub(crate) fn target(data: &[u8]) {
    thread_local! {
        static SITES: OnceCell<(Folder, [StaticFiles; 3])> = const { OnceCell::new() };
    }
    let Some((kind, path)) = data.split_first() else { return };
    SITES.with(|sites| {
        let (folder, sites) = sites.get_or_init(|| {
            let folder = Folder::new();
            links(&folder);
            let sites = PREFIXES.map(|prefix| folder.static_files(prefix));
            (folder, sites)
        });
        hold(folder, &sites[usize::from(*kind) % sites.len()], &String::from_utf8_lossy(path));
    });
}

#[test]
fn only_visible_files_are_served_for_random_paths() {
    const TAME: &[&str] = &[
        "a.txt",
        "docs",
        "self",
        "self",
        "alias",
        "up/root",
        "tight",
        "index.html",
        "deep/page.html",
        "grüße.txt",
    ];
    const NASTY: &[&str] = &[
        "/",
        "/",
        "/",
        "/",
        "/",
        "/",
        "..",
        ".",
        "%2e",
        "%2E%2e",
        "%2f",
        "%5c",
        "\\",
        "%00",
        "%0a",
        "%",
        "%25",
        "%252e",
        ":",
        " ",
        "%20",
        "~",
        "*",
        "a.txt",
        "a.txt",
        "docs",
        "docs",
        "index.html",
        "deep/page.html",
        ".hidden",
        ".env",
        ".git",
        "outside.txt",
        "outside",
        "root",
        "root-too",
        "escape.txt",
        "escape",
        "up",
        "top",
        "alias",
        "alias.txt",
        "self",
        "self",
        "peek",
        "peek.txt",
        ".seen",
        ".seen.txt",
        "leaky",
        "tight",
        "loop",
        "zero",
        "assets",
        "assets",
        "con",
        "nul.txt",
        "C:",
        "gr%C3%BC%C3%9fe.txt",
        "grüße.txt",
        "%c0%ae",
        "\u{202e}",
        "etc/passwd",
        "tmp",
        "x",
    ];
    let folder = Folder::new();
    links(&folder);
    let outermost = folder.0.to_str().unwrap().to_string();
    let sites = PREFIXES.map(|prefix| folder.static_files(prefix));
    let (mut served, mut redirected) = (0, 0);
    for seed in 0..30_000 {
        let mut rng = Rng::new(seed);
        let mut path = String::from(rng.pick(&["/", "/", "/", "/assets/", "/self/docs/", "", "//"]));
        // Half of the paths are mostly harmless, or no file would be found.
        let tame = rng.one_in(2);
        for _ in 0..rng.below(if tame { 5 } else { 9 }) {
            let pieces = if tame && !rng.one_in(20) { TAME } else { NASTY };
            path += rng.pick(pieces);
            if rng.one_in(if tame { 20 } else { 2 }) {
                continue;
            }
            path += "/";
            if rng.one_in(40) {
                path += &outermost;
            }
            if rng.one_in(40) {
                path += &String::from_utf8_lossy(&rng.bytes(3));
            }
        }
        if rng.one_in(2) {
            path.truncate(path.trim_end_matches('/').len());
        }
        let static_files = &sites[rng.below(sites.len())];
        match hold(&folder, static_files, &path) {
            Found::Nothing => {}
            Found::File => served += 1,
            Found::Folder => redirected += 1,
        }
    }
    println!("{served} served, {redirected} redirected");
    assert!(served > 500 && redirected > 300, "{served} served, {redirected} redirected");
}

#[test]
fn random_texts_never_panic() {
    let folder = Folder::new();
    let static_files = folder.static_files("/");
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let len = rng.below(24);
        let bytes = rng.bytes(len);
        let text = String::from_utf8_lossy(&bytes);
        for path in [format!("/{text}"), text.to_string(), format!("/{text}/{text}")] {
            assert_eq!(
                fetch(&static_files, &path).as_str(),
                if path == "/" { "root/index.html" } else { "404" }
            );
        }
        let _ = StaticFiles::default().serve_bytes(&text, &text, Vec::new());
        let _ = StaticFiles::default().serve_bytes("/", &format!("text/{text}"), Vec::new());
    }
}
