//! The compression of a test peer (RFC 7692): one flate2 stream in each direction.

#[cfg(feature = "deflate")]
mod enabled {
    use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

    #[derive(Debug)]
    pub(crate) struct PeerDeflate {
        inflater: Decompress,
        compressor: Compress,
        server_no_context_takeover: bool,
        client_no_context_takeover: bool,
    }

    impl PeerDeflate {
        pub(crate) const OFFER: &str =
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

        /// The compression that the head of a response agrees to; `None` without one.
        pub(crate) fn from_response(head: &str) -> Option<PeerDeflate> {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            let (_, agreed) =
                lines.rfind(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions"))?;
            let bits = |name: &str| {
                let (_, value) = agreed.split_once(name)?;
                value.split(';').next()?.parse::<u8>().ok()
            };
            assert!(agreed.starts_with("permessage-deflate"), "{agreed}");
            let client = bits("client_max_window_bits=").unwrap_or(15);
            Some(PeerDeflate {
                inflater: Decompress::new_with_window_bits(
                    false,
                    bits("server_max_window_bits=").unwrap_or(15),
                ),
                compressor: Compress::new_with_window_bits(Compression::new(4), false, client),
                server_no_context_takeover: agreed.contains("server_no_context_takeover"),
                client_no_context_takeover: agreed.contains("client_no_context_takeover"),
            })
        }

        pub(crate) fn inflate(&mut self, payload: &[u8]) -> Vec<u8> {
            if self.server_no_context_takeover {
                self.inflater.reset(false);
            }
            // `decompress_vec` does not grow the vector; no test sends a longer message.
            let mut out = Vec::with_capacity(1 << 20);
            for part in [payload, &[0, 0, 0xff, 0xff]] {
                self.inflater
                    .decompress_vec(part, &mut out, FlushDecompress::Sync)
                    .expect("tickws compresses as RFC 7692 says");
            }
            out
        }

        pub(crate) fn compress(&mut self, body: &[u8]) -> Vec<u8> {
            if self.client_no_context_takeover {
                self.compressor.reset();
            }
            let mut out = Vec::with_capacity(2 * body.len() + 100);
            self.compressor.compress_vec(body, &mut out, FlushCompress::Sync).expect("a compressed message");
            assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
            out.truncate(out.len() - 4);
            out
        }
    }
}

#[cfg(feature = "deflate")]
pub(crate) use enabled::PeerDeflate;

#[cfg(not(feature = "deflate"))]
#[derive(Debug)]
pub(crate) enum PeerDeflate {}

#[cfg(not(feature = "deflate"))]
impl PeerDeflate {
    pub(crate) const OFFER: &str = "";

    pub(crate) fn from_response(_: &str) -> Option<PeerDeflate> {
        None
    }

    pub(crate) fn inflate(&mut self, _: &[u8]) -> Vec<u8> {
        match *self {}
    }

    pub(crate) fn compress(&mut self, _: &[u8]) -> Vec<u8> {
        match *self {}
    }
}
