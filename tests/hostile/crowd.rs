//! Those that are many.

use super::{
    ground::{Ground, echoes, end, raise_descriptor_limit},
    support::raw::Raw,
};

/// Opens thousands of sockets, and says nothing.
pub fn silent(g: &mut Ground) -> u64 {
    let mut count = 5_000;
    let allowed = raise_descriptor_limit();
    if allowed < count + 500 {
        count = allowed / 2;
        eprintln!("SKIPPED in part: {count} sockets instead of 5000, as the descriptor limit is {allowed}");
    }
    let before = g.rejected("timeout");
    let mut raws: Vec<Raw> = (0..count).map(|_| g.dial()).collect();
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
    (0..COUNT).for_each(|_| g.dial().reset());
    let gone = "rejected_total{cause=\"gone\"}";
    g.until("all of them to be forgotten", |g| {
        let stats = g.stats();
        let [accepted, gone] = ["accepted_total", gone].map(|name| stats[name] - before[name]);
        // The kernel may forget one before it was accepted.
        assert!(gone <= accepted && accepted <= COUNT, "{gone} of {accepted}");
        gone == accepted && accepted > COUNT / 2
    });
    echoes(&mut g.open(), "whoever comes next is let in");
    COUNT
}
