//! Runs every mode briefly and checks replies by content: whether the benchmark works, not what it
//! measures.

use std::time::Duration;

use crate::{
    Outcome,
    load::{self, Load, Mode},
    servers::{self, Server},
};

/// Ends after 150 ms or this many messages.
const QUICK: Load = Load {
    mode: Mode::Echo,
    clients: 8,
    depth: 1,
    payload: 16,
    text: false,
    tls: false,
    resumes: false,
    verify: true,
    rate: None,
    warm: Duration::from_millis(20),
    time: Duration::from_millis(150),
    count: 1_000_000,
};

pub fn run(names: &[String]) -> Outcome<()> {
    let mut passed = 0;
    for name in names {
        if let Some(reason) = servers::is_missing(name) {
            println!("{name}: skipped, {reason}");
            continue;
        }
        for (what, load) in loads() {
            if (load.text && !servers::supports_text(name))
                || (load.mode == Mode::Churn && !servers::answers_close(name))
            {
                continue;
            }
            let server = Server::start(name, if load.mode == Mode::Fanout { "broadcast" } else { "echo" })?;
            // The limit sends frames of the right length with other content.
            let load = Load { verify: servers::echoes_content(name), ..load };
            let figures =
                load::run(server.target(), &load).map_err(|error| format!("{name}, {what}: {error}"))?;
            println!("{name}: {what}: {} in {:.2} s", figures.messages, figures.seconds);
            passed += 1;
        }
    }
    println!("{passed} loads passed");
    Ok(())
}

fn loads() -> Vec<(&'static str, Load)> {
    vec![
        ("echo", QUICK),
        ("echo, deep", Load { payload: 125, depth: 32, ..QUICK }),
        ("echo, deep, text", Load { payload: 125, depth: 32, text: true, ..QUICK }),
        ("echo, 64 KiB", Load { payload: 64 << 10, depth: 4, ..QUICK }),
        ("echo, 1 MiB", Load { payload: 1 << 20, clients: 2, ..QUICK }),
        ("echo at a rate", Load { rate: Some(5_000.0), ..QUICK }),
        ("fanout", Load { mode: Mode::Fanout, clients: 50, payload: 64, ..QUICK }),
        ("fanout, window 16", Load { mode: Mode::Fanout, clients: 50, payload: 1024, depth: 16, ..QUICK }),
        ("fanout at a rate", Load { mode: Mode::Fanout, clients: 50, rate: Some(200.0), ..QUICK }),
        ("idle", Load { mode: Mode::Idle, clients: 200, ..QUICK }),
        ("churn", Load { mode: Mode::Churn, ..QUICK }),
        ("flood", Load { mode: Mode::Flood, depth: 1024, payload: 125, ..QUICK }),
    ]
}
