//! Paths that want out of the folder, or into what is hidden in it.

use super::*;
use crate::test_rng::Rng;

#[test]
fn hostile_paths() {
    let folder = Folder::new();
    #[cfg(unix)]
    for path in [
        "dot.",
        "space ",
        "con",
        "NUL.txt",
        "com1.tar.gz",
        "lpt¹",
        "aux .txt",
        "a:b",
        "back\\slash",
        "tab\t",
        "del\x7f",
        "c1\u{85}",
        "C:/x",
        "d /x",
        "d./x",
        "nul/x",
        "company",
        "com",
        "com10",
        "lpta",
        "console.txt",
        "a..b",
        "~",
        "…",
    ] {
        folder.write(&format!("root/{path}"));
    }
    let site = folder.site("/");
    let long = format!("/{}a.txt", "./".repeat(40_000));
    let longer = format!("/{}", "a".repeat(100_000));
    let encoded = format!("/{}", "%61".repeat(1_000));
    for (path, expected) in [
        // Up.
        ("/..", "404"),
        ("/../", "404"),
        ("/../outside.txt", "404"),
        ("/docs/../a.txt", "404"),
        ("/docs/..", "404"),
        ("/../root/a.txt", "404"),
        ("/../root-too/", "404"),
        ("/....//outside.txt", "404"),
        ("/..;/outside.txt", "404"),
        ("/%2e%2e/outside.txt", "404"),
        ("/%2E./outside.txt", "404"),
        ("/.%2e/outside.txt", "404"),
        ("/..%2foutside.txt", "404"),
        ("/..%2Foutside.txt", "404"),
        ("/%2e%2e%2foutside.txt", "404"),
        ("/%252e%252e/outside.txt", "404"),
        ("/%252e%252e%252foutside.txt", "404"),
        ("/..%5coutside.txt", "404"),
        ("/..\\outside.txt", "404"),
        ("/docs\\..\\..\\outside.txt", "404"),
        ("/%c0%ae%c0%ae/outside.txt", "404"),
        ("/%c0%ae%c0%ae%c0%afoutside.txt", "404"),
        ("/%e0%80%ae%e0%80%ae/outside.txt", "404"),
        ("/\u{ff0e}\u{ff0e}/outside.txt", "404"),
        ("/..\u{2215}outside.txt", "404"),
        ("/%u002e%u002e/outside.txt", "404"),
        ("/..%00/outside.txt", "404"),
        ("/.. /outside.txt", "404"),
        ("/... /outside.txt", "404"),
        // Nowhere, and twice.
        ("/.", "404"),
        ("/./", "404"),
        ("/./a.txt", "404"),
        ("/docs/./index.html", "404"),
        ("/docs/.", "404"),
        ("//", "404"),
        ("//a.txt", "404"),
        ("///a.txt", "404"),
        ("/docs//index.html", "404"),
        ("/docs//", "404"),
        ("//docs", "404"),
        ("//evil.example", "404"),
        ("//evil.example/..", "404"),
        ("/%2fevil.example", "404"),
        ("/docs%2findex.html", "404"),
        ("/docs%2Findex.html", "404"),
        ("/docs%5cindex.html", "404"),
        ("/docs%5C", "404"),
        ("/docs%2f", "404"),
        ("%2fa.txt", "404"),
        ("%2f/a.txt", "404"),
        ("/docs%252f", "404"),
        // Absolute, and no path at all.
        ("", "404"),
        ("a.txt", "404"),
        ("*", "404"),
        ("?", "404"),
        ("/etc/passwd", "404"),
        ("//etc/passwd", "404"),
        ("/%2fetc/passwd", "404"),
        ("http://localhost/a.txt", "404"),
        ("/http://localhost/a.txt", "404"),
        ("file:///etc/passwd", "404"),
        ("C:/x", "404"),
        ("/C:/x", "404"),
        ("/C%3a/x", "404"),
        ("/C:x", "404"),
        ("\\\\server\\share", "404"),
        ("//server/share", "404"),
        ("//?/C:/x", "404"),
        // Hidden.
        ("/.env", "404"),
        ("/%2eenv", "404"),
        ("/.git", "404"),
        ("/.git/", "404"),
        ("/.git/index.html", "404"),
        ("/docs/.hidden", "404"),
        ("/docs/.hidden/", "404"),
        ("/docs/%2ehidden/index.html", "404"),
        ("/.", "404"),
        // Control characters.
        ("/a.txt\0", "404"),
        ("/a.txt%00", "404"),
        ("/a.txt%00.html", "404"),
        ("/%00", "404"),
        ("/a%0d%0aSet-Cookie:%20x.txt", "404"),
        ("/docs%0a", "404"),
        ("/tab%09", "404"),
        ("/del%7f", "404"),
        ("/c1%c2%85", "404"),
        // No UTF-8, and half an escape.
        ("/%ff", "404"),
        ("/a.txt%80", "404"),
        ("/%ed%a0%80", "404"),
        ("/%", "404"),
        ("/%2", "404"),
        ("/a.txt%", "404"),
        ("/%zz", "404"),
        // Names that are other names on Windows.
        ("/a.txt.", "404"),
        ("/a.txt%20", "404"),
        ("/a.txt::$DATA", "404"),
        ("/a:b", "404"),
        ("/docs./index.html", "404"),
        ("/docs%20/", "404"),
        ("/dot.", "404"),
        ("/space%20", "404"),
        ("/back%5cslash", "404"),
        ("/back\\slash", "404"),
        ("/d%20/x", "404"),
        ("/d./x", "404"),
        ("/con", "404"),
        ("/NUL.txt", "404"),
        ("/com1.tar.gz", "404"),
        ("/lpt%c2%b9", "404"),
        ("/aux%20.txt", "404"),
        ("/nul/x", "404"),
        // Too long.
        (&long, "404"),
        (&longer, "404"),
        (&encoded, "404"),
        // And what only looks so.
        ("/a.txt", "root/a.txt"),
        ("/%61%2etxt", "root/a.txt"),
        ("/grüße.txt", "root/grüße.txt"),
        ("/gr%C3%BC%C3%9fe.txt", "root/grüße.txt"),
        ("/with%20space.txt", "root/with space.txt"),
        ("/with space.txt", "root/with space.txt"),
        ("/with+space.txt", "404"),
        ("/%2541.txt", "root/%41.txt"),
        ("/%41.txt", "404"),
        ("/docs", "301 /docs/"),
        ("/d%6fcs", "301 /docs/"),
        ("/docs/index.html", "root/docs/index.html"),
    ] {
        let shown: String = path.chars().take(60).collect();
        assert_eq!(answer(&site, path), expected, "{shown:?}");
    }
    #[cfg(unix)]
    for name in ["company", "com", "com10", "lpta", "console.txt", "a..b", "~", "…"] {
        assert_eq!(answer(&site, &format!("/{name}")), format!("root/{name}"));
    }
}

