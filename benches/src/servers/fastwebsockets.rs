//! fastwebsockets, after its example `echo_server.rs`: one thread, hyper for the upgrade, tasks
//! without tokio's budget, and vectored writes, the default.

use fastwebsockets::{
    FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError,
    upgrade::{UpgradeFut, upgrade},
};
use http_body_util::Empty;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::broadcast, task::unconstrained};

use super::{Mode, announce};
use crate::Outcome;

const WAITING: usize = 4096;

/// A broadcast message.
type Shared = (OpCode, Bytes);

pub fn serve(mode: Mode) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?)?;
        let (all, _) = broadcast::channel(WAITING);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let all = all.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| upgrade_response(request, mode, all.clone()));
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let _ = connection.with_upgrades().await;
            });
        }
    })
}

async fn upgrade_response(
    mut request: Request<Incoming>,
    mode: Mode,
    all: broadcast::Sender<Shared>,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, socket) = upgrade(&mut request)?;
    tokio::spawn(async move {
        let _ = match mode {
            Mode::Echo => unconstrained(echo(socket)).await,
            Mode::Broadcast => broadcast(socket, all).await,
        };
    });
    Ok(response)
}

async fn echo(socket: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(socket.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

async fn broadcast(socket: UpgradeFut, all: broadcast::Sender<Shared>) -> Result<(), WebSocketError> {
    let (read, mut write) = socket.await?.split(tokio::io::split);
    let mut read = FragmentCollectorRead::new(read);
    let mut inbox = all.subscribe();
    let reader = async move {
        loop {
            // The load sends no pings, and in this mode no close frames.
            let frame = read.read_frame::<_, WebSocketError>(&mut |_| async { Ok(()) }).await?;
            match frame.opcode {
                OpCode::Close => return Ok::<(), WebSocketError>(()),
                OpCode::Text | OpCode::Binary => {
                    drop(all.send((frame.opcode, Bytes::copy_from_slice(&frame.payload))));
                }
                _ => {}
            }
        }
    };
    let writer = async move {
        while let Ok((opcode, bytes)) = inbox.recv().await {
            write.write_frame(Frame::new(true, opcode, None, Payload::Borrowed(&bytes))).await?;
        }
        Ok(())
    };
    tokio::select! {
        result = reader => result,
        result = writer => result,
    }
}
