//! Those that send much.

use std::sync::LazyLock;

use super::{
    ground::{Ground, closed_with, echoes, end, frame, until, write, write_slice, write_until_closed},
    support::raw::{self, End, Frame},
};

pub fn pings(g: &mut Ground) -> u64 {
    const COUNT: usize = 20_000;
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..COUNT).flat_map(|i| raw::masked(true, raw::PING, i.to_string().as_bytes())).collect()
    });
    let mut raw = g.open();
    // It reads no pong before it has sent everything.
    write(&mut raw, &BYTES);
    let (mut last, mut pongs) = (None, 0);
    until("the last pong", || {
        raw.read_some();
        for frame in raw.take_frames() {
            assert_eq!(frame.opcode, raw::PONG);
            let number: usize = String::from_utf8(frame.payload).unwrap().parse().unwrap();
            // RFC 6455 §5.5.3: only the latest has to be answered, and an old answer is of no use.
            assert!(last < Some(number), "{number} behind {last:?}");
            (last, pongs) = (Some(number), pongs + 1);
        }
        last == Some(COUNT - 1)
    });
    assert!(pongs <= COUNT);
    echoes(&mut raw, "still served");
    COUNT as u64
}

pub fn pongs(g: &mut Ground) -> u64 {
    const COUNT: usize = 50_000;
    static BYTES: LazyLock<Vec<u8>> =
        LazyLock::new(|| raw::masked(true, raw::PONG, b"nobody asked").repeat(COUNT));
    let mut raw = g.open();
    write(&mut raw, &BYTES);
    echoes(&mut raw, "unasked pongs are nobody's business");
    COUNT as u64
}

/// Fragments without a byte, that never end.
pub fn empty_fragments(g: &mut Ground) -> u64 {
    const COUNT: usize = 10_000;
    let mut raw = g.open();
    write(&mut raw, &raw::masked(false, raw::TEXT, b""));
    write_until_closed(&mut raw, &raw::masked(false, raw::CONTINUE, b"").repeat(COUNT));
    closed_with(&mut raw, 1008, "empty fragments");
    COUNT as u64
}

/// A message in fragments of one byte each: legal.
pub fn tiny_fragments(g: &mut Ground) -> u64 {
    const COUNT: usize = 20_000;
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let middle = raw::masked(false, raw::CONTINUE, b"b").repeat(COUNT - 2);
        [raw::masked(false, raw::BINARY, b"a"), middle, raw::masked(true, raw::CONTINUE, b"c")].concat()
    });
    let mut raw = g.open();
    write(&mut raw, &BYTES);
    let payload = [b"a".to_vec(), b"b".repeat(COUNT - 2), b"c".to_vec()].concat();
    assert!(frame(&mut raw) == Frame::new(raw::BINARY, payload));
    COUNT as u64
}

/// Messages of one byte, as fast as they are taken.
pub fn tiny_messages(g: &mut Ground) -> u64 {
    const COUNT: usize = 50_000;
    const ECHO: &[u8] = &[0x82, 1, b'x'];
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| raw::binary(b"x").repeat(COUNT));
    let (mut raw, bytes) = (g.open(), &*BYTES);
    let (mut at, mut back) = (0, 0);
    until("every echo", || {
        loop {
            let mut moved = 0;
            if at < bytes.len() {
                moved = write_slice(&mut raw, &bytes[at..]).expect("the server reads");
                at += moved;
            }
            moved += raw.read_some();
            // Sooner looked at than taken apart, and the flood goes on.
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

pub fn close_frames(g: &mut Ground) -> u64 {
    const COUNT: usize = 1_000;
    for mut raw in g.open_many(5) {
        write_until_closed(&mut raw, &raw::close(1000, "bye").repeat(COUNT));
        assert_eq!(frame(&mut raw), Frame::close(1000, "bye"));
        assert_eq!(end(&mut raw), End::Fin);
        assert_eq!(raw.input(), b"", "one close frame is answered with one");
    }
    5 * COUNT as u64
}

/// The header of a frame of 16 MiB.
fn claim() -> Vec<u8> {
    let mut bytes = vec![0x82, 0x80 | 127];
    bytes.extend((16u64 << 20).to_be_bytes());
    bytes.extend([1, 2, 3, 4]);
    bytes
}

/// Frames of 16 MiB, of which nothing comes.
pub fn claims(g: &mut Ground) -> u64 {
    let mut raws = g.open_many(100);
    for raw in &mut raws {
        write(raw, &claim());
        closed_with(raw, 1009, "16 MiB where 1 MiB is allowed");
    }
    raws.len() as u64
}

/// The same where it is allowed.
pub fn allowed_claims(g: &mut Ground) -> u64 {
    let (before, [resident, _]) = (g.closed("eof"), g.memory());
    let mut raws = g.open_many(100);
    let read = g.stat("bytes_in_total");
    for raw in &mut raws {
        write(raw, &[claim(), vec![0; 100]].concat());
    }
    g.until("them to be read", |g| g.stat("bytes_in_total") >= read + 11_400);
    echoes(&mut g.open(), "the others are served");
    let (held, [grown, _]) = (g.stat("buffered_bytes"), g.memory());
    assert!(held < 1 << 20, "{held} bytes are held of 11,400");
    assert!(grown < resident + (64 << 20), "{resident} bytes became {grown}");
    let count = raws.len() as u64;
    drop(raws);
    g.until("them to be gone", |g| g.closed("eof") - before >= count);
    count
}

/// Small frames that inflate to 64 MiB.
#[cfg(feature = "deflate")]
pub fn bombs(g: &mut Ground) -> u64 {
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
    let mut raws: Vec<_> = (0..COUNT).map(|_| g.open_with(offer)).collect();
    for raw in &mut raws {
        write_until_closed(raw, &frame);
        closed_with(raw, 1009, "a bomb");
    }
    COUNT as u64
}
