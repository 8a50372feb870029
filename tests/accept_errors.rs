//! Errors of accept(2), made by a library that is loaded before the system's: the server neither
//! spins nor gives up, and goes on when the error ends.

#![cfg(target_os = "linux")]

mod support;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use support::{Deadline, Harness, c, raw};

const ENV: &str = "REFUSE_ACCEPT";

#[test]
fn a_server_rests_while_every_accept_fails_and_then_goes_on() {
    let args = ["-shared", "-fPIC", "-ldl"].map(OsStr::new);
    let Some(library) = c::compile("refuse_accept.c", "refuse_accept.so", &args) else { return };
    let test = std::env::current_exe().unwrap();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refuse_accept.{}", std::process::id()));
    let status = Command::new(test)
        .args(["--exact", "refused_server", "--include-ignored", "--nocapture"])
        .env("LD_PRELOAD", library)
        .env(ENV, &file)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// The server of the test above, in a process of its own.
#[test]
#[ignore = "needs the library that makes accept4 fail"]
fn refused_server() {
    let file = PathBuf::from(std::env::var_os(ENV).expect("started by the other test"));
    let calls_file = PathBuf::from(format!("{}.calls", file.display()));
    let calls = || fs::read(&calls_file).map_or(0, |calls| calls.len());
    // EACCES, EPERM, ECONNABORTED, EMFILE, EIO
    for errno in [13, 1, 103, 24, 5] {
        let mut h = Harness::new();
        let _ = fs::remove_file(&calls_file);
        fs::write(&file, errno.to_string()).unwrap();
        let mut raw = h.dial();
        let (mut polls, deadline) = (0, Deadline::new());
        while h.server.stats().accept_pauses < 3 {
            let _ = h.server.poll_wait(None).unwrap();
            polls += 1;
            deadline.check("three pauses");
        }
        // Each pause is a sleep. A server that spins would poll and call far more often.
        assert!(polls <= 12, "error {errno}: {polls} polls");
        assert!(calls() <= 3 * 64, "error {errno}: {} calls", calls());
        let stats = h.server.stats();
        let failures = calls() as u64 - stats.accept_pauses;
        assert_eq!((stats.accept_failures, stats.listeners_lost), (failures, 0), "error {errno}");
        fs::remove_file(&file).unwrap();
        h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
        assert_eq!(h.server.stats().opened, 1);
    }
    let _ = fs::remove_file(&calls_file);
}
