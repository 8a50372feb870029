//! Attacks with many frames or messages, and with frames that claim or inflate to much.

use std::sync::LazyLock;

use super::{
    server_process::{
        ServerProcess, assert_closed_with, assert_echoes, end, frame, until, write, write_slice,
        write_until_closed,
    },
    support::raw::{self, End, Frame},
};

pub fn pings(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 20_000;
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..COUNT).flat_map(|i| raw::masked(true, raw::PING, i.to_string().as_bytes())).collect()
    });
    let mut raw = server.open();
    // The client reads no pong before all pings are sent.
    write(&mut raw, &BYTES);
    let (mut last, mut pongs) = (None, 0);
    until("the last pong", || {
        raw.read_some();
        for frame in raw.take_frames() {
            assert_eq!(frame.opcode, raw::PONG);
            let number: usize = String::from_utf8(frame.payload).unwrap().parse().unwrap();
            // RFC 6455 §5.5.3: only the latest ping needs a pong, and an older one is of no use.
            assert!(last < Some(number), "{number} after {last:?}");
            (last, pongs) = (Some(number), pongs + 1);
        }
        last == Some(COUNT - 1)
    });
    assert!(pongs <= COUNT);
    assert_echoes(&mut raw, "still served");
    COUNT as u64
}

pub fn pongs(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 50_000;
    static BYTES: LazyLock<Vec<u8>> =
        LazyLock::new(|| raw::masked(true, raw::PONG, b"unsolicited").repeat(COUNT));
    let mut raw = server.open();
    write(&mut raw, &BYTES);
    assert_echoes(&mut raw, "unsolicited pongs are ignored");
    COUNT as u64
}

/// An endless message of fragments without a byte.
pub fn empty_fragments(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 10_000;
    let mut raw = server.open();
    write(&mut raw, &raw::masked(false, raw::TEXT, b""));
    write_until_closed(&mut raw, &raw::masked(false, raw::CONTINUE, b"").repeat(COUNT));
    assert_closed_with(&mut raw, 1008, "empty fragments");
    COUNT as u64
}

/// A message in fragments of one byte each, which is legal.
pub fn tiny_fragments(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 20_000;
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let middle = raw::masked(false, raw::CONTINUE, b"b").repeat(COUNT - 2);
        [raw::masked(false, raw::BINARY, b"a"), middle, raw::masked(true, raw::CONTINUE, b"c")].concat()
    });
    let mut raw = server.open();
    write(&mut raw, &BYTES);
    let payload = [b"a".to_vec(), b"b".repeat(COUNT - 2), b"c".to_vec()].concat();
    assert!(frame(&mut raw) == Frame::new(raw::BINARY, payload));
    COUNT as u64
}

/// Messages of one byte, as fast as the server reads them.
pub fn tiny_messages(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 50_000;
    const ECHO: &[u8] = &[0x82, 1, b'x'];
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| raw::binary(b"x").repeat(COUNT));
    let (mut raw, bytes) = (server.open(), &*BYTES);
    let (mut at, mut back) = (0, 0);
    until("every echo", || {
        loop {
            let mut moved = 0;
            if at < bytes.len() {
                moved = write_slice(&mut raw, &bytes[at..]).expect("the server reads");
                at += moved;
            }
            moved += raw.read_some();
            // Compares whole echoes without parsing frames, so that the flood does not pause.
            let whole = raw.input().len() / ECHO.len();
            assert!(raw.take(whole * ECHO.len()).chunks(ECHO.len()).all(|echo| echo == ECHO));
            back += whole;
            assert_eq!(raw.end, None);
            if back == COUNT || moved == 0 {
                return back == COUNT;
            }
        }
    });
    assert_eq!(raw.input(), b"");
    COUNT as u64
}

pub fn close_frames(server: &mut ServerProcess) -> u64 {
    const COUNT: usize = 1_000;
    for mut raw in server.open_many(5) {
        write_until_closed(&mut raw, &raw::close(1000, "bye").repeat(COUNT));
        assert_eq!(frame(&mut raw), Frame::close(1000, "bye"));
        assert_eq!(end(&mut raw), End::Fin);
        assert_eq!(raw.input(), b"", "one close frame is sent in response");
    }
    5 * COUNT as u64
}

/// The header of a frame that claims 16 MiB.
fn claim() -> Vec<u8> {
    let mut bytes = vec![0x82, 0x80 | 127];
    bytes.extend((16u64 << 20).to_be_bytes());
    bytes.extend([1, 2, 3, 4]);
    bytes
}

/// Claims frames of 16 MiB, of which no payload follows.
pub fn claims(server: &mut ServerProcess) -> u64 {
    let mut raws = server.open_many(100);
    for raw in &mut raws {
        write(raw, &claim());
        assert_closed_with(raw, 1009, "16 MiB where 1 MiB is allowed");
    }
    raws.len() as u64
}

/// The same claims where 16 MiB are allowed.
pub fn allowed_claims(server: &mut ServerProcess) -> u64 {
    let (before, [resident, _]) = (server.closed("eof"), server.memory());
    let mut raws = server.open_many(100);
    let read = server.stat("bytes_in_total");
    for raw in &mut raws {
        write(raw, &[claim(), vec![0; 100]].concat());
    }
    server.until("the claims to be read", |server| server.stat("bytes_in_total") >= read + 11_400);
    assert_echoes(&mut server.open(), "the others are served");
    let (held, [grown, _]) = (server.stat("buffered_bytes"), server.memory());
    assert!(held < 1 << 20, "{held} bytes are held for 11,400 received");
    assert!(grown < resident + (64 << 20), "{resident} bytes became {grown}");
    let count = raws.len() as u64;
    drop(raws);
    server.until("the connections to be gone", |server| server.closed("eof") - before >= count);
    count
}

/// Small frames that inflate to 64 MiB.
#[cfg(feature = "deflate")]
pub fn bombs(server: &mut ServerProcess) -> u64 {
    use flate2::{Compress, Compression, FlushCompress};
    const COUNT: usize = 10;
    let mut bomb = Vec::with_capacity(1 << 20);
    let mut compressor = Compress::new(Compression::best(), false);
    compressor.compress_vec(&vec![0; 64 << 20], &mut bomb, FlushCompress::Sync).unwrap();
    bomb.truncate(bomb.len() - 4);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let mut frame = raw::binary(&bomb);
    frame[0] |= 0x40;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let mut raws: Vec<_> = (0..COUNT).map(|_| server.open_with(offer)).collect();
    for raw in &mut raws {
        write_until_closed(raw, &frame);
        assert_closed_with(raw, 1009, "a bomb");
    }
    COUNT as u64
}