#[test]
fn device_names_are_known_in_every_form() {
    for name in [
        "CON",
        "con",
        "Con.txt",
        "con.a.b",
        "con .txt",
        "prn",
        "AUX.h",
        "nul",
        "NUL.",
        "com1",
        "COM9.log",
        "com0",
        "com¹",
        "COM².x",
        "lpt3",
        "LPT³",
        "conin$",
        "CONOUT$.txt",
        "clock$",
    ] {
        assert!(super::super::resolver::is_device(name), "{name}");
    }
    for name in [
        "", "c", "co", "icon", "con1", "console", "com", "com10", "com11", "com⁴", "xcom1", "lpt", "null",
        "a.con", "1", "¹", "ä1",
    ] {
        assert!(!super::super::resolver::is_device(name), "{name}");
    }
}

#[test]
fn a_redirect_stays_on_this_host() {
    let folder = Folder::new();
    for name in ["evil.example", "a b", "ä", "a%b", "q?x=y", "#", "@evil.example", ";a=b&c", "\"'<>"] {
        let folder = &folder.0.join("root/deeper").join(name);
        if fs::create_dir_all(folder).is_ok() {
            fs::write(folder.join("index.html"), "here").unwrap();
        }
    }
    let site = folder.site("/");
    for (path, location) in [
        ("/deeper/evil.example", "/deeper/evil.example/"),
        ("/deeper/a%20b", "/deeper/a%20b/"),
        ("/deeper/ä", "/deeper/%C3%A4/"),
        ("/deeper/a%25b", "/deeper/a%25b/"),
        ("/deeper/q%3fx=y", "/deeper/q%3Fx%3Dy/"),
        ("/deeper/%23", "/deeper/%23/"),
        ("/deeper/@evil.example", "/deeper/%40evil.example/"),
    ] {
        assert_eq!(answer(&site, path), format!("301 {location}"));
        assert_eq!(answer(&site, location), "here");
    }
    let response = get(&site, "/docs").unwrap();
    assert_eq!(text(&response, header::CACHE_CONTROL), "no-cache");
    assert_eq!(body(response), "");
    // The root of all, named by an empty path: no route covers it.
    assert_eq!(answer(&site, ""), "404");
}

