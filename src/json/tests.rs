//! Tests of error places, borrowing, the envelope and malformed input.

use std::{borrow::Cow, collections::HashMap};

use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;
use crate::util::test_rng::Rng;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: f32,
    y: f32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Move<'a> {
    position: Vec<Point>,
    name: &'a str,
    #[serde(borrow, default)]
    motto: Cow<'a, str>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "snake_case")]
enum Request {
    Say(String),
    Move { x: f32, y: f32 },
    Leave,
}

fn written<T: Serialize + ?Sized>(value: &T) -> String {
    String::from_utf8(Prepared::json(value).unwrap().payload().to_vec()).unwrap()
}

#[track_caller]
fn fails<'a, T: Deserialize<'a> + fmt::Debug>(json: &'a str) -> JsonError {
    let error = Message::Text(json).parse_json::<T>().unwrap_err();
    let text = error.to_string();
    assert!(!text.contains(garbles) && text.chars().count() < 10 * 600, "{text:?}");
    assert_eq!(format!("{error:?}"), format!("JsonError({text})"));
    // A binary message gives the same error.
    assert_eq!(Message::Binary(json.as_bytes()).parse_json::<T>().unwrap_err().to_string(), text);
    error
}

fn place(error: &JsonError) -> (&str, usize, usize) {
    (error.path(), error.line(), error.column())
}

