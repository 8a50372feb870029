//! uWebSockets through its C interface: no compression, replies corked by its loop, publishing
//! through its topics. The package builds it on libuv, which is slightly slower than its own epoll
//! loop.

use std::{
    ffi::{CString, c_void},
    net::TcpListener,
    path::PathBuf,
    ptr,
};

use libuwebsockets_sys::{
    us_listen_socket_t, uws_app_listen_config_t, uws_app_listen_with_config, uws_publish,
};
use uwebsockets_rs::{
    app::Application,
    http_response::HttpResponseStruct,
    us_socket_context_options::UsSocketContextOptions,
    websocket_behavior::{CompressOptions, WebSocketBehavior},
};

use super::{Mode, announce};
use crate::{Outcome, secure};

const TOPIC: &str = "all";

pub fn serve(mode: Mode, tls: bool) -> Outcome<()> {
    if tls { serve_with::<true>(mode) } else { serve_with::<false>(mode) }
}

fn serve_with<const TLS: bool>(mode: Mode) -> Outcome<()> {
    let (chain, key) = secure::files()?;
    // The wrapper wants names that live as long as the program.
    let file = |path: PathBuf| TLS.then(|| &*path.to_string_lossy().into_owned().leak());
    let mut app = Application::<TLS>::new(UsSocketContextOptions {
        key_file_name: file(key),
        cert_file_name: file(chain),
        passphrase: None,
        dh_params_file_name: None,
        ca_file_name: None,
        ssl_ciphers: None,
        ssl_prefer_low_memory_usage: None,
    });
    let native = app.get_native_app();
    let behavior = WebSocketBehavior::<TLS> {
        compression: CompressOptions::Disabled.into(),
        max_payload_length: 1 << 20,
        idle_timeout: 120,
        // As for the other servers, up to 16 MiB may be queued for a client; the default of 64 KiB
        // would drop large echoes.
        max_backpressure: 16 << 20,
        close_on_backpressure_limit: false,
        reset_idle_timeout_on_send: false,
        send_pings_automatically: true,
        max_lifetime: 0,
        // As the wrapper's default, which is for plain text only.
        upgrade: Some(Box::new(|response: HttpResponseStruct<TLS>, request, context| {
            let key = request.get_header("sec-websocket-key").unwrap_or_default();
            let protocol = request.get_header("sec-websocket-protocol");
            let extensions = request.get_header("sec-websocket-extensions");
            response.upgrade(key, protocol, extensions, context, None::<&mut ()>);
        })),
        open: Some(Box::new(move |socket| {
            if mode == Mode::Broadcast {
                socket.subscribe(TOPIC);
            }
        })),
        message: Some(Box::new(move |socket, message, opcode| match mode {
            Mode::Echo => drop(socket.send(message, opcode)),
            Mode::Broadcast => {
                // SAFETY: the app lives as long as its loop, which calls this. Both slices are
                // valid during the call, which copies them. The wrapper's own `publish` would skip
                // the sender.
                unsafe {
                    let message = (message.as_ptr().cast(), message.len());
                    let topic = (TOPIC.as_ptr().cast(), TOPIC.len());
                    let app = native.get_native();
                    uws_publish(
                        i32::from(TLS),
                        app,
                        topic.0,
                        topic.1,
                        message.0,
                        message.1,
                        opcode.into(),
                        false,
                    );
                }
            }
        })),
        ping: None,
        pong: None,
        close: None,
        drain: None,
        subscription: None,
    };
    app.ws("/*", behavior);
    // It does not report the port that it bound, so a port that was just free is given to it.
    let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let host = CString::new(addr.ip().to_string())?;
    // SAFETY: the app is alive, the host outlives the call, and the callback has the required type.
    unsafe {
        let config = uws_app_listen_config_t { port: addr.port().into(), host: host.as_ptr(), options: 0 };
        uws_app_listen_with_config(
            i32::from(TLS),
            native.get_native(),
            config,
            Some(on_listen),
            ptr::from_ref(&addr) as *mut c_void,
        );
    }
    app.run();
    Err("uWebSockets does not listen".into())
}

unsafe extern "C" fn on_listen(
    socket: *mut us_listen_socket_t,
    _: uws_app_listen_config_t,
    addr: *mut c_void,
) {
    if !socket.is_null() {
        // SAFETY: this is the address passed to `uws_app_listen_with_config`, which calls this
        // before it returns.
        let addr = unsafe { &*addr.cast::<std::net::SocketAddr>() };
        let _ = announce(addr);
    }
}
