//! The cost of tickws as connections, members, idle clients and timers grow: flat, or to be
//! explained. The limit next to it shows the kernel's part.

use std::time::Duration;

use crate::{
    Outcome,
    compare::{idle_tick, median},
    load::{self, Load, Mode},
    servers::{LIMIT, Server, TICKWS},
};

const STEPS: [usize; 4] = [10, 100, 1_000, 10_000];

pub fn run(quick: bool) -> Outcome<()> {
    let rounds = if quick { 1 } else { 5 };
    let time = Duration::from_millis(if quick { 300 } else { 1_000 });
    let echo = Load {
        mode: Mode::Echo,
        clients: 0,
        depth: 1,
        payload: 125,
        text: false,
        tls: false,
        resumes: false,
        verify: false,
        rate: None,
        warm: Duration::from_millis(200),
        time,
        count: u64::MAX,
    };
    let fanout = Load { mode: Mode::Fanout, payload: 64, ..echo };
    println!("ns CPU of the server per message, 125 B echoed, one in flight for each connection:");
    table("connections", "echo", echo, rounds)?;
    println!("\nns CPU of the server per delivery, 64 B to all, one message in flight:");
    table("members", "broadcast", fanout, rounds)?;
    println!("\nns per poll with nothing to do:");
    println!("      clients     timers       tick");
    for (clients, timers) in STEPS.map(|clients| (clients, 0)).into_iter().chain([(10_000, 10_000)]) {
        println!("  {clients:>11} {timers:>10} {:>10.0}", idle_tick(clients, timers)?.cpu);
    }
    Ok(())
}

/// Prints a line for each step. The two servers take turns; the figures are medians of the rounds.
fn table(what: &str, mode: &str, load: Load, rounds: usize) -> Outcome<()> {
    println!("  {what:>11} {TICKWS:>10} {LIMIT:>10}      ratio  messages/s");
    for clients in STEPS {
        let (mut own, mut limit, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let before = measure(LIMIT, mode, Load { clients, ..load })?;
            let figures = measure(TICKWS, mode, Load { clients, ..load })?;
            own.push(figures.cpu);
            rates.push(figures.rate);
            limit.push(before.cpu);
        }
        let (own, limit) = (median(own), median(limit));
        println!("  {clients:>11} {own:>10.0} {limit:>10.0} {:>10.2} {:>11.0}", own / limit, median(rates));
    }
    Ok(())
}

fn measure(name: &str, mode: &str, load: Load) -> Outcome<load::Figures> {
    let server = Server::start(name, mode)?;
    load::run(server.target(), &load)
}
