//! With compression the steady state allocates nothing either: see `allocations.rs`.
#![cfg(feature = "deflate")]

#[path = "support/counting.rs"]
mod counting;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use counting::{Counting, allocations};
use tickws::{Deflate, DeflateMode, Event, Prepared, Server};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn open(server: &mut Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.local_addrs()[0]).unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    while server.client_count() == 0 {
        drop(server.poll_for(Duration::from_secs(1)).unwrap());
    }
    server.flush();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(String::from_utf8(head).unwrap().contains("permessage-deflate"));
    stream
}

/// Reads one small frame, and gives whether it is compressed.
fn reply(stream: &mut TcpStream) -> bool {
    let mut head = [0; 4];
    stream.read_exact(&mut head[..2]).unwrap();
    let mut len = usize::from(head[1]);
    if len == 126 {
        stream.read_exact(&mut head[2..]).unwrap();
        len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    }
    let mut payload = [0; 8 * 1024];
    stream.read_exact(&mut payload[..len]).unwrap();
    head[0] & 0x40 != 0
}

#[test]
fn compressed_echoes_and_prepared_messages_allocate_nothing() {
    for mode in [DeflateMode::Shared, DeflateMode::Dedicated] {
        let mut server = Server::builder().deflate(Deflate::new(mode)).bind("127.0.0.1:0").unwrap();
        let mut stream = open(&mut server);
        let mut compressor = flate2::Compress::new_with_window_bits(flate2::Compression::new(6), false, 13);
        let prepared = Prepared::new("known in advance, ".repeat(100));
        let mut steady = 0;
        for round in 0..200 {
            let mut payload = Vec::with_capacity(1_000);
            if mode == DeflateMode::Shared {
                compressor.reset();
            }
            compressor.compress_vec(&[b'a'; 600], &mut payload, flate2::FlushCompress::Sync).unwrap();
            payload.truncate(payload.len() - 4);
            let mut frame = vec![0xc1, 0x80 | payload.len() as u8, 0, 0, 0, 0];
            frame.extend_from_slice(&payload);
            stream.write_all(&frame).unwrap();

            let before = allocations();
            let mut echoed = false;
            while !echoed {
                for event in &server.poll_for(Duration::from_secs(5)).unwrap() {
                    if let Event::Message { client, message } = event {
                        assert_eq!(message.len(), 600);
                        server.send(client, message).unwrap();
                        server.send(client, &prepared).unwrap();
                        echoed = true;
                    }
                }
            }
            server.flush();
            // In the first rounds the pools, the codec and the contexts are filled.
            if round >= 50 {
                steady += allocations() - before;
            }
            assert!(reply(&mut stream) && reply(&mut stream));
        }
        assert_eq!(steady, 0, "{mode:?}");
    }
}
