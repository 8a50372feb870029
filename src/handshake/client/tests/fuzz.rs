//! Fuzz target: responses to our request, compared with tungstenite's client.

use std::io;

use tungstenite::{Error, HandshakeError, handshake::client::ClientHandshake};

use super::*;
use crate::connection::tests::differential::Memory;

/// The first byte chooses the offered subprotocols and the places of the cuts.
pub(crate) fn target(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let offered = if kind & 1 == 0 { &["a", "b"][..] } else { &[] };
    let whole = judge_cut(offered, bytes, vec![]);
    assert_eq!(judge_cut(offered, bytes, (1..bytes.len()).collect()), whole, "byte by byte");
    let mut rng = Rng::new(u64::from(*kind));
    let mut cuts: Vec<usize> = (0..rng.below(8)).map(|_| rng.below(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    assert_eq!(judge_cut(offered, bytes, cuts.clone()), whole, "{cuts:?}");

    let Ok(Some((subprotocol, len))) = whole else { return };
    assert!(bytes[..len].ends_with(b"\r\n\r\n") && len <= LIMITS.max_bytes);
    assert!(subprotocol.as_ref().is_none_or(|name| offered.contains(&&**name)));
    // To tungstenite it is an error if the server selects no subprotocol.
    let offered = if subprotocol.is_some() { offered } else { &[] };
    if let Err(error) = theirs(offered, &bytes[..len]) {
        // tungstenite does not support interim responses, lists, or several lines of one header.
        let text = String::from_utf8_lossy(&bytes[..len]).to_lowercase();
        let only = |name: &str, line: &str| text.matches(name).count() == 1 && text.contains(line);
        let is_plain = text.starts_with("http/1.1 101")
            && only("\r\nupgrade:", "\r\nupgrade: websocket\r\n")
            && only("\r\nconnection:", "\r\nconnection: upgrade\r\n");
        assert!(!is_plain, "{error}: {text:?}");
    }
}

/// Whether tungstenite's client accepts the response.
fn theirs(subprotocols: &[&str], response: &[u8]) -> Result<(), Error> {
    let mut request = http::Request::builder()
        .uri("ws://a.example:81/chat")
        .header("Host", "a.example:81")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", BASE64.encode(NONCE));
    if !subprotocols.is_empty() {
        request = request.header("Sec-WebSocket-Protocol", subprotocols.join(", "));
    }
    let request = request.body(()).expect("the request is well-formed");
    match ClientHandshake::start(Memory(response), request, None)?.handshake() {
        Ok(_) => Ok(()),
        Err(HandshakeError::Failure(error)) => Err(error),
        Err(HandshakeError::Interrupted(_)) => Err(io::Error::from(io::ErrorKind::WouldBlock).into()),
    }
}
