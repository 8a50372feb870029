//! Paths that try to leave the folder or to reach hidden files in it.

use super::*;

#[test]
fn hostile_paths_give_404() {
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
    let static_files = folder.static_files("/");
    // The file system of Windows, and by default that of macOS, ignores the case of names.
    let ignores_case = folder.root().join("A.TXT").exists();
    assert!(ignores_case || !cfg!(windows));
    let in_upper_case = if ignores_case { "root/a.txt" } else { "404" };
    let long = format!("/{}a.txt", "./".repeat(40_000));
    let longer = format!("/{}", "a".repeat(100_000));
    let encoded = format!("/{}", "%61".repeat(1_000));
    for (path, expected) in [
        // Parent folders.
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
        // Empty segments, and those of a single dot.
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
        // Absolute paths of files, URIs, and targets that are not a path.
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
        // Hidden files.
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
        // Invalid UTF-8, and incomplete escapes.
        ("/%ff", "404"),
        ("/a.txt%80", "404"),
        ("/%ed%a0%80", "404"),
        ("/%", "404"),
        ("/%2", "404"),
        ("/a.txt%", "404"),
        ("/%zz", "404"),
        // Names that mean another name, a device or a stream on Windows.
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
        // Paths that are too long.
        (&long, "404"),
        (&longer, "404"),
        (&encoded, "404"),
        // Harmless paths that look alike.
        ("/a.txt", "root/a.txt"),
        ("/%61%2etxt", "root/a.txt"),
        ("/grüße.txt", "root/grüße.txt"),
        ("/gr%C3%BC%C3%9fe.txt", "root/grüße.txt"),
        ("/with%20space.txt", "root/with space.txt"),
        ("/with space.txt", "root/with space.txt"),
        ("/with+space.txt", "404"),
        ("/%2541.txt", "root/%41.txt"),
        ("/%41.txt", in_upper_case),
        ("/docs", "301 /docs/"),
        ("/d%6fcs", "301 /docs/"),
        ("/docs/index.html", "root/docs/index.html"),
    ] {
        let shown: String = path.chars().take(60).collect();
        assert_eq!(fetch(&static_files, path), expected, "{shown:?}");
    }
    #[cfg(unix)]
    for name in ["company", "com", "com10", "lpta", "console.txt", "a..b", "~", "…"] {
        assert_eq!(fetch(&static_files, &format!("/{name}")), format!("root/{name}"));
    }
}

#[test]
fn device_names_are_recognised_in_every_form() {
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
        assert!(super::super::path::is_device(name), "{name}");
    }
    for name in [
        "", "c", "co", "icon", "con1", "console", "com", "com10", "com11", "com⁴", "xcom1", "lpt", "null",
        "a.con", "1", "¹", "ä1",
    ] {
        assert!(!super::super::path::is_device(name), "{name}");
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
    let static_files = folder.static_files("/");
    let exists = |location: &str| {
        let name = percent_encoding::percent_decode_str(location).decode_utf8().unwrap();
        folder.root().join(name.trim_matches('/')).is_dir()
    };
    for (path, location) in [
        ("/deeper/evil.example", "/deeper/evil.example/"),
        ("/deeper/a%20b", "/deeper/a%20b/"),
        ("/deeper/ä", "/deeper/%C3%A4/"),
        ("/deeper/a%25b", "/deeper/a%25b/"),
        ("/deeper/q%3fx=y", "/deeper/q%3Fx%3Dy/"),
        ("/deeper/%23", "/deeper/%23/"),
        ("/deeper/@evil.example", "/deeper/%40evil.example/"),
    ] {
        // No name has a question mark on Windows.
        let is_there = exists(location);
        assert!(is_there || (cfg!(windows) && location.contains("%3F")), "{location}");
        let expected = if is_there { &format!("301 {location}") } else { "404" };
        assert_eq!(fetch(&static_files, path), expected);
        assert_eq!(fetch(&static_files, location), if is_there { "here" } else { "404" });
    }
    let response = get(&static_files, "/docs").unwrap();
    assert_eq!(text(&response, header::CACHE_CONTROL), "no-cache");
    assert_eq!(body(response), "");
    // An empty path is covered by no route.
    assert_eq!(fetch(&static_files, ""), "404");
}
