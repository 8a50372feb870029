//! The floors of `src` (ARCHITECTURE.md): a file imports only from lower floors, and nothing
//! imports in a circle.
//!
//! The unit of a floor is a top-level folder of `src`, or a file beside them. A module and the
//! files below it (`engine/mod.rs` and `engine/receive.rs`) are one thing cut in pieces: imports
//! between a module and its own descendants make no circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each folder of `src`, lowest floor first. Folders of one floor do not know each other.
const FLOORS: &[&[&str]] = &[
    &["util", "id", "message", "close_code", "peer_addr"],
    &["error"],
    &["tls"],
    &["config"],
    &["proto"],
    &["outbox"],
    &["http1", "json"],
    &["handshake", "event"],
    &["connection", "stats"],
    &["engine"],
    &["net"],
    &["record"],
    &["server"],
    &["client", "sim", "guide"],
    &["fuzz"],
];

/// `crate::a::b` as `["a", "b"]`.
type ModulePath = Vec<String>;

/// A graph of names: each with the names that it imports.
type Graph = BTreeMap<String, BTreeSet<String>>;

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

/// `engine/send.rs` and `engine/send/mod.rs` → `engine::send`; `lib.rs` → the empty path.
fn module_of(root: &Path, file: &Path) -> ModulePath {
    let relative = file.strip_prefix(root).unwrap().with_extension("");
    let mut parts: ModulePath = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// The code of each module of `src`, without its tests.
fn modules() -> BTreeMap<ModulePath, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let module = module_of(&root, &file);
        if !module.iter().any(|part| part == "tests") {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            modules.insert(module, code.to_owned());
        }
    }
    modules
}

/// Every path that the text names by `crate`, `super` or `self`, as written, outside comments.
/// Nested `use` trees are taken apart.
fn imports(text: &str) -> Vec<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or("").to_owned() + "\n").collect();
    let mut paths = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (start, _) in code.match_indices(root) {
            // Skip the middle of `super::super::x`, which its beginning covers.
            let before = code[..start].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                expand("", &code[start..], &mut paths);
            }
        }
    }
    paths
}

/// Reads one `use` tree; gives what follows it.
fn expand<'c>(prefix: &str, code: &'c str, paths: &mut Vec<String>) -> &'c str {
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(code.len());
    let path = format!("{prefix}{}", &code[..end]);
    let mut rest = &code[end..];
    if !((path.is_empty() || path.ends_with("::")) && rest.starts_with('{')) {
        paths.push(path.trim_end_matches(':').to_owned());
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

/// The module that an import in `from` names: the longest prefix of the path that is a module.
/// `None`: an item of the crate's public face, such as `crate::Server` in a macro or an example.
fn target<'m>(
    modules: &'m BTreeMap<ModulePath, String>,
    from: &[String],
    path: &str,
) -> Option<&'m ModulePath> {
    let mut absolute = match path.split("::").next() {
        Some("crate") => Vec::new(),
        _ => from.to_vec(),
    };
    for part in path.split("::") {
        match part {
            "crate" | "self" => {}
            "super" => drop(absolute.pop()),
            name => absolute.push(name.to_owned()),
        }
    }
    while !absolute.is_empty() && !modules.contains_key(&absolute) {
        absolute.pop();
    }
    modules.get_key_value(&absolute).map(|(module, _)| module).filter(|module| !module.is_empty())
}

/// Each pair of a module and one that it imports, without those above or below each other.
fn arrows(modules: &BTreeMap<ModulePath, String>) -> Vec<(&ModulePath, &ModulePath)> {
    let mut arrows = Vec::new();
    for (from, code) in modules {
        for path in imports(code) {
            if let Some(to) = target(modules, from, &path)
                && !to.starts_with(from)
                && !from.starts_with(to)
            {
                arrows.push((from, to));
            }
        }
    }
    arrows
}

/// A circle of the graph, if there is one: each name imports the next, and the last the first.
fn circle(graph: &Graph) -> Option<Vec<&str>> {
    fn visit<'g>(
        name: &'g str,
        graph: &'g Graph,
        way: &mut Vec<&'g str>,
        done: &mut BTreeSet<&'g str>,
    ) -> bool {
        if let Some(start) = way.iter().position(|seen| *seen == name) {
            way.drain(..start);
            return true;
        }
        if done.contains(name) {
            return false;
        }
        way.push(name);
        if graph.get(name).into_iter().flatten().any(|next| visit(next, graph, way, done)) {
            return true;
        }
        way.pop();
        done.insert(name);
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    graph.keys().any(|name| visit(name, graph, &mut way, &mut done)).then_some(way)
}

