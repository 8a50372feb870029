//! The part of the DevTools protocol that a test needs to use a page as a person does: one browser,
//! several tabs.
//!
//! https://chromedevtools.github.io/devtools-protocol/ is JSON over a WebSocket; tungstenite is the
//! client.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    cell::RefCell,
    env, fs,
    net::TcpStream,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio, id},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket, protocol::WebSocketConfig};

/// Far above the time that any step here takes, so that a loaded machine fails no test.
pub const DEADLINE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(30);

const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    // A tab behind another one must be as quick as the one in front.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--remote-debugging-port=0",
];

/// A browser process and its profile folder; dropping this ends the one and deletes the other.
pub struct Browser {
    child: Child,
    profile: PathBuf,
    connection: RefCell<Connection>,
    /// Browsers run one at a time: two in parallel are slower than one after the other.
    _turn: MutexGuard<'static, ()>,
}

struct Connection {
    socket: WebSocket<TcpStream>,
    last_id: u64,
    /// Messages that are not the response to a request.
    events: Vec<Value>,
}

/// A tab, open until its browser ends.
pub struct Tab<'b> {
    browser: &'b Browser,
    session: String,
}

/// The path of chromium; `None` if there is none, after saying that the test is skipped.
pub fn find() -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut candidates = env::split_paths(&folders).flat_map(|folder| names.map(|name| folder.join(name)));
    let found = candidates.find(|path| path.is_file());
    if found.is_none() {
        assert!(env::var_os("TICKWS_REQUIRE_BROWSER").is_none_or(|value| value != "1"), "no chromium");
        // Written to the descriptor, as the test runner hides the output of tests that pass.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"skipped: no chromium; apt-get install chromium\n",
        );
    }
    found
}

impl Browser {
    pub fn start(program: &Path) -> Browser {
        Browser::start_with(program, &[])
    }

    /// Starts it with further flags.
    pub fn start_with(program: &Path, flags: &[String]) -> Browser {
        static TURN: Mutex<()> = Mutex::new(());
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // A poisoned lock means that another test failed; its browser has been ended.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let profile = env::temp_dir().join(format!("tickws-browser-{}-{number}", id()));
        fs::create_dir(&profile).unwrap();
        let child = Command::new(program)
            .args(FLAGS)
            .args(flags)
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut starting = Starting { child: Some(child), profile: profile.clone() };
        let socket = connect(&starting.address());
        let connection = RefCell::new(Connection { socket, last_id: 0, events: Vec::new() });
        Browser { child: starting.child.take().unwrap(), profile, connection, _turn: turn }
    }

