//! The peer's side of compression, by flate2 used in the plainest way: one stream in each
//! direction.

#[cfg(feature = "deflate")]
mod wired {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

    #[derive(Debug)]
    pub(crate) struct StreamSlot {
        inflater: Decompress,
        compressor: Compress,
        server_alone: bool,
        client_alone: bool,
    }

    impl StreamSlot {
        pub(crate) const OFFER: &str =
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

        /// The compression that the response agrees to; `None` without one.
        pub(crate) fn of(head: &str) -> Option<StreamSlot> {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let (_, answer) =
                lines.rfind(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"))?;
            let bits = |name: &str| {
                let (_, value) = answer.split_once(name)?;
                value.split(';').next()?.parse::<u8>().ok()
            };
            assert!(answer.starts_with("permessage-deflate"), "{answer}");
            let client = bits("client_max_window_bits=").unwrap_or(15);
            Some(StreamSlot {
                inflater: Decompress::new_with_window_bits(
                    false,
                    bits("server_max_window_bits=").unwrap_or(15),
                ),
                compressor: Compress::new_with_window_bits(Compression::new(4), false, client),
                server_alone: answer.contains("server_no_context_takeover"),
                client_alone: answer.contains("client_no_context_takeover"),
            })
        }

        pub(crate) fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
            if self.server_alone {
                self.inflater.reset(false);
            }
            // More than any message here.
            let mut out = Vec::with_capacity(1 << 20);
            for part in [payload, &[0, 0, 0xff, 0xff]] {
                self.inflater.decompress_vec(part, &mut out, FlushDecompress::Sync).expect("legal");
            }
            out
        }

        pub(crate) fn compress(&mut self, body: &[u8]) -> Vec<u8> {
            if self.client_alone {
                self.compressor.reset();
            }
            let mut out = Vec::with_capacity(2 * body.len() + 100);
            self.compressor.compress_vec(body, &mut out, FlushCompress::Sync).expect("room");
            assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
            out.truncate(out.len() - 4);
            out
        }
    }
}

#[cfg(feature = "deflate")]
pub(crate) use wired::StreamSlot;

#[cfg(not(feature = "deflate"))]
#[derive(Debug)]
pub(crate) enum StreamSlot {}

#[cfg(not(feature = "deflate"))]
impl StreamSlot {
    pub(crate) const OFFER: &str = "";

    pub(crate) fn of(_: &str) -> Option<StreamSlot> {
        None
    }

    pub(crate) fn inflate(&mut self, _: &[u8]) -> Vec<u8> {
        match *self {}
    }

    pub(crate) fn compress(&mut self, _: &[u8]) -> Vec<u8> {
        match *self {}
    }
}