#[test]
fn an_error_names_its_place_by_path_line_and_column() {
    let points = r#"{"type":"m","data":{"position":[{"x":0,"y":0},{"x":0,"y":0},{"x":"a","y":0}]}}"#;
    let error = fails::<Envelope<Move>>(points);
    let expected = r#"invalid type: string "a", expected f32 at line 1 column 68"#;
    assert_eq!(error.to_string(), format!("data.position[2].x: {expected}"));
    assert_eq!(place(&error), ("data.position[2].x", 1, 68));
    let source = error.source().and_then(|source| source.downcast_ref::<serde_json::Error>()).unwrap();
    assert!(source.is_data());
    assert_eq!(source.to_string(), expected);

    assert_eq!(place(&fails::<Request>("{\"type\":\"move\",\n\"data\":{\"x\":1,\"y\":null}}")).0, "data.y");
    assert_eq!(place(&fails::<Envelope<u8>>("{\n\n  \"type\": 1}")), ("type", 3, 11));
    assert_eq!(place(&fails::<Vec<u8>>("[1, 2, 256]")), ("[2]", 1, 10));
    assert_eq!(place(&fails::<HashMap<String, u8>>(r#"{"a": 1, "b": -1}"#)), ("b", 1, 16));
}

#[test]
fn errors_of_the_whole_message_have_no_path() {
    assert_eq!(
        fails::<u8>("\"1\"").to_string(),
        "invalid type: string \"1\", expected u8 at line 1 column 3"
    );
    assert_eq!(fails::<u8>("").to_string(), "EOF while parsing a value at line 1 column 0");
    assert_eq!(fails::<u8>("7 8").to_string(), "trailing characters at line 1 column 3");
    assert_eq!(place(&fails::<Point>(r#"{"x":1,"y":2},"#)), ("", 1, 14));
    assert_eq!(Message::Text(" 7 \r\n\t").parse_json::<u8>().unwrap(), 7);
}

#[test]
fn strings_are_borrowed_from_the_message() {
    let json = r#"{"type":"move","data":{"position":[],"name":"ann","motto":"plain"}}"#;
    let range = json.as_bytes().as_ptr_range();
    for message in [Message::Text(json), Message::Binary(json.as_bytes())] {
        let moved: Envelope<Move> = message.parse_json().unwrap();
        assert!(range.contains(&moved.data.name.as_ptr()));
        assert!(matches!(moved.data.motto, Cow::Borrowed("plain")));
    }
    let escaped = r#"{"position":[],"name":"ann","motto":"a\nb"}"#;
    let moved: Move = Message::Text(escaped).parse_json().unwrap();
    assert_eq!(moved.motto, "a\nb");
    assert_eq!(fails::<Move>(r#"{"position":[],"name":"a\nb"}"#).path(), "name");
}

#[test]
fn the_envelope_has_exactly_type_and_data() {
    assert_eq!(written(&Envelope::new("joined", 7)), r#"{"type":"joined","data":7}"#);
    assert_eq!(written(&Envelope::new("joined", None::<u8>)), r#"{"type":"joined","data":null}"#);
    assert_eq!(written(&Envelope::new("joined", ())), r#"{"type":"joined","data":null}"#);

    let parse = |json| Message::Text(json).parse_json::<Envelope<Option<u8>>>();
    assert_eq!(parse(r#"{"data":7,"more":[1],"type":"a"}"#).unwrap(), Envelope::new("a", Some(7)));
    assert_eq!(parse(r#"{"type":"a","data":null}"#).unwrap(), Envelope::new("a", None));
    assert_eq!(parse(r#"{"type":"a"}"#).unwrap(), Envelope::new("a", None));
    assert!(parse(r#"{"data":7}"#).unwrap_err().to_string().starts_with("missing field `type`"));
    let twice = fails::<Envelope<u8>>(r#"{"type":"a","type":"b","data":1}"#);
    assert!(twice.to_string().contains("duplicate field `type`"), "{twice}");

    let null = Message::Text(r#"{"type":"a","data":null}"#).parse_json::<Envelope<()>>();
    assert_eq!(null.unwrap(), Envelope::new("a", ()));
    assert!(fails::<Envelope<()>>(r#"{"type":"a"}"#).to_string().starts_with("missing field `data`"));
}

#[test]
fn a_tagged_enum_has_the_form_of_the_envelope() {
    let requests = [
        (Request::Say("hi".into()), r#"{"type":"say","data":"hi"}"#),
        (Request::Move { x: 1.5, y: -2.0 }, r#"{"type":"move","data":{"x":1.5,"y":-2.0}}"#),
        (Request::Leave, r#"{"type":"leave"}"#),
    ];
    for (request, json) in requests {
        assert_eq!(written(&request), json);
        assert_eq!(Message::Text(json).parse_json::<Request>().unwrap(), request);
        assert!(Message::Text(json).parse_json::<Envelope<Option<Value>>>().is_ok());
    }
}

#[test]
fn an_unserializable_value_is_an_error_with_its_path() {
    let keys = HashMap::from([(vec![1], "no string")]);
    let error = Prepared::json(&Envelope::new("a", [&HashMap::new(), &keys])).unwrap_err();
    assert_eq!(error.to_string(), "data[1]: key must be a string");
    assert_eq!(place(&error), ("data[1]", 0, 0));
    assert_eq!(written(&[f64::NAN, f64::INFINITY, 0.5]), "[null,null,0.5]");
    assert_eq!(written("grüße"), "\"grüße\"");
}

#[test]
fn an_error_without_a_second_failure_is_still_reported() {
    use std::cell::Cell;
    thread_local!(static FAILS: Cell<bool> = const { Cell::new(true) });
    #[derive(Debug)]
    struct Moody;
    fn mood<E>(error: impl Fn(&str) -> E) -> Result<(), E> {
        if FAILS.replace(!FAILS.get()) { Err(error("not now")) } else { Ok(()) }
    }
    impl<'de> Deserialize<'de> for Moody {
        fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
            IgnoredAny::deserialize(json)?;
            mood(|text| serde::de::Error::custom(text)).map(|()| Moody)
        }
    }
    impl Serialize for Moody {
        fn serialize<S: serde::Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
            mood(|text| serde::ser::Error::custom(text))?;
            json.serialize_unit()
        }
    }
    let error = Message::Text("1").parse_json::<Moody>().unwrap_err();
    assert_eq!((error.path(), error.to_string().starts_with("not now")), ("", true));
    assert_eq!(Prepared::json(&Moody).unwrap_err().to_string(), "not now");
}

#[test]
fn deep_nesting_is_an_error_without_stack_overflow() {
    // A thread with a small stack, as in embedded programs. Debug builds need the most stack.
    let deep = || {
        for open in ["[", "{\"a\":", "{\"type\":\"say\",\"data\":["] {
            let json = open.repeat((1 << 20) / open.len());
            let error = fails::<Value>(&json);
            assert!(error.to_string().contains("recursion limit exceeded"), "{error}");
            fails::<Envelope<Value>>(&json);
            fails::<Request>(&json);
            fails::<IgnoredAny>(&json);
        }
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(deep).unwrap().join().unwrap();
}

#[test]
fn peer_text_in_errors_is_escaped_and_truncated() {
    let evil = r"a\n\u001b[31mFAKE LINE\u2028\u202e\u0000";
    let field = fails::<Move>(&format!(r#"{{"{evil}": 1}}"#)).to_string();
    assert!(field.contains(r"unknown field `a\n\u{1b}[31mFAKE LINE\u{2028}\u{202e}\u{0}`"), "{field}");
    let key = fails::<HashMap<String, u8>>(&format!(r#"{{"{evil}": "x"}}"#));
    assert_eq!(key.path(), r"a\n\u{1b}[31mFAKE LINE\u{2028}\u{202e}\u{0}");

    let long = "é".repeat(1 << 19);
    let error = fails::<HashMap<String, u8>>(&format!(r#"{{"{long}": "{long}"}}"#));
    assert_eq!(error.path(), format!("{}…", "é".repeat(200)));
    let text = error.to_string();
    assert!(text.ends_with(&format!("… at line 1 column {}", error.column())), "{text}");
    assert_eq!(text.chars().count() - text.split_once("… at").unwrap().1.len(), 201 + 2 + 301 + 3);
    // The longest path that is not truncated.
    assert_eq!(fails::<HashMap<String, u8>>(&format!(r#"{{"{}":""}}"#, &long[..400])).path(), &long[..400]);
}

const CORPUS: &[&str] = &[
    "",
    " ",
    "{",
    "}",
    "[",
    "]",
    "[1,]",
    "[,1]",
    "[1 2]",
    "{,}",
    r#"{"type"}"#,
    r#"{"type":}"#,
    r#"{"type":"a",}"#,
    r#"{"type":"a","data":1"#,
    r#"{type:"a","data":1}"#,
    r#"{'type':'a','data':1}"#,
    r#"{"type":"a" "data":1}"#,
    r#"{"type":"a","data":01}"#,
    r#"{"type":"a","data":+1}"#,
    r#"{"type":"a","data":1.}"#,
    r#"{"type":"a","data":.1}"#,
    r#"{"type":"a","data":1e}"#,
    r#"{"type":"a","data":0x1}"#,
    r#"{"type":"a","data":NaN}"#,
    r#"{"type":"a","data":Infinity}"#,
    r#"{"type":"a","data":nul}"#,
    r#"{"type":"a","data":tru}"#,
    r#"{"type":"\x","data":1}"#,
    r#"{"type":"\u12","data":1}"#,
    r#"{"type":"\ud800","data":1}"#,
    r#"{"type":"\udc00\ud800","data":1}"#,
    "{\"type\":\"a\nb\",\"data\":1}",
    "\u{feff}{\"type\":\"a\",\"data\":1}",
    "{\"type\":\"a\",\"data\":1}\0",
    r#"{"type":"a","data":1}{"type":"a","data":1}"#,
    r#"{"type":"a","data":1}]"#,
    "// 1",
    "/* */ 1",
    r#"{"type":"a","data":1e999}"#,
    r#"{"type":"a","data":99999999999999999999}"#,
    r#"{"type":null,"data":1}"#,
    r#"{"type":["a"],"data":1}"#,
    r#"["a"]"#,
    r#"["a", 1, 2]"#,
    "null",
    "\"a\"",
];

#[test]
fn malformed_json_is_an_error() {
    for json in CORPUS {
        let error = fails::<Envelope<i64>>(json);
        assert!(error.line() >= 1, "{json}: {error}");
    }
    // Binary messages may contain invalid UTF-8, inside strings and outside.
    for bytes in [&b"\"\xff\""[..], b"\xff", b"{\"a\xc0\xaf\":1}", b"\"\xed\xa0\x80\""] {
        assert!(Message::Binary(bytes).parse_json::<Value>().is_err());
    }
}

/// Parses the bytes as each type of these tests.
fn read_all(bytes: &[u8]) {
    fn read<'a, T: Deserialize<'a>>(message: Message<'a>) {
        if let Err(error) = message.parse_json::<T>() {
            let text = format!("{error} {error:?} {}", error.path());
            assert!(!text.contains(garbles), "{text:?}");
            assert!(error.line() >= 1 && error.column() <= message.len(), "{text}");
        }
    }
    let text = std::str::from_utf8(bytes).ok().map(Message::Text);
    for message in [Some(Message::Binary(bytes)), text].into_iter().flatten() {
        read::<Envelope<Move>>(message);
        read::<Envelope<Option<Value>>>(message);
        read::<Request>(message);
        read::<HashMap<String, Point>>(message);
        read::<IgnoredAny>(message);
    }
}

#[test]
fn random_and_mutated_input_does_not_panic() {
    let valid = [
        r#"{"type":"move","data":{"position":[{"x":1.5,"y":-2e3}],"name":"ann","motto":"a\nü\ud83d\ude00"}}"#,
        r#"{"type":"say","data":"grüße"}"#,
        r#"{"a":{"x":1,"y":2},"\u0000\r":{"x":0.1,"y":1e-7},"b":[[],{},null,true,false,123456789012345678901]}"#,
    ];
    let mut rng = Rng::new(7);
    for _ in 0..2_000 {
        let len = rng.below(40);
        read_all(&rng.bytes(len));
        let mut bytes = rng.pick(&valid).as_bytes().to_vec();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(bytes.len());
            match rng.below(4) {
                0 => bytes[at] = rng.next() as u8,
                1 => bytes[at] = rng.pick(b"{}[]\",:\\-+.eE0ntf\n\x00\x80\xff"),
                2 => drop(bytes.drain(at..(at + 1 + rng.below(5)).min(bytes.len() - 1).max(at))),
                _ => bytes.insert(at, rng.pick(b"{}[]\",:\\0")),
            }
        }
        read_all(&bytes);
    }
}