    pub fn open(&self, url: &str) -> Tab<'_> {
        let target = self.call(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call(None, "Target.attachToTarget", attach);
        let session = session["sessionId"].as_str().unwrap().to_string();
        let tab = Tab { browser: self, session };
        tab.call("Network.enable", json!({}));
        tab.call("Page.enable", json!({}));
        // Emulates focus, so that each tab behaves as if it were in front.
        tab.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }));
        tab.go(url);
        tab
    }

    /// The browser's cookies, including those that scripts cannot see.
    pub fn cookies(&self) -> Vec<Value> {
        self.call(None, "Storage.getCookies", json!({}))["cookies"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.try_call(session, method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    #[track_caller]
    fn try_call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value, String> {
        let mut connection = self.connection.borrow_mut();
        connection.last_id += 1;
        let id = connection.last_id;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            request["sessionId"] = session.into();
        }
        connection.socket.send(Message::text(request.to_string())).unwrap();
        loop {
            let message =
                connection.socket.read().unwrap_or_else(|error| panic!("no response to {method}: {error}"));
            let Message::Text(text) = message else { continue };
            let response: Value = serde_json::from_str(&text).unwrap();
            if response["id"] == id {
                let error = &response["error"];
                return if error.is_null() { Ok(response["result"].clone()) } else { Err(error.to_string()) };
            }
            connection.events.push(response);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        end(&mut self.child, &self.profile);
    }
}

/// A browser that is not known to listen yet.
struct Starting {
    child: Option<Child>,
    profile: PathBuf,
}

impl Starting {
    /// `ws://127.0.0.1:PORT/PATH`, from the file that the browser writes once it listens.
    fn address(&mut self) -> String {
        let file = self.profile.join("DevToolsActivePort");
        let start = Instant::now();
        loop {
            // The path is the second line, which the browser writes last.
            if let Some((port, path)) = fs::read_to_string(&file).unwrap_or_default().split_once('\n')
                && path.trim_end().len() > "/devtools/browser/".len()
            {
                return format!("ws://127.0.0.1:{port}{}", path.trim_end());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the browser ended: {ended:?}");
            assert!(start.elapsed() < DEADLINE, "the browser does not listen");
            sleep(PAUSE);
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child, &self.profile);
        }
    }
}

/// Kills the browser with all of its processes, which form one process group.
fn end(child: &mut Child, profile: &Path) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
    // A process of the browser may still be writing to the folder.
    let start = Instant::now();
    while fs::remove_dir_all(profile).is_err() && profile.exists() && start.elapsed() < DEADLINE {
        sleep(PAUSE);
    }
}

fn connect(url: &str) -> WebSocket<TcpStream> {
    let addr = url.trim_start_matches("ws://").split('/').next().unwrap();
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    tungstenite::client::client_with_config(url, stream, Some(config)).unwrap().0
}

impl Tab<'_> {
    #[track_caller]
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.browser.call(Some(&self.session), method, params)
    }

    #[track_caller]
    fn go(&self, url: &str) {
        let loaded = self.call("Page.navigate", json!({ "url": url }));
        assert!(loaded["errorText"].is_null(), "{url}: {}", loaded["errorText"]);
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'");
    }

    /// The value of an expression in the page; a promise is awaited.
    #[track_caller]
    pub fn eval(&self, expression: &str) -> Value {
        self.try_eval(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    #[track_caller]
    fn try_eval(&self, expression: &str) -> Result<Value, String> {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let outcome = self.browser.try_call(Some(&self.session), "Runtime.evaluate", params)?;
        let exception = &outcome["exceptionDetails"];
        if exception.is_null() { Ok(outcome["result"]["value"].clone()) } else { Err(exception.to_string()) }
    }

    /// Waits for an expression to be true.
    #[track_caller]
    pub fn until(&self, expression: &str) {
        let start = Instant::now();
        let mut outcome = Ok(Value::Null);
        // The evaluation fails while one document replaces another.
        while outcome != Ok(Value::Bool(true)) {
            let page = || self.try_eval("document.body.innerText");
            assert!(start.elapsed() < DEADLINE, "{expression}: {outcome:?}\n{:?}", page());
            sleep(PAUSE);
            outcome = self.try_eval(&format!("Boolean({expression})"));
        }
    }

    /// The visible text of the first element that the selector matches.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({})?.innerText", json!(selector)));
        text.as_str().unwrap_or_default().to_string()
    }

    /// Waits until the visible text of that element contains `text`.
    #[track_caller]
    pub fn until_text(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.until(&format!("document.querySelector({selector})?.innerText.includes({text})"));
    }

    /// Fills in a field by inserted text, as from the keyboard.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        self.eval(&format!("document.querySelector({}).focus()", json!(selector)));
        self.eval("document.activeElement.select()");
        self.call("Input.insertText", json!({ "text": text }));
    }

    #[track_caller]
    pub fn press_enter(&self) {
        let key = |kind: &str| json!({ "type": kind, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13 });
        self.call("Input.dispatchKeyEvent", key("keyDown"));
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": "Enter", "code": "Enter" }));
    }

    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.eval(&format!("document.querySelector({}).click()", json!(selector)));
    }

    /// Waits for an event of this tab that contains `text`, and discards the earlier ones.
    #[track_caller]
    pub fn until_event(&self, method: &str, text: &str) -> Value {
        let start = Instant::now();
        loop {
            // A round trip: the browser sends pending events before the result.
            self.eval("0");
            let mut connection = self.browser.connection.borrow_mut();
            let wanted = |event: &Value| {
                event["sessionId"] == self.session
                    && event["method"] == method
                    && event["params"].to_string().contains(text)
            };
            if let Some(found) = connection.events.iter().position(wanted) {
                return connection.events.drain(..=found).next_back().unwrap();
            }
            assert!(start.elapsed() < DEADLINE, "no {method} with {text:?} in {:#?}", connection.events);
            drop(connection);
            sleep(PAUSE);
        }
    }
}
