//! Unix domain sockets, as streams of connections and to listen on.

use std::{
    fs, io,
    net::Shutdown,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::PermissionsExt, net as std_unix},
    path::{Path, PathBuf},
};

use mio::net::UnixStream;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::options;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::peer_addr::UnixCredentials;
use crate::{config::Config, engine::Stream, peer_addr::PeerAddr};

/// A Unix domain socket to listen on, for [`ServerBuilder::bind_unix`]: a path, or on Linux and
/// Android an abstract name.
///
/// The file of the socket stays when the server is dropped. A server that is started again after a
/// crash finds it there, and needs [`replace_stale`](UnixSocket::replace_stale) or another way to
/// remove it.
///
/// # Examples
///
/// ```
/// use tickws::{Server, UnixSocket};
///
/// # fn main() -> std::io::Result<()> {
/// # let dir = std::env::temp_dir();
/// let path = dir.join("game.sock");
/// let socket = UnixSocket::path(&path).mode(0o660).replace_stale();
/// let server = Server::builder().bind_unix(socket)?;
/// # drop(server);
/// # std::fs::remove_file(path)?;
/// # Ok(())
/// # }
/// ```
///
/// [`ServerBuilder::bind_unix`]: crate::ServerBuilder::bind_unix
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// A NUL at the beginning marks an abstract name.
    path: PathBuf,
    mode: Option<u32>,
    replaces_stale: bool,
}

impl UnixSocket {
    /// A socket at this path of the file system.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        UnixSocket { path: path.into(), mode: None, replaces_stale: false }
    }

    /// A socket with this name in the abstract namespace (unix(7)), which has no files and no
    /// permissions. The name is free again when the server is dropped.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Self {
        let name = [b"\0", name.as_ref()].concat();
        UnixSocket::path(std::ffi::OsStr::from_bytes(&name))
    }

    /// Sets the mode bits of the file, for instance `0o660`. They are set before the socket
    /// listens, so that no one else can connect in between. Without it the process's umask decides.
    /// An abstract name has none.
    pub fn mode(mut self, bits: u32) -> Self {
        self.mode = Some(bits);
        self
    }

    /// Removes a socket at the path on which nobody listens, as a server leaves it that was killed.
    /// A socket of a running server and a file that is no socket are errors as before.
    pub fn replace_stale(mut self) -> Self {
        self.replaces_stale = true;
        self
    }

    /// The path; of an abstract name with `@` in front, as ss(8) writes it.
    pub(crate) fn shown(&self) -> PathBuf {
        match self.abstract_part() {
            Some(name) => format!("@{}", String::from_utf8_lossy(name)).into(),
            None => self.path.clone(),
        }
    }

    fn abstract_part(&self) -> Option<&[u8]> {
        self.path.as_os_str().as_bytes().strip_prefix(b"\0")
    }

    pub(crate) fn listen(&self, backlog: usize) -> io::Result<std_unix::UnixListener> {
        let is_file = self.abstract_part().is_none();
        // The kernel would end the path at the NUL.
        if is_file && self.path.as_os_str().as_bytes().contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has a NUL"));
        }
        if is_file && self.replaces_stale {
            remove_stale(&self.path)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&self.path)?)?;
        let opened = match self.mode.filter(|_| is_file) {
            Some(bits) => fs::set_permissions(&self.path, fs::Permissions::from_mode(bits)),
            None => Ok(()),
        };
        let opened = opened.and_then(|()| socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)));
        if let Err(error) = opened {
            if is_file {
                // It is this call's own file.
                let _ = fs::remove_file(&self.path);
            }
            return Err(error);
        }
        Ok(socket.into())
    }
}

impl<P: AsRef<Path>> From<P> for UnixSocket {
    fn from(path: P) -> Self {
        UnixSocket::path(path.as_ref())
    }
}

/// Removes the socket at `path` if nobody listens on it.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The backlog of a running server may be full, and connecting would wait.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // `bind` reports that the address is in use.
        _ => Ok(()),
    }
}

/// Connects to the socket at `path`; abstract names begin with a NUL.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(UnixStream::from_std(socket.into()))
}

/// The peer of a connection: the process that has connected, where the system tells.
pub(crate) fn peer_of(stream: &UnixStream) -> PeerAddr {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
        let credentials = getsockopt(stream, PeerCredentials).ok();
        PeerAddr::Unix(credentials.map(|process| UnixCredentials {
            pid: process.pid().unsigned_abs(),
            uid: process.uid(),
            gid: process.gid(),
        }))
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = stream;
        PeerAddr::Unix(None)
    }
}

impl Stream for UnixStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn connected(&mut self) -> io::Result<bool> {
        match self.take_error()? {
            Some(error) => Err(error),
            // A socket of this kind connects at once or not at all.
            None => Ok(true),
        }
    }

    fn tune(&self, _: &Config) {
        #[cfg(target_vendor = "apple")]
        options::turn_sigpipe_off(SockRef::from(self));
    }

    fn set_send_buffer(&self, bytes: usize) {
        options::set_send_buffer(SockRef::from(self), bytes);
    }
}
