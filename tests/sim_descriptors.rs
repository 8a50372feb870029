//! A simulated server asks nothing of the kernel. Alone in its process: it counts the descriptors.
#![cfg(all(feature = "sim", target_os = "linux"))]

use std::{fs, os::fd::AsRawFd, time::Duration};

use tickws::{
    Event, Server,
    sim::{Received, Sim},
};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_simulated_server_opens_no_descriptor_until_it_is_asked_for_one() {
    let before = descriptors();
    let sim = Sim::new(1);
    let mut server = sim.server(Server::builder()).unwrap();
    let mut outbound = sim.server(Server::builder()).unwrap();
    sim.name("hall.example", server.local_addrs()[0]);
    outbound.connect("ws://hall.example/").unwrap();
    let handle = server.handle();
    let mut client = sim.connect(&server, "/");
    client.send("hello");
    for _ in 0..10 {
        for event in &server.poll_once().unwrap() {
            if let Event::Message { client, message } = event {
                server.send(client, message).unwrap();
            }
        }
        let _ = outbound.poll_once().unwrap();
        sim.advance(Duration::from_millis(1));
    }
    handle.wake().unwrap();
    assert_eq!(client.received(), [Received::Text("hello".into())]);
    assert_eq!(server.client_count() + outbound.client_count(), 3);
    assert_eq!(descriptors(), before, "neither a poller, nor a waker, nor a socket");

    // One for a foreign event loop, kept from then on.
    assert_eq!(server.as_raw_fd(), server.as_raw_fd());
    assert_eq!(descriptors(), before + 1);
    drop(server);
    assert_eq!(descriptors(), before);
}
