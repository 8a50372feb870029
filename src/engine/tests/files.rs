//! Static files for slow readers, and files that change while they are served.

use std::fs;

use super::{web::*, *};
use crate::{CloseCode, engine::hooks::Hooks, util::test_dir::TestDir};

/// A served folder.
struct Folder(TestDir);

impl Folder {
    fn new() -> Folder {
        Folder(TestDir::new())
    }

    /// Writes a file in which no two pieces are equal.
    fn write(&self, name: &str, len: usize) -> Vec<u8> {
        let content = crate::util::test_rng::Rng::new(len as u64).bytes(len);
        fs::write(self.0.join(name), &content).unwrap();
        content
    }

    fn host(&self, config: Config) -> Host {
        let mut hooks = Hooks::default();
        hooks.static_files.serve_dir("/", &self.0).unwrap();
        Host::with_hooks(config, hooks, None)
    }
}

#[test]
fn large_file_reaches_a_slow_reader_in_little_memory() {
    let folder = Folder::new();
    let content = folder.write("large", 3_000_000);
    let mut host = folder.host(Config::default());
    let mut web = Web::new(&mut host);
    web.peer.set_buffers(1_000, 30_000);
    web.send_request(get("/large"));
    web.send_request(get("/large").replace("GET", "HEAD"));
    let (mut most, mut responses) = (0, Vec::new());
    while host.settle() + web.peer.read(10_000) > 0 {
        host.check();
        most = most.max(host.engine.total_buffered());
        // The transfer takes far longer than any deadline.
        host.advance(SEC);
        responses.extend(web.parse());
    }
    responses.extend(web.parse());
    assert!(most < 300_000, "{most} bytes");
    assert_eq!(responses.len(), 2);
    assert!(responses[0].body == content);
    assert_eq!((responses[1].field("content-length"), responses[1].body.len()), (Some("3000000"), 0));
    web.peer.fin();
    host.settle();
    assert_eq!(host.engine.stats().http_only, 1);
    host.check_empty();
}

#[test]
fn a_file_that_shrinks_while_it_is_served_ends_the_connection() {
    let folder = Folder::new();
    let content = folder.write("log", 500_000);
    let mut host = folder.host(Config::default());
    let mut web = Web::new(&mut host);
    web.peer.set_buffers(1_000, 10_000);
    web.send_request(get("/log"));
    web.send_request(get("/log"));
    host.settle();
    fs::write(folder.0.join("log"), &content[..200_000]).unwrap();
    while host.settle() + web.peer.read(10_000) > 0 {
        host.check();
    }
    assert_eq!(web.parse(), []);
    assert!(web.peer.at_end());
    let got = web.peer.rest();
    assert!(got.len() > 100_000 && got.len() < 200_500, "{}", got.len());
    web.peer.fin();
    host.settle();
    assert_eq!((host.engine.stats().http_only, host.engine.stats().http_requests), (1, 1));
    host.check_empty();
}

/// The kernel states a length for this file that no read returns.
#[cfg(target_os = "linux")]
#[test]
fn file_shorter_than_its_stated_length_ends_the_connection() {
    let strange = "/sys/kernel/uevent_seqnum";
    let claimed = fs::metadata(strange).map_or(0, |metadata| metadata.len());
    if fs::read(strange).map_or(0, |content| content.len() as u64) >= claimed {
        eprintln!("skipped: {strange} is not as expected");
        return;
    }
    let mut hooks = Hooks::default();
    hooks.static_files.serve_dir("/", std::path::Path::new("/sys/kernel")).unwrap();
    let mut host = Host::with_hooks(Config::default(), hooks, None);
    let mut web = Web::new(&mut host);
    web.send_request(get("/uevent_seqnum"));
    web.send_request(get("/uevent_seqnum"));
    host.settle();
    host.check();
    assert_eq!(web.responses(), []);
    assert!(web.peer.at_end());
}

#[test]
fn reader_that_stalls_or_leaves_a_file_is_dropped() {
    let folder = Folder::new();
    folder.write("large", 500_000);
    for leaves in [false, true] {
        let mut host = folder.host(Config::default());
        let mut web = Web::new(&mut host);
        web.peer.set_buffers(1_000, 10_000);
        web.send_request(get("/large"));
        host.settle();
        web.peer.read(5_000);
        host.settle();
        let start = host.now;
        if leaves {
            web.peer.reset(true);
            host.settle();
        }
        while !web.peer.is_dropped() {
            let timeout = host.engine.next_timeout(host.now).unwrap_or_default();
            host.advance(timeout);
            let _ = host.poll();
            host.check();
        }
        let due = if leaves { Duration::ZERO } else { 10 * SEC };
        assert!((due..due + 2 * MS).contains(&(host.now - start)));
        assert_eq!(host.engine.stats().http_only, 1);
        host.check_empty();
    }
}

#[test]
fn shutdown_lets_a_file_transfer_finish() {
    let folder = Folder::new();
    let content = folder.write("large", 500_000);
    let mut host = folder.host(Config::default());
    let mut web = Web::new(&mut host);
    web.peer.set_buffers(1_000, 10_000);
    web.send_request(get("/large"));
    web.send_request(get("/large"));
    host.settle();
    host.engine.shutdown(CloseCode::GOING_AWAY, "", 60 * SEC, host.now);
    while host.settle() + web.peer.read(10_000) > 0 {
        host.check();
    }
    let responses = web.parse();
    assert!(responses.len() == 1 && responses[0].body == content);
    assert!(web.peer.at_end());
    web.peer.fin();
    host.settle();
    host.check_empty();
    assert!(host.engine.is_drained());
}
