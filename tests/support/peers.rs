//! Other implementations as peers: Python's `websockets` and `tlslite`, and npm's `ws`.
//!
//! They are looked for in `peers` in the target folder, where `.ci/run` installs them. A test whose
//! peer is missing says that it is skipped, or fails if `TICKWS_REQUIRE_PEERS=1`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn installed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target folder").join("peers").join(path)
}

/// A Python that has `websockets`, if there is one.
pub fn python() -> Option<Command> {
    python_that_can("import websockets.sync.client, websockets.extensions.permessage_deflate")
}

/// A Python that has `tlslite`, if there is one.
pub fn tlslite() -> Option<Command> {
    python_that_can("import tlslite.api")
}

fn python_that_can(import: &str) -> Option<Command> {
    let own = installed("venv/bin/python");
    [own, PathBuf::from("python3")]
        .iter()
        .find_map(|program| works(Command::new(program).args(["-c", import])).then(|| Command::new(program)))
}

/// A Node that has `ws`, if there is one.
pub fn node() -> Option<Command> {
    let command = || {
        let mut command = Command::new("node");
        command.env("NODE_PATH", installed("node_modules"));
        command
    };
    works(command().args(["-e", "require('ws')"])).then(command)
}

fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Passes `peer` on; if there is none, says that the test is skipped, or fails if peers are
/// required.
pub fn or_skip(peer: Option<Command>, name: &str) -> Option<Command> {
    if peer.is_none() {
        let required = std::env::var_os("TICKWS_REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!required, "{name} is missing, and TICKWS_REQUIRE_PEERS=1");
        eprintln!("SKIPPED: {name} is not installed; run .ci/run to install it");
    }
    peer
}
