//! Attacks with many connections.

use super::{
    server_process::{ServerProcess, assert_echoes, end, raise_descriptor_limit},
    support::raw::Raw,
};

/// As many connections as may wait to be accepted. The kernel drops the SYN of further ones, which
/// then wait for seconds.
const BACKLOG: u64 = 1_000;

/// Opens thousands of sockets and sends nothing.
pub fn silent(server: &mut ServerProcess) -> u64 {
    let mut count = 5_000;
    let allowed = raise_descriptor_limit();
    if allowed < count + 500 {
        count = allowed / 2;
        eprintln!("SKIPPED in part: {count} sockets instead of 5000, as the descriptor limit is {allowed}");
    }
    let (before, accepted) = (server.rejected("timeout"), server.stat("accepted_total"));
    let mut raws: Vec<Raw> = Vec::new();
    while raws.len() < count as usize {
        raws.push(server.dial());
        if (raws.len() as u64).is_multiple_of(BACKLOG) {
            server.until("the connections to be accepted", |server| {
                server.stat("accepted_total") - accepted == raws.len() as u64
            });
        }
    }
    server.until("the handshake timeouts", |server| server.rejected("timeout") - before == count);
    for raw in &mut raws {
        end(raw);
        assert_eq!(raw.input(), b"", "the server sends nothing");
    }
    count
}

/// Connects and resets right away, thousands of times.
pub fn resets(server: &mut ServerProcess) -> u64 {
    const COUNT: u64 = 10_000;
    let before = server.stats();
    for number in 0..COUNT {
        server.dial().reset();
        if number % BACKLOG == BACKLOG - 1 {
            // The server accepts in order, so this client is served after those before it.
            assert_echoes(&mut server.open(), "in between");
        }
    }
    let gone = "rejected_total{cause=\"gone\"}";
    server.until("all connections to be dropped", |server| {
        let stats = server.stats();
        let [accepted, opened, gone] =
            ["accepted_total", "opened_total", gone].map(|name| stats[name] - before[name]);
        let accepted = accepted - opened;
        // The kernel may discard a connection before it is accepted.
        assert!(gone <= accepted && accepted <= COUNT, "{gone} of {accepted}");
        gone == accepted && accepted > COUNT / 2
    });
    assert_echoes(&mut server.open(), "the next client is served");
    COUNT
}
