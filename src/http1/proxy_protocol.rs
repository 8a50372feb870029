//! The header of the PROXY protocol, versions 1 and 2, with which a proxy names its client before
//! the first byte of HTTP (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

use crate::http1::rejection::Rejection;

/// The statements of a header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The client; `None` if the proxy speaks for itself, or the client has no IP address.
    pub(crate) client: Option<SocketAddr>,
    /// The client's connection to the proxy is encrypted.
    pub(crate) secure: bool,
    /// How many of the bytes pushed last belong to the header.
    pub(crate) used: usize,
}

/// Collects a header from pieces that are split anywhere.
#[derive(Debug, Default)]
pub(crate) struct ProxyHeaderReader {
    bytes: Vec<u8>,
}

impl ProxyHeaderReader {
    /// The longest header of version 2 that is taken. Without TLVs it has 52 bytes, with common
    /// ones some hundred.
    const MAX_LEN: usize = 4096;

    const VERSION_1: &[u8] = b"PROXY ";
    const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    /// Memory held, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether the bytes, which are no header, may be a HEAD, whose response has no body.
    pub(crate) fn may_be_head(&self) -> bool {
        self.bytes.starts_with(b"H")
    }

    /// Takes newly read bytes. `Ok(None)`: all were taken, and the header is not complete.
    ///
    /// # Errors
    /// Returned as soon as the bytes cannot become a header.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Named>, Rejection> {
        let before = self.bytes.len();
        let room = (Self::MAX_LEN - before).min(bytes.len());
        self.bytes.extend_from_slice(bytes.split_at_checked(room).map_or(bytes, |(taken, _)| taken));
        if !begins_alike(&self.bytes, Self::VERSION_1) && !begins_alike(&self.bytes, Self::VERSION_2) {
            return Err(Rejection::NoProxyHeader);
        }
        match ProxyHeader::parse(&self.bytes, ParseConfig::default()) {
            Ok((header, len)) => {
                let line = self.bytes.get(..len).unwrap_or_default();
                if line.starts_with(Self::VERSION_1) && !is_strict(line) {
                    return Err(Rejection::NoProxyHeader);
                }
                let client = header.proxied_address().map(|address| address.source);
                let secure = header.ssl().is_some_and(|ssl| ssl.client_ssl());
                Ok(Some(Named { client, secure, used: len.saturating_sub(before) }))
            }
            // A line of version 1 ends with CRLF, and has no other control characters.
            Err(Error::BufferTooShort) if self.bytes.starts_with(b"P") && self.bytes.contains(&b'\n') => {
                Err(Rejection::NoProxyHeader)
            }
            Err(Error::BufferTooShort) if room == bytes.len() && self.bytes.len() < Self::MAX_LEN => Ok(None),
            Err(_) => Err(Rejection::NoProxyHeader),
        }
    }
}

/// Whether `bytes` begin with `start`, as far as there are bytes.
fn begins_alike(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

/// Whether a line of version 1 has only the characters of the grammar: the parser takes `+80` for a
/// port, and anything behind `UNKNOWN`.
fn is_strict(line: &[u8]) -> bool {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || b" .:\r\n".contains(byte);
    let unknown = line.strip_prefix(b"PROXY UNKNOWN");
    line.iter().all(known) && unknown.is_none_or(|rest| rest.starts_with(b" ") || rest.starts_with(b"\r"))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod tests {
    use proxy_header::{ProxiedAddress, SslInfo, Tlv};

    use super::*;

    fn version_2(header: &ProxyHeader<'_>) -> Vec<u8> {
        let mut buffer = [0; 8192];
        let len = header.encode_to_slice_v2(&mut buffer).unwrap();
        buffer[..len].to_vec()
    }

    fn proxied(source: &str) -> ProxyHeader<'static> {
        let destination = if source.starts_with('[') { "[::1]:443" } else { "10.0.0.1:443" };
        let stream = ProxiedAddress::stream(source.parse().unwrap(), destination.parse().unwrap());
        ProxyHeader::with_address(stream)
    }

    /// The client, whether its connection is encrypted, and what follows the header.
    type Read = (Option<SocketAddr>, bool, Vec<u8>);

    /// Pushes the bytes in pieces of `size`, and gives what the header says and what follows it.
    fn read(bytes: &[u8], size: usize) -> Result<Option<Read>, Rejection> {
        let mut reader = ProxyHeaderReader::default();
        let mut at = 0;
        for piece in bytes.chunks(size) {
            if let Some(named) = reader.push(piece)? {
                let rest = bytes[at + named.used..].to_vec();
                return Ok(Some((named.client, named.secure, rest)));
            }
            at += piece.len();
            assert!(reader.memory() <= 2 * ProxyHeaderReader::MAX_LEN);
        }
        Ok(None)
    }

    /// The fuzz target: the result does not depend on how the bytes are split.
    pub(crate) fn target(data: &[u8]) {
        let Some((size, bytes)) = data.split_first() else { return };
        let whole = read(bytes, bytes.len().max(1));
        let split = read(bytes, usize::from(*size).max(1));
        // A fault is found as soon as it is there, so the texts are the same, too.
        assert_eq!(whole, split);
    }

    #[cfg(test)]
    #[test]
    fn headers_name_their_client_however_they_are_split() {
        let mut tls = proxied("[2001:db8::7]:5000");
        tls.append_tlv(Tlv::Ssl(SslInfo::new(true, false, false, 0)));
        let mut plain = proxied("192.0.2.7:5000");
        plain.append_tlv(Tlv::Ssl(SslInfo::new(false, false, false, 1)));
        for (header, client, secure) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n".to_vec(), Some("192.0.2.7:5000"), false),
            (b"PROXY TCP6 2001:db8::7 ::1 5000 443\r\n".to_vec(), Some("[2001:db8::7]:5000"), false),
            (b"PROXY UNKNOWN\r\n".to_vec(), None, false),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None, false),
            (version_2(&proxied("192.0.2.7:5000")), Some("192.0.2.7:5000"), false),
            (version_2(&ProxyHeader::with_local()), None, false),
            (version_2(&plain), Some("192.0.2.7:5000"), false),
            (version_2(&tls), Some("[2001:db8::7]:5000"), true),
        ] {
            let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            let bytes = [&header[..], request].concat();
            for size in 1..=bytes.len() {
                let (named, is_secure, rest) = read(&bytes, size).unwrap().unwrap();
                assert_eq!(named.map(|addr| addr.to_string()).as_deref(), client, "{size}");
                assert_eq!((is_secure, &rest[..]), (secure, &request[..]), "{size}");
            }
            for len in 0..header.len() {
                assert_eq!(read(&header[..len], 4096), Ok(None), "{len}");
            }
        }
    }

    #[cfg(test)]
    #[test]
    fn other_bytes_are_no_header() {
        let mut long = ProxyHeaderReader::VERSION_2.to_vec();
        long.extend_from_slice(b"\x21\x11\xff\xff");
        long.resize(70_000, 0);
        let line = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x16\x03\x01\x02",
            b"PROXYTCP4 192.0.2.7 10.0.0.1 5000 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +5000 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\n\n",
            b"PROXY TCP4 192.0.2.256 10.0.0.1 5000 443\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 5000 443\r\n",
            b"PROXY UNKNOWNS 1 2 3\r\n",
            b"proxy TCP4 192.0.2.7 10.0.0.1 5000 443\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            &long,
            &line,
        ] {
            for size in [1, 7, bytes.len()] {
                assert_eq!(read(bytes, size), Err(Rejection::NoProxyHeader), "{size}: {bytes:?}");
            }
        }
    }
}
