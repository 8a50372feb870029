//! WebSockets beside pages of another HTTP server: hyper accepts and upgrades on a thread of its
//! own, and hands each WebSocket over to the loop that polls.
//!
//! ```sh
//! cargo run --release --example hyper [-- ADDR]
//! ```
//!
//! Then open the address that it prints. The page echoes through the WebSocket at `/ws`.

use std::{convert::Infallible, error::Error, net::TcpListener, thread};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    server::conn::http1,
    service::service_fn,
    upgrade::{Upgraded, on},
};
use hyper_util::rt::TokioIo;
use tickws::{Event, Handle, Server};
use tokio::net::TcpStream;
use tungstenite::handshake::derive_accept_key;

const PAGE: &str = "<!doctype html><title>tickws beside hyper</title>
<form><input autofocus><button>send</button></form><pre></pre><script>
  const ws = new WebSocket(location.href.replace('http', 'ws') + 'ws')
  ws.onmessage = message => document.querySelector('pre').append(message.data + '\\n')
  document.forms[0].onsubmit = event => {
    event.preventDefault()
    ws.send(document.querySelector('input').value)
  }
</script>";

fn main() -> Result<(), Box<dyn Error>> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:9005".to_owned());
    let listener = TcpListener::bind(addr)?;
    println!("open http://{}/", listener.local_addr()?);

    let mut server = Server::builder().build()?; // no listeners: hyper accepts
    let handle = server.handle();
    thread::spawn(move || serve_pages(listener, &handle));
    loop {
        for event in &server.poll_wait(None)? {
            match event {
                Event::Open { client, request } => println!("{client} came to {}", request.uri()),
                Event::Message { client, message } => server.send(client, message).unwrap_or_default(),
                Event::Close { client, reason } => println!("{client} left: {reason}"),
                _ => {}
            }
        }
    }
}

fn serve_pages(listener: TcpListener, handle: &Handle) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let handle = handle.clone();
            let service = service_fn(move |request| {
                let response = respond(request, handle.clone());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    })
}

fn respond(request: Request<Incoming>, handle: Handle) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/" => Response::builder().header("content-type", "text/html").body(PAGE.into()),
        "/ws" => return upgrade(request, handle),
        _ => Response::builder().status(StatusCode::NOT_FOUND).body("there is nothing here\n".into()),
    }
    .expect("valid headers")
}

/// Makes the opening handshake. Its checks are hyper's side now: here that the page is of this
/// host.
fn upgrade(request: Request<Incoming>, handle: Handle) -> Response<Full<Bytes>> {
    let field = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let page = field(ORIGIN).and_then(|origin| origin.splitn(2, |byte| *byte == b'/').nth(1));
    let is_own = page.is_none_or(|page| page.strip_prefix(b"/") == field(HOST));
    let mut response = Response::new(Full::default());
    let Some(key) = field(SEC_WEBSOCKET_KEY).filter(|_| is_own) else {
        *response.status_mut() = StatusCode::FORBIDDEN;
        return response;
    };
    let accept = HeaderValue::try_from(derive_accept_key(key)).expect("base64");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    tokio::spawn(async move {
        let head = request.uri().clone();
        let upgraded = on(request).await.map_err(drop)?;
        hand_over(upgraded, head, &handle).map_err(|error| println!("not handed over: {error}"))
    });
    response
}

/// Gives the stream, and what hyper has read behind the request, to the loop that polls.
fn hand_over(upgraded: Upgraded, uri: hyper::Uri, handle: &Handle) -> Result<(), Box<dyn Error>> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| "a stream of another type")?;
    let stream = parts.io.into_inner().into_std()?;
    let request = Request::get(uri).body(())?;
    handle.call(move |server| {
        if let Err(error) = server.adopt_upgraded(stream, request, &parts.read_buf) {
            println!("not adopted: {error}");
        }
    })?;
    Ok(())
}
