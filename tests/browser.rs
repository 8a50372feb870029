//! The examples' pages in a real browser, driven as a person would use them. Needs chromium, see
//! [`devtools::find`].
#![cfg(unix)]

#[path = "browser/devtools.rs"]
mod devtools;
#[path = "support/example.rs"]
mod example;

use devtools::{Browser, Tab};
use example::Example;
use serde_json::json;

const ONLINE: &str = "document.body.dataset.state === 'online'";

/// A running browser; returns from the test if none is installed.
macro_rules! browser {
    () => {
        match devtools::find() {
            Some(program) => Browser::start(&program),
            None => return,
        }
    };
}

/// A running chat, and the URL of its page without the token.
fn chat(args: &[&str]) -> (Example, String) {
    let mut example = Example::start("chat", args);
    let url = example.expect_url("http://");
    let page = url.strip_suffix("?token=letmein").expect("the demo's token");
    (example, page.to_string())
}

fn log_in(tab: &Tab<'_>, name: &str, token: &str) {
    tab.fill("#name", name);
    tab.fill("#token", token);
    tab.press_enter();
}

fn join_chat<'b>(browser: &'b Browser, url: &str, name: &str) -> Tab<'b> {
    let tab = browser.open(url);
    log_in(&tab, name, "letmein");
    tab.until(ONLINE);
    tab
}

fn say(tab: &Tab<'_>, text: &str) {
    tab.fill("#text", text);
    tab.press_enter();
}

/// The `host:port` of a URL.
fn authority(url: &str) -> &str {
    url.split('/').nth(2).unwrap()
}

#[test]
fn chat_rooms_separate_messages_and_keep_a_history() {
    let browser = browser!();
    let (_example, url) = chat(&["127.0.0.1:0"]);
    let ada = join_chat(&browser, &url, "ada");
    let bob = join_chat(&browser, &url, "bob");
    for tab in [&ada, &bob] {
        tab.until_text("#here", "ada\nbob");
    }
    for (from, to, text) in [(&ada, &bob, "grüße, bob"), (&bob, &ada, "καλημέρα 你好 مرحبا 👋🏽")]
    {
        say(from, text);
        to.until_text("#log", text);
        from.until_text("#log", text);
    }

    // Ada and Bob move to another room: Bob by its link, Ada by the address bar. Cleo stays behind
    // and receives none of its messages.
    let cleo = join_chat(&browser, &url, "cleo");
    cleo.until_text("#log", "καλημέρα");
    ada.eval("location.hash = 'küche'");
    ada.until_text("#room", "#küche");
    bob.fill("#other", "küche");
    bob.press_enter();
    bob.until_text("#here", "ada\nbob");
    cleo.until("document.querySelector('#here').innerText === 'cleo'");
    say(&ada, "only here");
    bob.until_text("#log", "only here");
    assert!(!bob.text("#log").contains("grüße"), "the other room's messages");
    say(&cleo, "so quiet");
    cleo.until_text("#log", "so quiet");
    assert!(!cleo.text("#log").contains("only here"));
    assert!(!ada.text("#log").contains("so quiet"));

    // The history of a room is complete and in order, for a new member and for one who comes back.
    let dan = join_chat(&browser, &format!("{url}#k%C3%BCche"), "dan");
    dan.until_text("#log", "only here");
    ada.click("#rooms a[href='#lobby']");
    ada.until_text("#log", "so quiet");
    let log = ada.text("#log");
    let places = ["grüße", "你好", "so quiet"].map(|text| log.find(text).unwrap());
    assert!(places.is_sorted(), "{log}");
    dan.until("document.querySelector('#here').innerText === 'bob\\ndan'");

    // Only the last fifty messages are kept. The pauses stay below the limit of twenty a second.
    for number in 0..60 {
        say(&cleo, &format!("message {number}."));
        cleo.until_text("#log", &format!("message {number}."));
        if number % 10 == 9 {
            cleo.eval("new Promise(done => setTimeout(done, 500))");
        }
    }
    let eve = join_chat(&browser, &url, "eve");
    eve.until_text("#log", "message 59.");
    assert_eq!(eve.eval("document.querySelectorAll('#log .said').length"), 50);
    assert!(eve.text("#log").contains("message 10.") && !eve.text("#log").contains("message 9."));
}

