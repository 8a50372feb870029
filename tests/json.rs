//! JSON over real sockets (feature `json`).
#![cfg(feature = "json")]

mod support;

use serde::{Deserialize, Serialize};
use support::{Harness, Seen, dial};
use tickws::{Envelope, Event, Message, Prepared, SendOptions, Server};
use tungstenite::Message as Wire;

#[derive(Debug, Deserialize, Serialize)]
struct Step<'a> {
    x: f32,
    y: f32,
    by: &'a str,
}

/// Responds to a step with its result and to any other message with an error; never closes.
fn walk(server: &mut Server, event: Event<'_>) {
    let Event::Message { client, message } = event else { return };
    let response = match message.parse_json::<Envelope<Step>>() {
        Ok(Envelope { kind, data: Step { x, y, by } }) if kind == "step" => {
            let range = message.as_bytes().as_ptr_range();
            assert!(range.contains(&by.as_ptr()), "a borrowed string is in the tick's buffer");
            Prepared::json(&Envelope::new("stepped", Step { x: x + 1.0, y, by }))
        }
        Ok(other) => Prepared::json(&Envelope::new("error", format!("what is {:?}?", other.kind))),
        Err(error) => Prepared::json(&Envelope::new("error", error.to_string())),
    };
    server.send(client, response.unwrap()).unwrap();
}

#[test]
fn an_envelope_works_as_text_and_as_binary() {
    let mut h = Harness::new();
    h.serve(walk, |addr| {
        let mut socket = dial(addr, "/");
        let step = r#" {"data": {"by": "änn", "x": 1, "y": -2.5}, "type": "step"} "#;
        for message in [Wire::text(step), Wire::binary(step.as_bytes())] {
            socket.send(message).unwrap();
            let response = Wire::text(r#"{"type":"stepped","data":{"x":2.0,"y":-2.5,"by":"änn"}}"#);
            assert_eq!(socket.read().unwrap(), response);
        }
    });
}

#[test]
fn a_bad_envelope_gets_an_error_and_the_connection_stays() {
    let mut h = Harness::new();
    h.serve(walk, |addr| {
        let mut socket = dial(addr, "/");
        let mut send_bad = |message: Wire| {
            socket.send(message).unwrap();
            let response = socket.read().unwrap();
            let Envelope { kind, data }: Envelope<String> =
                Message::Text(response.to_text().unwrap()).parse_json().unwrap();
            assert_eq!(kind, "error");
            data
        };
        assert_eq!(
            send_bad(Wire::text(r#"{"type":"step","data":{"x":"far","y":0,"by":"bob"}}"#)),
            r#"data.x: invalid type: string "far", expected f32 at line 1 column 32"#
        );
        assert_eq!(
            send_bad(Wire::text(r#"{"type":"jump","data":{"x":1,"y":0,"by":"bob"}}"#)),
            r#"what is "jump"?"#
        );
        assert_eq!(send_bad(Wire::text("")), "EOF while parsing a value at line 1 column 0");
        assert_eq!(send_bad(Wire::binary(vec![0xff])), "expected value at line 1 column 1");
        let deep = "[0]: invalid type: sequence, expected a string at line 1 column 1";
        assert_eq!(send_bad(Wire::text("[".repeat(1 << 20))), deep);
        socket.send(Wire::text(r#"{"type":"step","data":{"x":1,"y":0,"by":"bob"}}"#)).unwrap();
        assert!(socket.read().unwrap().to_text().unwrap().starts_with(r#"{"type":"stepped","#));
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    });
    assert_eq!(h.server.stats().closed.protocol, 0);
    assert_eq!(h.server.stats().messages_in, 6);
}

#[test]
fn every_send_takes_json_by_value_and_by_reference() {
    let mut h = Harness::new();
    let (mut one, id) = h.connect();
    let (mut two, other) = h.connect();
    let json = Prepared::json(&Envelope::new("n", [1, 2])).unwrap();
    h.server.send(id, &json).unwrap();
    h.server.send_latest(id, 7, &json).unwrap();
    h.server.send_latest(id, 8, json.clone()).unwrap();
    h.server.send_with(id, &json, &SendOptions::new()).unwrap();
    let _ = h.server.broadcast(&json);
    let _ = h.server.broadcast_except(other, json);
    for (raw, count) in [(&mut one, 6), (&mut two, 1)] {
        for _ in 0..count {
            let frame = h.frame(raw);
            assert_eq!(frame, support::raw::Frame::new(support::raw::TEXT, r#"{"type":"n","data":[1,2]}"#));
        }
    }
    h.settle();
    assert!(!h.seen.iter().any(|seen| matches!(seen, Seen::Close(..))));
}
