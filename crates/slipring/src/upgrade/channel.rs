//! The socket between two processes, and the place where one is offered.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use super::Word;

/// More than the longest message.
const MESSAGE_BYTES: usize = 192 << 10;

/// What the kernel lets one message carry.
pub(super) const DESCRIPTORS: usize = 253;

/// Nobody but the owner may come.
const MODE: u32 = 0o600;

/// One end of a connection between two processes of the same user. Of the stream it has the readiness alone.
pub(super) struct Channel(UnixStream);

/// Where a successor finds this process.
pub(crate) struct Offer(UnixListener);

// === impl Channel ===

impl Channel {
    pub(super) async fn connect(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Whoever is not of this process' user may neither give nor take.
    fn new(socket: OwnedFd) -> io::Result<Self> {
        let peer = net::sockopt::socket_peercred(&socket)?;
        if peer.uid != rustix::process::geteuid() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("process {} there belongs to another user", peer.pid),
            ));
        }
        Ok(Self(UnixStream::from_std(socket.into())?))
    }

    /// The process at the other end.
    pub(super) fn peer(&self) -> io::Result<u32> {
        let peer = net::sockopt::socket_peercred(&self.0)?;
        Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
    }

    pub(super) async fn send(&self, word: &Word, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut message = Vec::new();
        ciborium::into_writer(word, &mut message).map_err(io::Error::other)?;
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::other("too many sockets for one message"));
            }
            let message = [IoSlice::new(&message)];
            net::sendmsg(&self.0, &message, &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next word; `None`: the other end is gone, and there is none any more.
    pub(super) async fn receive(&self) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
        self.0
            .async_io(Interest::READABLE, || receive(self.0.as_fd()))
            .await
    }

    /// Nothing more comes in: whatever the other end sends from here on, it knows that it did not get through. What had
    /// got through.
    pub(super) fn shut(&self) -> Vec<Word> {
        let _ = net::shutdown(&self.0, Shutdown::Read);
        let words = std::iter::from_fn(|| {
            loop {
                match receive(self.0.as_fd()) {
                    Ok(received) => return received.map(|(word, _)| word),
                    // Told once; what is in the queue is still there.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                    Err(_) => return None,
                }
            }
        });
        words.collect()
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
    let mut message = vec![0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut message)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message came in parts",
        ));
    }
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = part {
            descriptors.extend(passed);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let message = message.get(..received.bytes).unwrap_or_default();
    let word = ciborium::from_reader(message)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a word that nobody knows"))?;
    Ok(Some((word, descriptors)))
}

// === impl Offer ===

impl Offer {
    /// Binds `path`. A socket that was left behind there makes room.
    pub(super) fn bind(path: &Path) -> io::Result<OwnedFd> {
        let address = SocketAddrUnix::new(path)?;
        let left_behind = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
            && net::connect(seqpacket()?, &address).is_err_and(|error| error == Errno::CONNREFUSED);
        if left_behind {
            fs::remove_file(path)?;
        }
        let socket = seqpacket()?;
        net::bind(&socket, &address)?;
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        net::listen(&socket, 4)?;
        Ok(socket)
    }

    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(UnixListener::from_std(socket.into())?))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The next successor of this process' own user.
    pub(super) async fn accept(&self) -> io::Result<Channel> {
        let (stream, _) = self.0.accept().await?;
        Channel::new(stream.into_std()?.into())
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Channel, Channel) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (near, far) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Channel::new(near).unwrap(), Channel::new(far).unwrap())
    }

    #[tokio::test]
    async fn a_word_and_its_sockets_come_together() {
        let (near, far) = pair();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let state = bytes::Bytes::from(vec![7; 130 << 10]);
        let word = Word::Session {
            ticket: 3,
            state: state.clone(),
        };
        near.send(&word, &[socket.as_fd()]).await.unwrap();
        near.send(&Word::Done, &[]).await.unwrap();
        let (word, sockets) = far.receive().await.unwrap().unwrap();
        assert!(matches!(word, Word::Session { ticket: 3, state: came } if came == state));
        assert_eq!(sockets.len(), 1);
        let (word, sockets) = far.receive().await.unwrap().unwrap();
        assert!(matches!(word, Word::Done) && sockets.is_empty());
        drop(near);
        assert!(far.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_came_through_before_it_was_shut_is_known_and_the_rest_is_known_to_have_failed() {
        let (near, far) = pair();
        far.send(&Word::Taken { ticket: 1 }, &[]).await.unwrap();
        let words = near.shut();
        assert!(matches!(words[..], [Word::Taken { ticket: 1 }]));
        assert!(far.send(&Word::Taken { ticket: 2 }, &[]).await.is_err());

        // The other end died with something unread.
        let (near, far) = pair();
        near.send(&Word::Done, &[]).await.unwrap();
        far.send(&Word::Taken { ticket: 1 }, &[]).await.unwrap();
        drop(far);
        let words = near.shut();
        assert!(matches!(words[..], [Word::Taken { ticket: 1 }]));
    }

    /// Should the socket's mode ever let others in: neither end deals with another user. Only root can be two users.
    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a thread is another user here")]
    async fn another_users_process_is_neither_followed_nor_let_in() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let offer = Offer::new(Offer::bind(&path).unwrap()).unwrap();
        for (path, mode) in [(folder.path(), 0o755), (&path, 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let stranger = std::thread::spawn(move || {
            let nobody = rustix::process::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(Channel::connect(&path)).map(drop)
        });
        let followed = stranger.join().unwrap();
        for met in [followed, offer.accept().await.map(drop)] {
            let refused = met.expect_err("it is another user's").to_string();
            assert!(refused.ends_with("belongs to another user"), "{refused}");
        }
    }

    #[tokio::test]
    async fn an_offer_is_for_the_owner_alone_and_takes_the_place_of_a_dead_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        drop(Offer::bind(&path).unwrap());
        let offer = Offer::new(Offer::bind(&path).unwrap()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(Offer::bind(&path).is_err(), "somebody listens there");
        let near = Channel::connect(&path).await.unwrap();
        let far = offer.accept().await.unwrap();
        // The failed attempts to bind have knocked, too.
        drop(far);
        assert_eq!(near.peer().unwrap(), std::process::id());
    }
}