#[test]
fn markup_is_shown_as_text() {
    let browser = browser!();
    let (_example, url) = chat(&["127.0.0.1:0"]);
    let evil = "<img src=x onerror=hit=1>";
    let ada = join_chat(&browser, &url, "ada");
    let bob = join_chat(&browser, &format!("{url}#<b>room"), "<i onclick=hit=1>");
    bob.until_text("#room", "#<b>room");
    bob.eval("location.hash = ''");
    for tab in [&ada, &bob] {
        tab.until_text("#here", "<i onclick=hit=1>");
    }
    say(&bob, evil);
    for tab in [&ada, &bob] {
        tab.until_text("#log", evil);
        assert_eq!(tab.eval("document.querySelectorAll('main img, main i, main b, h1 b').length"), 0);
        assert_eq!(tab.eval("typeof hit"), "undefined");
    }
}

#[test]
fn a_bad_token_gets_401_and_a_good_one_a_cookie() {
    let browser = browser!();
    let (_example, url) = chat(&["127.0.0.1:0"]);
    let tab = browser.open(&url);
    log_in(&tab, "mallory", "guess");
    // Chromium's text for a 401.
    tab.until_event("Network.webSocketFrameError", "HTTP Authentication failed");
    tab.until("document.body.dataset.state === 'refused'");
    tab.until_text("#trouble", "Is the token right?");
    assert!(browser.cookies().is_empty(), "{:?}", browser.cookies());

    // The right token, in the same form. The address that the server prints contains the token.
    log_in(&tab, "mallory", "letmein");
    tab.until(ONLINE);
    let cookies = browser.cookies();
    let [cookie] = &cookies[..] else { panic!("{cookies:?}") };
    let expected = json!({ "name": "chat-session", "httpOnly": true, "sameSite": "Strict", "path": "/" });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&cookie[key], value, "{cookie}");
    }
    assert_eq!(tab.eval("document.cookie"), "");
    let linked = browser.open(&format!("{url}?token=letmein"));
    assert_eq!(
        linked.eval("[document.querySelector('#token').value, location.search]"),
        json!(["letmein", ""])
    );
}

#[test]
fn chat_page_reconnects_after_a_server_restart() {
    let browser = browser!();
    let (example, url) = chat(&["127.0.0.1:0"]);
    let tab = join_chat(&browser, &url, "ada");
    say(&tab, "before");
    tab.until_text("#log", "before");
    example.kill();
    tab.until_text("#status", "reconnecting (1006)");
    tab.until_text("#wait", "in ");
    tab.until_text("#log", "Connection closed: 1006");
    // Text written while offline is not lost.
    say(&tab, "meanwhile");
    let (_example, _) = chat(&[authority(&url)]);
    tab.until(ONLINE);
    tab.until_text("#here", "ada");
    assert!(tab.text("#log").contains("before"), "earlier messages are still shown");
    tab.press_enter();
    tab.until_text("#log", "meanwhile");
}

#[test]
fn chat_page_shows_close_code_and_reason() {
    let browser = browser!();
    let (mut example, url) = chat(&["127.0.0.1:0"]);
    let ada = join_chat(&browser, &url, "ada");
    let bob = join_chat(&browser, &url, "bob");
    ada.until_text("#here", "bob");
    say(&ada, "/kick nobody");
    ada.until_text("#log", "nobody here is called nobody");
    say(&ada, "/kick bob");
    bob.until_text("#status", "closed: 4001 kicked by ada");
    bob.until_text("#log", "Connection closed: 4001 kicked by ada");
    ada.until("document.querySelector('#here').innerText === 'ada'");
    bob.click("#now");
    bob.until(ONLINE);
    ada.until_text("#here", "bob");

    example.interrupt();
    for tab in [&ada, &bob] {
        tab.until_text("#log", "Connection closed: 1001");
    }
    assert_eq!(example.exit_code(), Some(0));
}

#[test]
fn echo_broadcast_page_sends_text_and_bytes_of_any_size() {
    let browser = browser!();
    let mut example = Example::start("echo_broadcast", &["127.0.0.1:0"]);
    let url = example.expect_url("http://");
    let (one, two) = (browser.open(&url), browser.open(&url));
    for tab in [&one, &two] {
        tab.until_text("#status", "Connected.");
    }
    one.fill("#text", "καλημέρα <b>");
    one.press_enter();
    two.until_text("#log", "καλημέρα <b>");
    two.click("#bytes");
    one.until_text("#log", "binary, 1000 bytes");

    // 100 KB of text with characters of 2, 3 and 4 bytes, and 100 KB of bytes: each is echoed
    // unchanged.
    let echoes = "new Promise(done => {
        const text = 'gü你👋'.repeat(10_000), bytes = Uint8Array.from({ length: 100_000 }, (_, i) => i * 7);
        const socket = new WebSocket(`ws://${location.host}/any/path`), got = [];
        socket.binaryType = 'arraybuffer';
        socket.onopen = () => { socket.send(text); socket.send(bytes); };
        socket.onmessage = ({ data }) => {
            got.push(typeof data === 'string' ? data === text : new Uint8Array(data).every((byte, i) => byte === bytes[i]));
            if (got.length === 2) done([new Blob([text]).size, ...got]);
        };
    })";
    assert_eq!(one.eval(echoes), json!([100_000, true, true]));
    two.until_text("#log", "binary, 100000 bytes");
}

