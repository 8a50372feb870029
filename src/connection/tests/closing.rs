//! The closing handshake, in both directions (RFC 6455 §5.5.1, §7).

use super::{harness::*, *};

fn close_frame(side: Side, code: u16, reason: &str) -> Vec<u8> {
    side.gets(0x88, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

fn closed(code: u16, reason: &str) -> Outcome {
    Outcome::Close(code, reason.into())
}

#[test]
fn received_codes_are_accepted_or_violations_as_in_the_rfc() {
    for side in SIDES {
        for code in 0..=u16::MAX {
            let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            let expected = if allowed {
                closed(code, "")
            } else {
                Outcome::Broken(ProtocolError::InvalidCloseCode(code))
            };
            let bytes = close_frame(side, code, "");
            assert_eq!(
                run(side, LIMITS, [&bytes[..]]).0.as_slice(),
                std::slice::from_ref(&expected),
                "{code}"
            );
            if code % 1000 < 20 || code % 1000 == 999 {
                expect(
                    side,
                    &close_frame(side, code, "grüße"),
                    &[match expected {
                        Outcome::Close(code, _) => closed(code, "grüße"),
                        broken => broken,
                    }],
                );
            }
        }
    }
}

#[test]
fn close_bodies_are_checked() {
    use ProtocolError::*;
    for side in SIDES {
        expect(side, &side.gets(0x88, b""), &[closed(1005, "")]);
        expect(side, &side.gets(0x88, b"\x03"), &[Outcome::Broken(CloseBodyTooShort)]);
        let longest = "é".repeat(61) + "!";
        assert_eq!(longest.len(), close::MAX_REASON);
        expect(side, &close_frame(side, 1000, &longest), &[closed(1000, &longest)]);
        let bytes = close_frame(side, 1000, &(longest + "!"));
        // The second byte of the frame proves it.
        assert_eq!(breaks(side, LIMITS, &bytes), (2, ControlTooLong));
        for reason in [&b"\xff"[..], b"cut \xe2\x82", b"\xed\xa0\x80", b"\xc0\x80"] {
            let bytes = side.gets(0x88, &[&[3, 232], reason].concat());
            expect(side, &bytes, &[Outcome::Broken(InvalidCloseReason)]);
        }
    }
}

#[test]
fn frames_behind_a_close_are_discarded() {
    for side in SIDES {
        let bytes = [
            side.gets(0x81, b"before"),
            close_frame(side, 1000, "bye"),
            side.gets(0x81, b"behind"),
            side.gets(0x89, b"ping"),
            b"\xff\xff\xff garbage".to_vec(),
        ];
        expect(side, &bytes.concat(), &[text("before"), closed(1000, "bye")]);

        // The same if the layer above goes on reading.
        let mut endpoint = Endpoint::new(side, LIMITS);
        endpoint.read(&side.gets(0x88, b""));
        assert_eq!(endpoint.outcomes, [closed(1005, "")]);
        for bytes in &bytes {
            endpoint.ended = false;
            endpoint.read(bytes);
        }
        endpoint.flush(usize::MAX);
        assert_eq!((endpoint.outcomes.len(), endpoint.written.len()), (1, 0));
    }
}

#[test]
fn a_close_discards_an_incomplete_message() {
    for side in SIDES {
        let bytes = [side.gets(0x01, b"half \xc3"), close_frame(side, 1001, ""), side.gets(0x80, b"\xbc")];
        expect(side, &bytes.concat(), &[closed(1001, "")]);
    }
}

#[test]
fn the_peer_may_start_the_closing_handshake() {
    for side in SIDES {
        let mut endpoint = Endpoint::new(side, LIMITS);
        assert_eq!(endpoint.connection.close_state(), CloseState::Open);
        endpoint.read(&close_frame(side, 4000, "done"));
        assert_eq!(endpoint.connection.close_state(), CloseState::Received);
        // Messages may still be sent until our close frame.
        endpoint.send(Kind::Text, b"last words");
        endpoint.close(Some((4000, "")));
        assert_eq!(endpoint.connection.close_state(), CloseState::Done);
        endpoint.flush(usize::MAX);
        let expected = [side.sends(0x81, b"last words"), side.sends(0x88, &4000_u16.to_be_bytes())];
        assert_eq!(endpoint.written, expected.concat());
    }
}

#[test]
fn an_empty_close_is_returned_as_an_empty_close() {
    for side in SIDES {
        let mut endpoint = Endpoint::new(side, LIMITS);
        endpoint.read(&side.gets(0x88, b""));
        endpoint.close(None);
        endpoint.flush(usize::MAX);
        assert_eq!(endpoint.written, side.sends(0x88, b""));
        assert_eq!(endpoint.connection.close_state(), CloseState::Done);
    }
}

#[test]
fn this_side_may_start_the_closing_handshake() {
    for side in SIDES {
        let mut endpoint = Endpoint::new(side, LIMITS);
        endpoint.read(&side.gets(0x01, b"under "));
        endpoint.close(Some((1001, "restart")));
        assert_eq!(endpoint.connection.close_state(), CloseState::Sent);
        // Data in flight is still received, but pings get no pong any more.
        endpoint.read(&side.gets(0x89, b"too late"));
        endpoint.read(&side.gets(0x80, b"way"));
        endpoint.read(&side.gets(0x82, b"more"));
        endpoint.read(&close_frame(side, 1001, "restart"));
        assert_eq!(endpoint.connection.close_state(), CloseState::Done);
        endpoint.flush(usize::MAX);
        assert_eq!(endpoint.outcomes, [text("under way"), binary(b"more"), closed(1001, "restart")]);
        assert_eq!(endpoint.written, side.sends(0x88, b"\x03\xe9restart"));
    }
}

#[test]
fn both_sides_may_start_the_closing_handshake() {
    for side in SIDES {
        let mut endpoint = Endpoint::new(side, LIMITS);
        endpoint.close(Some((3000, "")));
        endpoint.flush(usize::MAX);
        endpoint.read(&close_frame(side, 3001, "crossed"));
        assert_eq!(endpoint.outcomes, [closed(3001, "crossed")]);
        assert_eq!(endpoint.connection.close_state(), CloseState::Done);
        assert_eq!(endpoint.written, side.sends(0x88, &3000_u16.to_be_bytes()));
    }
}

#[test]
fn a_violation_after_our_close_is_reported() {
    for side in SIDES {
        let mut endpoint = Endpoint::new(side, LIMITS);
        endpoint.close(Some((1000, "")));
        endpoint.read(&side.gets(0x88, b"\x00\x00"));
        assert_eq!(endpoint.outcomes, [Outcome::Broken(ProtocolError::InvalidCloseCode(0))]);
    }
}
