//! TCP as the stream of a connection.

use std::{io, net::Shutdown};

use mio::net::TcpStream;
use socket2::SockRef;

use super::options;
use crate::{config::Config, engine::Stream};

impl Stream for TcpStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.take_error()? {
            return Err(error);
        }
        match self.peer_addr() {
            // TCP self-connect: the kernel chose the destination port as the local port, so that
            // the socket is connected to itself.
            Ok(peer) if self.local_addr().is_ok_and(|own| own == peer) => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn tune(&self, config: &Config) {
        if config.nodelay
            && let Err(error) = self.set_nodelay(true)
        {
            // The peer has reset the connection already; the first read returns the error.
            log::debug!("cannot set TCP_NODELAY: {error}");
        }
        #[cfg(target_vendor = "apple")]
        options::turn_sigpipe_off(SockRef::from(self));
    }

    fn set_send_buffer(&self, bytes: usize) {
        options::set_send_buffer(SockRef::from(self), bytes);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn socket_connected_to_itself_is_refused() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.connect(&socket.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(socket.into());
        assert_eq!(stream.connected().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