#[test]
fn a_cross_origin_page_gets_403_unless_any_origin_is_allowed() {
    let browser = browser!();
    let start = |args: &[&str]| {
        let mut example = Example::start("echo_broadcast", args);
        let url = example.expect_url("http://");
        (example, url)
    };
    let (mut strict, strict_url) = start(&["127.0.0.1:0"]);
    let (_open, open_url) = start(&["127.0.0.1:0", "--any-origin"]);
    let attempt = |tab: &Tab<'_>, url: &str| {
        let socket = format!("new WebSocket('ws://{}/')", authority(url));
        tab.eval(&format!(
            "new Promise(done => {{
                const socket = {socket};
                socket.onopen = () => done('open');
                socket.onclose = event => done(event.code);
            }})"
        ))
    };
    // Another port makes another origin; so does another name of the same machine.
    let other_port = browser.open(&open_url);
    let other_name = browser.open(&strict_url.replace("127.0.0.1", "localhost"));
    for tab in [&other_port, &other_name] {
        assert_eq!(attempt(tab, &strict_url), 1006);
        tab.until_event("Network.webSocketFrameError", "403");
    }
    let same = browser.open(&strict_url);
    assert_eq!(attempt(&same, &strict_url), "open");
    for tab in [&same, &other_name] {
        assert_eq!(attempt(tab, &open_url), "open");
    }
    strict.interrupt();
    // Three connections: the pages `other_name` and `same`, and the attempt from `same`.
    strict.expect("(3 opened, ");
}

#[test]
fn dashboard_shows_live_figures_and_reconnects() {
    let browser = browser!();
    let mut example = Example::start("dashboard", &["127.0.0.1:0", "--load", "3"]);
    let url = example.expect_url("http://");
    let tab = browser.open(url.trim_end_matches(','));
    tab.until_text("#status", "live");
    // Three load clients and this page.
    tab.until("parseInt(document.querySelector('#clients').innerText) === 4");
    tab.until("parseInt(document.querySelector('#messages .first').innerText) > 0");
    tab.until("parseInt(document.querySelector('#messages .second').innerText) > 0");
    tab.until("parseInt(document.querySelector('#ended').innerText) > 0");
    // Each canvas has as many pixels as the screen shows, and something is drawn on it.
    let drawn = "[...document.querySelectorAll('canvas')].every(canvas =>
        canvas.width === Math.round(canvas.clientWidth * devicePixelRatio)
        && canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean))";
    tab.until(drawn);

    drop(example);
    tab.until_text("#status", "reconnecting (1006)");
    tab.until_text("#wait", "in ");
    let _example = Example::start("dashboard", &[authority(&url)]);
    tab.until_text("#status", "live");
    tab.until("parseInt(document.querySelector('#clients').innerText) === 1");
}

/// The page is loaded over https, and its socket is wss. The browser trusts this key alone.
#[cfg(feature = "tls")]
#[test]
fn chat_works_over_https() {
    use tickws::tls::rustls_0_23::rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

    let Some(program) = devtools::find() else { return };
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let dir = std::env::temp_dir().join(format!("tickws-https-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| dir.join(name));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let public = rcgen::PublicKeyData::subject_public_key_info(&made.signing_key);
    let digest = data_encoding::BASE64.encode(suite.common.hash_provider.hash(&public).as_ref());
    let browser = Browser::start_with(&program, &[format!("--ignore-certificate-errors-spki-list={digest}")]);
    let args = ["127.0.0.1:0", "--tls", chain.to_str().unwrap(), key.to_str().unwrap()];
    let mut example = Example::start("chat", &args);
    let url = example.expect_url("https://");
    let page = url.strip_suffix("?token=letmein").unwrap();
    let (ada, bob) = (join_chat(&browser, page, "ada"), join_chat(&browser, page, "bob"));
    assert_eq!(ada.eval("location.protocol"), json!("https:"));
    say(&ada, "over wss");
    bob.until_text("#log", "over wss");
    std::fs::remove_dir_all(dir).unwrap();
}
