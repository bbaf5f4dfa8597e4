//! Unix sockets, for clients on the same machine.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sentinel_watcher::BoxIo;
use tokio::net::{UnixListener, UnixStream};

use super::{Accepted, Address, Incoming, Listen, Opening};

/// A bound unix socket. It joins a worker's reactor at its first accept.
#[derive(Debug)]
pub struct UnixListen {
    socket: StdListener,
    registered: Option<UnixListener>,
    path: Arc<Path>,
}

pub(super) struct UnixIncoming(pub(super) StdStream);

/// Who may connect: the owner and the group of the process. A directory's permissions narrow that further.
const MODE: u32 = 0o770;

// === impl UnixListen ===

impl UnixListen {
    /// Binds `path`. A socket that was left behind there, and that nobody listens on, makes room.
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::AddrInUse`] if somebody listens there, or if `path` is a file
    /// of another kind.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let left_behind = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
            && StdStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if left_behind {
            fs::remove_file(path)?;
        }
        let socket = StdListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        socket.set_nonblocking(true)?;
        Ok(Self::from_std(socket, Arc::from(path)))
    }

    /// Takes a socket that listens already and does not block.
    pub(super) fn from_std(socket: StdListener, path: Arc<Path>) -> Self {
        Self {
            socket,
            registered: None,
            path,
        }
    }
}

impl Listen for UnixListen {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let listener = match &self.registered {
            Some(listener) => listener,
            None => self
                .registered
                .insert(UnixListener::from_std(self.socket.try_clone()?)?),
        };
        listener.poll_accept(cx).map(|accepted| {
            let (stream, _) = accepted?;
            Ok(Accepted {
                descriptor: stream.as_raw_fd(),
                socket: Box::new(UnixIncoming(stream.into_std()?)),
                peer: self.address(),
                local: self.address(),
            })
        })
    }

    fn share(&self) -> io::Result<Box<dyn Listen>> {
        Ok(Box::new(Self {
            socket: self.socket.try_clone()?,
            registered: None,
            path: Arc::clone(&self.path),
        }))
    }

    fn address(&self) -> Address {
        Address::Unix(Arc::clone(&self.path))
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

impl Incoming for UnixIncoming {
    fn open(self: Box<Self>, _keepalive: Duration) -> Opening {
        Box::pin(async { Ok((Box::new(UnixStream::from_std(self.0)?) as BoxIo).into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_left_behind_makes_room_and_one_in_use_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let first = UnixListen::bind(&path).unwrap();
        assert_eq!(
            UnixListen::bind(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(first);
        let second = UnixListen::bind(&path).unwrap();
        assert_eq!(second.address().to_string(), format!("{}:0", path.display()));
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "not a socket").unwrap();
        assert!(UnixListen::bind(&path).is_err());
        assert!(path.is_file(), "nobody's file is removed");
    }
}
