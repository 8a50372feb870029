//! A file imports only from lower floors (DESIGN §3).
//!
//! Modules with files of their own (`engine/`, `proto/handshake/`) are one unit: the parent and its
//! parts are on one floor, and parts use `super::` for nothing outside the unit.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Each unit of `src`, lowest floor first. Units of one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &[
        "entropy",
        "id",
        "message",
        "nanos",
        "pool",
        "pressure",
        "reconnect",
        "request",
        "send_options",
        "test_rng",
    ],
    &["error"],
    &["close_reason", "connect", "deflate", "upgrade"],
    &["config"],
    &["wheel", "wire", "deadlines", "hub", "mailbox", "proto::mask", "proto::utf8", "proto::close"],
    &["limiter", "proto::deflate", "proto::deflate_off", "proto::frame", "proto::handshake"],
    &["proto::http", "proto::prepared"],
    &["backlog", "json", "outbox", "site", "stats", "proto::assembler"],
    &["dial", "proto::connection", "services"],
    &["tick_data", "client"],
    &["event"],
    &["tick"],
    &["engine"],
    &["net::listener", "net::resolver", "net::stream", "network"],
    &["net::socket"],
    &["net::kernel", "net::sim_host"],
    &["net::host"],
    &["tape", "tape_off"],
    &["server"],
    &["builder"],
    &["outbound", "sim"],
    &["fuzz"],
];

fn floor_of(unit: &str) -> Option<usize> {
    FLOORS.iter().position(|units| units.contains(&unit))
}

/// The unit that a path below `crate` belongs to: the longest listed prefix.
fn unit_of(path: &str) -> Option<&'static str> {
    let units = FLOORS.iter().flat_map(|units| units.iter().copied());
    units.filter(|unit| path == *unit || path.starts_with(&format!("{unit}::"))).max_by_key(|unit| unit.len())
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `engine/send.rs` → `engine::send`.
fn module_of(root: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(root).unwrap().with_extension("");
    relative.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>().join("::")
}

/// Every path below `crate` that the text names outside comments, nested `use` trees included.
fn imports(text: &str) -> Vec<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or("").to_string() + "\n").collect();
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        expand("", &code[start + "crate::".len()..], &mut paths);
    }
    paths
}

/// Reads one `use` tree; gives what follows it.
fn expand<'c>(prefix: &str, code: &'c str, paths: &mut Vec<String>) -> &'c str {
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(code.len());
    let path = format!("{prefix}{}", &code[..end]);
    let mut rest = &code[end..];
    if !((path.is_empty() || path.ends_with("::")) && rest.starts_with('{')) {
        paths.push(path.trim_end_matches(':').to_string());
        return rest;
    }
    rest = &rest[1..];
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if rest.is_empty() {
            return rest;
        }
        if let Some(after) = rest.strip_prefix('}') {
            return after;
        }
        let before = rest.len();
        rest = expand(&path, rest, paths);
        if rest.len() == before {
            // Something like `as name` or `*`: not a path.
            rest = &rest[1..];
        }
    }
}

#[test]
fn a_file_imports_only_from_lower_floors() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        let module = module_of(&root, &file);
        if module == "lib"
            || module.ends_with("::mod")
            || module.ends_with("tests")
            || module.contains("::tests::")
        {
            continue;
        }
        let Some(unit) = unit_of(&module) else {
            wrong.push(format!("{module} stands on no floor: list it in tests/floors.rs"));
            continue;
        };
        *seen.entry(unit).or_default() += 1;
        for path in imports(&fs::read_to_string(&file).unwrap()) {
            let Some(target) = unit_of(&path) else {
                // `crate::Server` in a macro or an example: the crate's public face.
                continue;
            };
            if target != unit && floor_of(target) >= floor_of(unit) {
                wrong.push(format!("{module} imports {path} from its own floor or above"));
            }
        }
    }
    for unit in FLOORS.iter().flat_map(|units| units.iter()) {
        assert!(seen.contains_key(unit), "{unit} is listed and does not exist");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_nested_trees() {
    let text = "use crate::{config::Config, proto::{frame::{self, Header}, mask::apply_mask}};\n// crate::server\ncrate::id::ClientId::new(1)";
    let mut found = imports(text);
    found.sort();
    let expected = [
        "config::Config",
        "id::ClientId::new",
        "proto::frame::Header",
        "proto::frame::self",
        "proto::mask::apply_mask",
    ];
    assert_eq!(found, expected);
}

/// Law 4: only `net/kernel.rs` reads the clock.
#[test]
fn only_the_server_reads_the_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let module = module_of(&root, &file);
        let is_test = module.contains("tests") || module.contains("sim");
        // The system's clock may be set: nobody reads it.
        assert!(!code.contains("SystemTime::now()") || is_test, "{module} reads a clock that steps");
        let reads = code.contains("Instant::now()");
        assert!(!reads || is_test || module == "net::kernel", "{module} reads the clock");
    }
}

/// A file has one purpose; above 600 lines it has two.
#[test]
fn no_file_is_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in ["src", "tests", "examples", "benches"] {
        let mut files = Vec::new();
        sources(&root.join(dir), &mut files);
        for file in files {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 600, "{} has {lines} lines", file.display());
        }
    }
}

#[test]
fn each_row_of_the_faults_has_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("src/faults.md")).unwrap();
    let (tables, tests) = text.split_once("<!--").unwrap();
    let rows = tables.lines().filter(|line| line.starts_with("| ") && !line.contains("| counter |"));
    let tests: Vec<&str> = tests.lines().skip(1).take_while(|line| *line != "-->").collect();
    assert_eq!(rows.count(), tests.len(), "a line of tests for each row");
    let mut files = Vec::new();
    ["src", "tests"].iter().for_each(|dir| sources(&root.join(dir), &mut files));
    let code: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for test in tests.iter().flat_map(|line| line.split(' ')) {
        // A function, or a row of the table of hostile peers.
        let known = code.contains(&format!("fn {test}() {{")) || code.contains(&format!("    {test}: \""));
        assert!(known, "there is no test {test}");
    }
}
