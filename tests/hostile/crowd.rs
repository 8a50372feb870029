//! Those that are many.

use super::{
    ground::{Ground, echoes, end, raise_descriptor_limit},
    support::raw::Raw,
};

/// As many at once as wait to be accepted without being dropped by the kernel, which makes them wait for seconds.
const BACKLOG: u64 = 1_000;

/// Opens thousands of sockets, and says nothing.
pub fn silent(g: &mut Ground) -> u64 {
    let mut count = 5_000;
    let allowed = raise_descriptor_limit();
    if allowed < count + 500 {
        count = allowed / 2;
        eprintln!("SKIPPED in part: {count} sockets instead of 5000, as the descriptor limit is {allowed}");
    }
    let (before, accepted) = (g.rejected("timeout"), g.stat("accepted_total"));
    let mut raws: Vec<Raw> = Vec::new();
    while raws.len() < count as usize {
        raws.push(g.dial());
        if (raws.len() as u64).is_multiple_of(BACKLOG) {
            g.until("them to be let in", |g| g.stat("accepted_total") - accepted == raws.len() as u64);
        }
    }
    g.until("their deadlines", |g| g.rejected("timeout") - before == count);
    for raw in &mut raws {
        end(raw);
        assert_eq!(raw.input(), b"", "silence is the answer");
    }
    count
}

/// Connects and resets at once, thousands of times.
pub fn resets(g: &mut Ground) -> u64 {
    const COUNT: u64 = 10_000;
    let before = g.stats();
    for number in 0..COUNT {
        g.dial().reset();
        if number % BACKLOG == BACKLOG - 1 {
            // Whoever is served has those before it behind.
            echoes(&mut g.open(), "in between");
        }
    }
    let gone = "rejected_total{cause=\"gone\"}";
    g.until("all of them to be forgotten", |g| {
        let stats = g.stats();
        let [accepted, opened, gone] =
            ["accepted_total", "opened_total", gone].map(|name| stats[name] - before[name]);
        let accepted = accepted - opened;
        // The kernel may forget one before it was accepted.
        assert!(gone <= accepted && accepted <= COUNT, "{gone} of {accepted}");
        gone == accepted && accepted > COUNT / 2
    });
    echoes(&mut g.open(), "whoever comes next is let in");
    COUNT
}
