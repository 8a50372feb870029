//! tokio-tungstenite, tuned: one thread, a read buffer of 4 KiB (the default of 128 KiB is zeroed
//! for each read), and one flush for all messages that are available without waiting.

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::broadcast,
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

use super::{Mode, announce};
use crate::{Outcome, secure};

/// Messages that may be queued for a task.
const WAITING: usize = 4096;

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

pub fn serve(mode: Mode, tls: bool) -> Outcome<()> {
    let acceptor = if tls { Some(TlsAcceptor::from(secure::server_config()?)) } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?)?;
        let (all, _) = broadcast::channel(WAITING);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (all, acceptor) = (all.clone(), acceptor.clone());
            // The end of a client is not reported.
            tokio::spawn(async move {
                match acceptor {
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            let _ = client(stream, mode, all).await;
                        }
                    }
                    None => drop(client(stream, mode, all).await),
                }
            });
        }
    })
}

async fn client<S: Stream>(stream: S, mode: Mode, all: broadcast::Sender<Message>) -> Result<(), Error> {
    let config = WebSocketConfig::default().read_buffer_size(4 * 1024);
    let socket = accept_async_with_config(stream, Some(config)).await?;
    match mode {
        Mode::Echo => echo(socket).await,
        Mode::Broadcast => broadcast(socket, all).await,
    }
}

async fn echo<S: Stream>(mut socket: WebSocketStream<S>) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let mut next = Some(message);
        while let Some(message) = next {
            let message = message?;
            if message.is_text() || message.is_binary() {
                socket.feed(message).await?;
            }
            next = socket.next().now_or_never().flatten();
        }
        socket.flush().await?;
    }
    Ok(())
}

async fn broadcast<S: Stream>(
    mut socket: WebSocketStream<S>,
    all: broadcast::Sender<Message>,
) -> Result<(), Error> {
    let mut inbox = all.subscribe();
    loop {
        tokio::select! {
            message = socket.next() => match message.transpose()? {
                Some(message) if message.is_text() || message.is_binary() => drop(all.send(message)),
                Some(_) => {}
                None => return Ok(()),
            },
            message = inbox.recv() => {
                let Ok(message) = message else { return Ok(()) };
                socket.feed(message).await?;
                while let Ok(message) = inbox.try_recv() {
                    socket.feed(message).await?;
                }
                socket.flush().await?;
            }
        }
    }
}