#[cfg(unix)]
mod unix {
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        process::Command,
        sync::mpsc,
        thread,
        time::Duration,
    };

    use super::*;

    fn links(folder: &Folder) {
        let absolute = folder.0.join("outside.txt");
        for (target, link) in [
            ("../outside.txt", "escape.txt"),
            (absolute.to_str().unwrap(), "absolute.txt"),
            ("../outside", "escape"),
            ("../root-too", "beside"),
            ("..", "up"),
            ("/", "top"),
            ("a.txt", "alias.txt"),
            ("../root/a.txt", "about.txt"),
            ("docs", "alias"),
            (".", "self"),
            (".env", "peek.txt"),
            (".git", "peek"),
            ("docs/.hidden/index.html", "peek.html"),
            ("loop", "loop"),
            ("nowhere", "dangling"),
            ("/dev/zero", "zero"),
            ("escape.txt", "twice.txt"),
        ] {
            symlink(target, folder.root().join(link)).unwrap();
        }
        for (target, name) in [("../../outside.txt", "leaky"), ("../.env", "leaky2"), ("../a.txt", "tight")] {
            fs::create_dir(folder.root().join(name)).unwrap();
            symlink(target, folder.root().join(name).join("index.html")).unwrap();
        }
    }

    #[test]
    fn symlinks_lead_to_what_is_served_anyway() {
        let folder = Folder::new();
        links(&folder);
        let site = folder.site("/");
        for (path, expected) in [
            ("/escape.txt", "404"),
            ("/absolute.txt", "404"),
            ("/twice.txt", "404"),
            ("/escape", "404"),
            ("/escape/", "404"),
            ("/escape/index.html", "404"),
            ("/beside", "404"),
            ("/beside/", "404"),
            ("/up", "404"),
            ("/up/", "404"),
            ("/up/outside.txt", "404"),
            ("/top/etc/passwd", "404"),
            ("/up/root/a.txt", "root/a.txt"),
            ("/alias.txt", "root/a.txt"),
            ("/about.txt", "root/a.txt"),
            ("/alias", "301 /alias/"),
            ("/alias/", "root/docs/index.html"),
            ("/alias/deep/page.html", "root/docs/deep/page.html"),
            ("/self", "301 /self/"),
            ("/self/self/", "root/index.html"),
            ("/self/self/.env", "404"),
            ("/peek.txt", "404"),
            ("/peek", "404"),
            ("/peek/", "404"),
            ("/peek/index.html", "404"),
            ("/peek.html", "404"),
            ("/loop", "404"),
            ("/loop/", "404"),
            ("/dangling", "404"),
            ("/zero", "404"),
            ("/leaky", "404"),
            ("/leaky/", "404"),
            ("/leaky2", "404"),
            ("/leaky2/", "404"),
            ("/tight", "301 /tight/"),
            ("/tight/", "root/a.txt"),
        ] {
            assert_eq!(answer(&site, path), expected, "{path}");
        }
    }

    #[test]
    fn the_folder_itself_may_be_a_symlink_and_hidden() {
        let folder = Folder::new();
        symlink("root", folder.0.join("link")).unwrap();
        let mut site = Site::default();
        site.serve_dir("/link", &folder.0.join("link")).unwrap();
        site.serve_dir("/hidden", &folder.root().join(".git")).unwrap();
        assert_eq!(answer(&site, "/link/a.txt"), "root/a.txt");
        assert_eq!(answer(&site, "/link"), "301 /link/");
        assert_eq!(answer(&site, "/hidden/"), "root/.git/index.html");
        // It was looked up once: the link may turn elsewhere.
        fs::remove_file(folder.0.join("link")).unwrap();
        symlink("outside", folder.0.join("link")).unwrap();
        assert_eq!(answer(&site, "/link/"), "root/index.html");
        fs::remove_dir_all(folder.root()).unwrap();
        assert_eq!(answer(&site, "/link/"), "404");
        assert_eq!(answer(&site, "/link"), "404");
    }

    #[test]
    fn a_pipe_is_not_opened() {
        let folder = Folder::new();
        let made = |name: &str| Command::new("mkfifo").arg(folder.root().join(name)).status();
        if !made("pipe").is_ok_and(|status| status.success()) {
            println!("skipped: no mkfifo here");
            return;
        }
        fs::create_dir(folder.root().join("pipes")).unwrap();
        assert!(made("pipes/index.html").unwrap().success());
        let site = folder.site("/");
        let (answers, answered) = mpsc::channel();
        // A thread, as opening it would wait for a writer.
        thread::spawn(move || {
            for path in ["/pipe", "/pipe/", "/pipes", "/pipes/", "/pipes/index.html"] {
                let _ = answers.send((path, answer(&site, path)));
            }
        });
        for _ in 0..5 {
            let (path, answer) = answered.recv_timeout(Duration::from_secs(20)).expect("it waits");
            assert_eq!(answer, "404", "{path}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_there() {
        let folder = Folder::new();
        let site = folder.site("/");
        for (path, mode, request) in
            [("a.txt", 0, "/a.txt"), ("docs", 0, "/docs/index.html"), ("docs", 0o600, "/docs")]
        {
            let path = folder.root().join(path);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let index = if request == "/docs" { "docs/index.html" } else { &request[1..] };
            if fs::read(folder.root().join(index)).is_ok() {
                println!("skipped: this user may read everything");
            } else {
                assert_eq!(answer(&site, request), "404");
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
    }

    #[test]
    fn whatever_is_asked_for_only_what_is_visible_is_served() {
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
        let sites = ["/", "/assets", "/self/docs/"].map(|prefix| folder.site(prefix));
        let (mut served, mut redirected) = (0, 0);
        for seed in 0..30_000 {
            let mut rng = Rng::new(seed);
            let mut path = String::from(rng.pick(&["/", "/", "/", "/assets/", "/self/docs/", "", "//"]));
            // Some with little that is nasty, or nothing would be found.
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
            let site = &sites[rng.below(sites.len())];
            let answer = answer(site, &path);
            if let Some(location) = answer.strip_prefix("301 ") {
                redirected += 1;
                assert!(location.starts_with('/') && !location.starts_with("//"), "{path:?}: {answer}");
                assert!(location.ends_with('/') && location.is_ascii(), "{path:?}: {answer}");
                assert!(!location.contains(['\\', '?', '#', ' ', ':']), "{path:?}: {answer}");
                assert!(self::answer(site, location).starts_with("root/"), "{path:?}: {answer}");
            } else if answer != "404" {
                served += 1;
                // The file says where it lies.
                let visible = answer.strip_prefix("root/").is_some_and(|below| {
                    below.split('/').all(|name| !name.is_empty() && !name.starts_with('.'))
                });
                assert!(visible && folder.0.join(&answer).is_file(), "{path:?}: {answer}");
            }
        }
        println!("{served} served, {redirected} redirected");
        assert!(served > 500 && redirected > 300, "{served} served, {redirected} redirected");
    }

    #[test]
    fn no_text_is_too_odd() {
        let folder = Folder::new();
        let site = folder.site("/");
        for seed in 0..20_000 {
            let mut rng = Rng::new(seed);
            let len = rng.below(24);
            let bytes = rng.bytes(len);
            let text = String::from_utf8_lossy(&bytes);
            for path in [format!("/{text}"), text.to_string(), format!("/{text}/{text}")] {
                assert_eq!(
                    answer(&site, &path).as_str(),
                    if path == "/" { "root/index.html" } else { "404" }
                );
            }
            let _ = Site::default().serve_bytes(&text, &text, Vec::new());
            let _ = Site::default().serve_bytes("/", &format!("text/{text}"), Vec::new());
        }
    }
}
