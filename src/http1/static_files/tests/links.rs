//! Symlinks, pipes and unreadable files.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use super::*;

/// Creates symlinks of all kinds in `root`.
pub(super) fn links(folder: &Folder) {
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
        ("a.txt", ".seen.txt"),
        ("docs", ".seen"),
    ] {
        symlink(target, folder.root().join(link)).unwrap();
    }
    for (target, name) in [("../../outside.txt", "leaky"), ("../.env", "leaky2"), ("../a.txt", "tight")] {
        fs::create_dir(folder.root().join(name)).unwrap();
        symlink(target, folder.root().join(name).join("index.html")).unwrap();
    }
}

#[test]
fn symlinks_lead_only_to_visible_files_of_the_folder() {
    let folder = Folder::new();
    links(&folder);
    let static_files = folder.static_files("/");
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
        ("/.seen.txt", "404"),
        ("/.seen", "404"),
        ("/.seen/index.html", "404"),
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
        assert_eq!(fetch(&static_files, path), expected, "{path}");
    }
}

#[test]
fn the_served_folder_may_be_a_symlink_or_hidden() {
    let folder = Folder::new();
    symlink("root", folder.0.join("link")).unwrap();
    let mut static_files = StaticFiles::default();
    static_files.serve_dir("/link", &folder.0.join("link")).unwrap();
    static_files.serve_dir("/hidden", &folder.root().join(".git")).unwrap();
    assert_eq!(fetch(&static_files, "/link/a.txt"), "root/a.txt");
    assert_eq!(fetch(&static_files, "/link"), "301 /link/");
    assert_eq!(fetch(&static_files, "/hidden/"), "root/.git/index.html");
    // The symlink is resolved once, when the folder is registered.
    fs::remove_file(folder.0.join("link")).unwrap();
    symlink("outside", folder.0.join("link")).unwrap();
    assert_eq!(fetch(&static_files, "/link/"), "root/index.html");
    fs::remove_dir_all(folder.root()).unwrap();
    assert_eq!(fetch(&static_files, "/link/"), "404");
    assert_eq!(fetch(&static_files, "/link"), "404");
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
    let static_files = folder.static_files("/");
    let (answers, answered) = mpsc::channel();
    // In a thread, because opening a pipe would wait for a writer.
    thread::spawn(move || {
        for path in ["/pipe", "/pipe/", "/pipes", "/pipes/", "/pipes/index.html"] {
            let _ = answers.send((path, fetch(&static_files, path)));
        }
    });
    for _ in 0..5 {
        let (path, fetch) = answered.recv_timeout(Duration::from_secs(20)).expect("opening the pipe blocks");
        assert_eq!(fetch, "404", "{path}");
    }
}

#[test]
fn unreadable_files_give_404() {
    let folder = Folder::new();
    let static_files = folder.static_files("/");
    for (path, mode, request) in
        [("a.txt", 0, "/a.txt"), ("docs", 0, "/docs/index.html"), ("docs", 0o600, "/docs")]
    {
        let path = folder.root().join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let index = if request == "/docs" { "docs/index.html" } else { &request[1..] };
        if fs::read(folder.root().join(index)).is_ok() {
            println!("skipped: this user may read everything");
        } else {
            assert_eq!(fetch(&static_files, request), "404");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
