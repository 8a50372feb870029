//! Compiles C programs and libraries for tests.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

/// Compiles a source of `tests/c_host` with further arguments, and returns the result; `None` if
/// there is no C compiler and none is required.
pub fn compile(source: &str, output: &str, args: &[&OsStr]) -> Option<PathBuf> {
    if Command::new("cc").arg("--version").output().is_err() {
        assert!(std::env::var_os("TICKWS_REQUIRE_CC").is_none(), "there is no C compiler");
        println!("skipped: there is no C compiler");
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c_host").join(source);
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    let built = Command::new("cc").arg(source).args(args).arg("-o").arg(&output).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(output)
}