#[test]
fn each_file_imports_only_from_lower_floors() {
    let modules = modules();
    let floor = |module: &ModulePath| FLOORS.iter().position(|floor| floor.contains(&&*module[0]));
    let mut wrong = BTreeSet::new();
    for module in modules.keys().filter(|module| !module.is_empty()) {
        if floor(module).is_none() {
            wrong.insert(format!("{} is on no floor: list it in tests/floors.rs", module[0]));
        }
    }
    for (from, to) in arrows(&modules) {
        if from[0] != to[0] && floor(to) >= floor(from) && !from.is_empty() {
            wrong.insert(format!(
                "{} imports {} from its own floor or above",
                from.join("::"),
                to.join("::")
            ));
        }
    }
    for name in FLOORS.iter().flat_map(|floor| floor.iter()) {
        assert!(modules.keys().any(|module| module.first().is_some_and(|first| first == name)), "no {name}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let modules = modules();
    let mut graph = Graph::new();
    for (from, to) in arrows(&modules) {
        graph.entry(from.join("::")).or_default().insert(to.join("::"));
    }
    assert_eq!(circle(&graph), None);
}

/// At each depth: `engine` with `net`, but also `record::format` with `record::replay`.
#[test]
fn no_folders_import_each_other_in_a_circle() {
    let modules = modules();
    let is_folder =
        |path: &[String]| modules.keys().any(|module| module.len() > path.len() && module.starts_with(path));
    let mut graph = Graph::new();
    for (from, to) in arrows(&modules) {
        // The folders in which the two part ways.
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        let (from, to) = (&from[..=common], &to[..=common]);
        if is_folder(from) && is_folder(to) {
            graph.entry(from.join("::")).or_default().insert(to.join("::"));
        }
    }
    assert_eq!(circle(&graph), None);
}

#[test]
fn nested_use_trees_are_taken_apart() {
    let text = "use crate::{config::Config, proto::{frame::{self, Header}, mask::apply_mask}};\n// crate::server\n\
        crate::id::ClientId::new(1) super::super::x";
    let mut found = imports(text);
    found.sort();
    let expected = [
        "crate::config::Config",
        "crate::id::ClientId::new",
        "crate::proto::frame::Header",
        "crate::proto::frame::self",
        "crate::proto::mask::apply_mask",
        "super::super::x",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_circle_is_found() {
    let graph = |arrows: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in arrows {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])), Some(vec!["b", "c"]));
}

/// Law 4 (ARCHITECTURE.md): one place reads the clock.
#[test]
fn only_the_kernel_host_reads_the_clock() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let module = module_of(&root, &file).join("::");
        let is_test = module.contains("tests");
        // The system clock may be set back: only the `Date` of a response comes from it.
        let reads = code.contains("SystemTime::now()") || code.contains("Instant::now()");
        assert!(!reads || is_test || module == "net::kernel", "{module} reads the clock");
    }
}

/// A new major version of tungstenite must not be one of this library: its types stay inside these
/// modules, and `lib.rs` re-exports none of them.
#[test]
fn tungstenite_stays_inside() {
    const INSIDE: [&str; 9] = [
        "connection",
        "handshake::client",
        "handshake::server",
        "http1::head",
        "http1::head_machine",
        "net::sim",
        "proto::assembler",
        "proto::frame",
        "sim::client",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let module = module_of(&root, &file).join("::");
        let is_known = INSIDE.iter().any(|inside| module == *inside) || module.starts_with("net::sim::");
        assert!(is_known || module.contains("tests") || !text.contains("tungstenite::"), "{module}");
        // A public item of these modules has no type of tungstenite in its signature.
        for line in text.lines().filter(|line| line.trim_start().starts_with("pub ")) {
            assert!(!line.contains("tungstenite") && !line.contains("OpCode"), "{module}: {line}");
        }
    }
}

/// A file has one purpose. Above 600 lines it usually has two.
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
