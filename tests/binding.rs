//! Where a server listens, and which settings it rejects.

mod support;

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use support::{Harness, Seen, raw};
use tickws::{BindError, ConfigError, Server, ServerBuilder};

/// A harness around a server that is already bound.
fn harness(server: Server) -> Harness {
    let addr = server.local_addrs()[0];
    Harness { server, addr, seen: Vec::new() }
}

/// Connects to `addr` and receives a message from the server.
#[track_caller]
fn assert_serves(h: &mut Harness, addr: SocketAddr) {
    let mut raw = raw::Raw::connect(addr);
    let id = h.upgrade(&mut raw, &raw::upgrade_request("/", ""));
    h.server.send(id, addr.to_string()).unwrap();
    assert_eq!(h.frame(&mut raw).payload, addr.to_string().as_bytes());
}

#[test]
fn several_addresses_are_served_at_once() {
    let addrs: Vec<SocketAddr> = vec![
        (Ipv4Addr::LOCALHOST, 0).into(),
        (Ipv4Addr::LOCALHOST, 0).into(),
        (Ipv6Addr::LOCALHOST, 0).into(),
    ];
    // On a machine without IPv6 only the first two are bound.
    let has_ipv6 = TcpListener::bind(addrs[2]).is_ok();
    let mut h = harness(Server::bind(&addrs[..]).unwrap());
    let local = h.server.local_addrs();
    assert_eq!(local.len(), if has_ipv6 { 3 } else { 2 });
    assert_eq!(local.iter().filter(|addr| addr.is_ipv6()).count(), usize::from(has_ipv6));
    assert!(local.iter().all(|addr| addr.port() != 0));
    for addr in local {
        assert_serves(&mut h, addr);
    }
}

#[test]
fn binds_to_a_host_name() {
    let mut h = harness(Server::bind("localhost:0").unwrap());
    for addr in h.server.local_addrs() {
        assert_serves(&mut h, addr);
    }
}

#[test]
fn a_given_listener_is_served_with_its_backlog() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // This client connects before there is a server.
    let mut early = raw::Raw::connect(addr);
    early.write_some(raw::upgrade_request("/early", "").as_bytes()).unwrap();
    let mut h = harness(Server::builder().listener(listener).build().unwrap());
    assert_eq!(h.server.local_addrs(), [addr]);
    h.until_seen("the early client", 1, |seen| matches!(seen, Seen::Open(_, uri) if uri == "/early"));
    assert_serves(&mut h, addr);
}

#[test]
fn listeners_and_addresses_can_be_mixed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let given = listener.local_addr().unwrap();
    let mut h = harness(Server::builder().listener(listener).bind("127.0.0.1:0").unwrap());
    let local = h.server.local_addrs();
    assert_eq!((local.len(), local[0]), (2, given));
    for addr in local {
        assert_serves(&mut h, addr);
    }
}

#[test]
fn a_busy_listener_does_not_starve_another() {
    let mut h = harness(
        Server::builder()
            .accept_budget(2)
            .bind(&[([127, 0, 0, 1], 0).into(), ([127, 0, 0, 1], 0).into()][..])
            .unwrap(),
    );
    let local = h.server.local_addrs();
    let crowd: Vec<_> = (0..60).map(|_| raw::Raw::connect(local[0])).collect();
    let mut single = raw::Raw::connect(local[1]);
    single.write_some(raw::upgrade_request("/", "").as_bytes()).unwrap();
    h.until_seen("the single client", 1, |seen| matches!(seen, Seen::Open(..)));
    assert!(h.server.stats().accepted < 60, "all of the crowd was accepted before the single client");
    drop(crowd);
}

#[test]
fn an_address_in_use_is_named_in_the_error() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let error = Server::bind(addr).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    // One bad address of two is an error too, unless it merely does not exist on this machine.
    let two = [SocketAddr::from(([127, 0, 0, 1], 0)), addr];
    assert_eq!(Server::bind(&two[..]).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[test]
fn unavailable_addresses_are_skipped_if_another_binds() {
    // TEST-NET-1 of RFC 5737, which no machine has.
    let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = Server::bind(foreign).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    let both = [foreign, SocketAddr::from(([127, 0, 0, 1], 0))];
    assert_eq!(Server::bind(&both[..]).unwrap().local_addrs().len(), 1);
    let none: [SocketAddr; 0] = [];
    assert_eq!(Server::bind(&none[..]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(Server::bind("no port here").is_err());
}

#[test]
fn invalid_settings_are_errors_that_carry_a_config_error() {
    let cause = |builder: ServerBuilder| -> ConfigError {
        let error = builder.bind("127.0.0.1:0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let BindError::Config(error) = error else { panic!("{error:?}") };
        error
    };
    assert_eq!(cause(Server::builder().max_message_size(0)), ConfigError::Zero("max_message_size"));
    assert_eq!(cause(Server::builder().close_timeout(Duration::ZERO)), ConfigError::Zero("close_timeout"));
    assert_eq!(cause(Server::builder().max_connections(0)), ConfigError::Zero("max_connections"));
    assert_eq!(
        cause(Server::builder().max_head_bytes(1 << 20)),
        ConfigError::TooLarge { setting: "max_head_bytes", max: 64 * 1024 }
    );
    let (ping, silence) = (Duration::from_secs(30), Duration::from_secs(20));
    assert_eq!(
        cause(Server::builder().ping_interval(ping).silence_timeout(silence)),
        ConfigError::SilenceBeforePing { ping, silence }
    );
    assert_eq!(
        cause(Server::builder().allow_origins(["game.example"])),
        ConfigError::InvalidOrigin("game.example".into())
    );
    // Liveness checks turned off, and the largest values, are valid.
    let builder = Server::builder().ping_interval(None).silence_timeout(None).max_buffered(usize::MAX);
    let builder =
        builder.write_timeout(Duration::MAX).close_timeout(Duration::MAX).max_lifetime(Duration::MAX);
    let mut h = Harness::with(builder.handshake_timeout(Duration::MAX).time_budget(Duration::MAX));
    let addr = h.addr;
    assert_serves(&mut h, addr);
}

#[test]
fn a_server_without_listeners_still_has_timers() {
    let mut server = Server::builder().build().unwrap();
    assert_eq!(server.local_addrs(), []);
    let timer = server.set_timer(Duration::from_millis(1));
    let deadline = support::Deadline::new();
    let mut fired = false;
    while !fired {
        let tick = server.poll_wait(None).unwrap();
        fired = tick.iter().any(|event| Seen::from(event) == Seen::Timer(timer));
        deadline.check("the timer");
    }
}
