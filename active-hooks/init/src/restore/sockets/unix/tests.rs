use super::*;
use crate::restore::host::Nobody;
use shared_region::context::{OpenFile, Socket, SocketFile, UnixMessage};
use std::{
    io::{IoSliceMut, Read, Write},
    mem::ManuallyDrop,
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
};

/// Records of sockets, each of which has an open file unless it is said otherwise.
#[derive(Default)]
struct Records {
    world: World<'static>,
}

impl Records {
    fn add(&mut self, id: Id, kind: i32, unix: UnixSocket, received: &'static [u8]) {
        self.others(id, kind, unix, received);
        let file = OpenFile {
            what: OpenFileKind::Socket { socket: id },
            ..OpenFile::default()
        };
        self.world.files.insert(id + 0x1000, file);
    }

    /// One that nobody has.
    fn others(&mut self, id: Id, kind: i32, unix: UnixSocket, received: &'static [u8]) {
        let record = Socket {
            family: libc::AF_UNIX as u32,
            kind: kind as u32,
            buffers: (212_992, 212_992),
            state: SocketState::Unix(unix),
            ..Socket::default()
        };
        let content = SocketContent {
            record,
            received: vec![received],
            to_send: Vec::new(),
        };
        self.world.sockets.insert(id, content);
    }

    /// The descriptors of some of them, when everything is done.
    fn made<const N: usize>(&self, wanted: [Id; N], files: &BTreeMap<Id, Restored<u32>>) -> [OwnedFd; N] {
        // Names that nobody looks at are given under another root directory, which threads would share.
        // SAFETY: takes a number.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FS) }, 0);
        let mut unix = Unix::make(&self.world, &Namespaces::default(), 200, &mut Peers::default());
        let fds = wanted.map(|id| unix.open(id).expect("made"));
        assert_eq!(unix.finish(&self.world, &Nobody, files), Vec::new());
        for fd in &fds {
            rustix::fs::fcntl_setfl(fd, rustix::fs::OFlags::empty()).expect("flags");
        }
        fds
    }
}

fn message(length: u32, sender: Id) -> UnixMessage {
    UnixMessage {
        length,
        sender,
        ..UnixMessage::default()
    }
}

fn connected(peer: Id, messages: Vec<UnixMessage>) -> UnixSocket {
    UnixSocket {
        peer: UnixPeer::Socket(peer),
        messages,
        limit: 10,
        ..UnixSocket::default()
    }
}

fn rest(mut stream: impl Read) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    stream.read_to_end(&mut data).map(|_| data)
}

fn of<T: From<OwnedFd>>(fd: OwnedFd) -> T {
    fd.into()
}

#[test]
fn a_pair_has_what_was_not_read_and_is_shut_as_it_was() {
    let mut records = Records::default();
    let one = UnixSocket {
        shutdown: SENDING,
        ..connected(2, vec![message(3, 2), message(2, 2)])
    };
    let other = UnixSocket {
        shutdown: RECEIVING,
        ..connected(1, vec![message(4, 1)])
    };
    records.add(1, libc::SOCK_STREAM, one, b"abcde");
    records.add(2, libc::SOCK_STREAM, other, b"wxyz");
    let [one, other] = records.made([1, 2], &BTreeMap::new());
    let (mut one, mut other): (UnixStream, UnixStream) = (of(one), of(other));
    assert!(one.write_all(b"no").is_err());
    assert_eq!(rest(&other).expect("end"), b"wxyz");
    other.write_all(b"more").expect("the other way");
    drop(other);
    assert_eq!(rest(&one).expect("end"), b"abcdemore");
}

#[test]
fn a_peer_that_nobody_has_is_seen_as_closed() {
    for reset in [false, true] {
        let mut records = Records::default();
        let one = UnixSocket {
            reset,
            ..connected(2, vec![message(4, 2)])
        };
        records.add(1, libc::SOCK_STREAM, one, b"last");
        records.others(2, libc::SOCK_STREAM, UnixSocket::default(), b"");
        let [one] = records.made([1], &BTreeMap::new());
        let mut one: UnixStream = of(one);
        let mut data = [0; 4];
        one.read_exact(&mut data).expect("what it had sent");
        let after = one.read(&mut data).map_err(|error| error.kind());
        let expected = if reset {
            Err(io::ErrorKind::ConnectionReset)
        } else {
            Ok(0)
        };
        assert_eq!((&data, after), (b"last", expected));
    }
}

#[test]
fn packets_keep_their_ends() {
    let mut records = Records::default();
    let one = connected(2, vec![message(1, 2), message(0, 2), message(2, 2)]);
    records.add(1, libc::SOCK_SEQPACKET, one, b"abc");
    records.add(2, libc::SOCK_SEQPACKET, connected(1, Vec::new()), b"");
    let [one, _other] = records.made([1, 2], &BTreeMap::new());
    let one = ManuallyDrop::new(of::<UnixDatagram>(one));
    let mut data = [0; 8];
    assert_eq!([(); 3].map(|()| one.recv(&mut data).expect("packet")), [1, 0, 2]);
    drop(ManuallyDrop::into_inner(one));
}

#[test]
fn connections_wait_to_be_accepted_in_their_order_with_what_they_have_sent() {
    let name = b"\0orthros-unix-waiting".to_vec();
    let mut records = Records::default();
    let listener = UnixSocket {
        name: name.clone(),
        listening: Some(vec![11, 12]),
        limit: 5,
        ..UnixSocket::default()
    };
    records.add(1, libc::SOCK_STREAM, listener, b"");
    // A connection that was accepted before has the listener's name as well.
    let accepted = UnixSocket {
        name: name.clone(),
        inherited: true,
        ..connected(4, Vec::new())
    };
    records.add(3, libc::SOCK_STREAM, accepted, b"");
    records.add(4, libc::SOCK_STREAM, connected(3, Vec::new()), b"");
    // One client lives, one has gone away.
    for (waiting, client) in [(11, 21), (12, 22)] {
        let record = UnixSocket {
            name: name.clone(),
            inherited: true,
            ..connected(client, vec![message(5, client)])
        };
        records.others(
            waiting,
            libc::SOCK_STREAM,
            record,
            if client == 21 { b"first" } else { b"later" },
        );
    }
    records.add(21, libc::SOCK_STREAM, connected(11, Vec::new()), b"");
    records.others(22, libc::SOCK_STREAM, UnixSocket::default(), b"");
    let [listener, accepted, old, client] = records.made([1, 3, 4, 21], &BTreeMap::new());
    let (listener, mut client): (UnixListener, UnixStream) = (of(listener), of(client));
    let (accepted, old): (UnixStream, UnixStream) = (of(accepted), of(old));
    use std::os::linux::net::SocketAddrExt;
    let abstract_name = |address: io::Result<std::os::unix::net::SocketAddr>| {
        let address = address.expect("address");
        address.as_abstract_name().map(<[u8]>::to_vec)
    };
    let words = Some(name[1..].to_vec());
    assert_eq!(abstract_name(accepted.local_addr()), words);
    assert_eq!(abstract_name(old.peer_addr()), words);
    let (mut first, _) = listener.accept().expect("the first");
    let mut data = [0; 5];
    first.read_exact(&mut data).expect("data");
    assert_eq!(&data, b"first");
    first
        .write_all(b"back")
        .and_then(|()| client.read_exact(&mut data[..4]))
        .expect("back");
    let (second, _) = listener.accept().expect("the second");
    assert_eq!(rest(second).expect("end"), b"later");
    // And new ones.
    use std::os::unix::net::SocketAddr;
    let address = SocketAddr::from_abstract_name(&name[1..]).expect("address");
    UnixStream::connect_addr(&address).expect("a new one");
}

#[test]
fn datagrams_come_from_whom_they_came() {
    let directory = std::env::temp_dir().join(format!("orthros-unix-datagrams-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("directory");
    let path = directory.join("server");
    // What was there when the kernel died.
    let _ = fs::remove_file(&path);
    drop(UnixDatagram::bind(&path).expect("the old one"));
    let bytes = |path: &std::path::Path| path.as_os_str().as_encoded_bytes().to_vec();
    let mut records = Records::default();
    let server = UnixSocket {
        name: bytes(&path),
        file: Some(SocketFile {
            path: bytes(&path),
            mode: 0o700,
            user: 12,
            group: 34,
        }),
        messages: vec![message(3, 2), message(4, 3), message(0, 3)],
        limit: 10,
        ..UnixSocket::default()
    };
    records.add(1, libc::SOCK_DGRAM, server, b"oneself");
    let client = UnixSocket {
        name: b"\0orthros-unix-client".to_vec(),
        ..connected(1, Vec::new())
    };
    records.add(2, libc::SOCK_DGRAM, client, b"");
    // A sender that is gone, with a file that is gone, too.
    let gone = UnixSocket {
        name: b"/no/such/directory/gone".to_vec(),
        ..UnixSocket::default()
    };
    records.others(3, libc::SOCK_DGRAM, gone, b"");
    let [server, client] = records.made([1, 2], &BTreeMap::new());
    let (server, client): (UnixDatagram, UnixDatagram) = (of(server), of(client));
    let mut data = [0; 8];
    let (length, from) = server.recv_from(&mut data).expect("first");
    assert_eq!(&data[..length], b"one");
    server.send_to_addr(b"back", &from).expect("back");
    assert_eq!(client.recv(&mut data).expect("answer"), 4);
    for expected in [&b"self"[..], b""] {
        let (length, from) = server.recv_from(&mut data).expect("of the other");
        assert_eq!(&data[..length], expected);
        assert_eq!(from.as_pathname(), Some("/no/such/directory/gone".as_ref()));
    }
    client.send(b"new").expect("new");
    assert_eq!(server.recv(&mut data).expect("new"), 3);
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(&path).expect("file");
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o700, 12, 34));
    UnixDatagram::unbound()
        .and_then(|other| other.send_to(b"x", &path))
        .expect("found by its path");
}

#[test]
fn what_another_file_has_taken_the_name_of_is_refused() {
    let path = std::env::temp_dir().join(format!("orthros-unix-taken-{}", std::process::id()));
    fs::write(&path, "something").expect("file");
    let bytes = path.as_os_str().as_encoded_bytes().to_vec();
    let mut records = Records::default();
    let socket = UnixSocket {
        name: bytes.clone(),
        file: Some(SocketFile {
            path: bytes,
            ..SocketFile::default()
        }),
        ..UnixSocket::default()
    };
    records.add(1, libc::SOCK_DGRAM, socket, b"");
    let mut unix = Unix::make(&records.world, &Namespaces::default(), 200, &mut Peers::default());
    let refusal = unix.open(1).expect_err("refused").to_string();
    assert!(refusal.contains("another one"), "{refusal}");
    assert_eq!(fs::read(&path).expect("still there"), b"something");
}

#[test]
fn descriptors_and_credentials_come_with_their_message() {
    // A process that is gone: hardly anybody has such a number.
    let most = fs::read_to_string("/proc/sys/kernel/pid_max").expect("limit");
    let process = most.trim().parse::<i32>().expect("number") - 7;
    let mut records = Records::default();
    let passed = UnixMessage {
        files: vec![77],
        credentials: Some((process, 12, 34)),
        ..message(2, 2)
    };
    records.add(1, libc::SOCK_STREAM, connected(2, vec![message(2, 2), passed]), b"abcd");
    records.add(2, libc::SOCK_STREAM, connected(1, Vec::new()), b"");
    let (file, mut other) = UnixStream::pair().expect("file");
    use std::os::fd::AsRawFd;
    let files = BTreeMap::from([(77, Ok(file.as_raw_fd() as u32))]);
    let [one, _peer] = records.made([1, 2], &files);
    drop(file);
    raw::set_number(&one, libc::SOL_SOCKET, libc::SO_PASSCRED, 1).expect("option");
    let mut data = [0; 8];
    assert_eq!(raw::receive(&one, &mut data).expect("first"), 2);
    let mut control = [0u8; 128];
    let length = receive_with_control(&one, &mut data, &mut control);
    assert_eq!(&data[..length], b"cd");
    let words = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().expect("word"));
    // The kernel gives the credentials first.
    assert_eq!([words(16), words(20), words(24)], [process, 12, 34]);
    assert_eq!(words(32 + 12), libc::SCM_RIGHTS);
    let number = words(32 + 16);
    // SAFETY: the kernel has just made the descriptor for this process.
    let mut file: UnixStream = of(unsafe { crate::restore::high::own(number) });
    file.write_all(b"through").expect("the same file");
    drop(file);
    assert_eq!(rest(&mut other).expect("end"), b"through");
}

fn receive_with_control(fd: &OwnedFd, data: &mut [u8], control: &mut [u8]) -> usize {
    use std::os::fd::AsRawFd;
    let mut part = IoSliceMut::new(data);
    // SAFETY: a `struct msghdr` of zeros is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = ((&raw mut part).cast(), 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), control.len());
    // SAFETY: all parts are live and as long as said.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, 0) };
    usize::try_from(length).expect("received")
}

#[test]
fn a_failure_concerns_both_ends() {
    let mut records = Records::default();
    let odd = connected(2, vec![message(9, 2)]);
    records.add(1, libc::SOCK_STREAM, odd, b"short");
    records.add(2, libc::SOCK_STREAM, connected(1, Vec::new()), b"");
    let unix = Unix::make(&records.world, &Namespaces::default(), 200, &mut Peers::default());
    let wrong = unix.finish(&records.world, &Nobody, &BTreeMap::new());
    assert_eq!(wrong.len(), 1);
    assert_eq!(wrong[0].0, 1);
}
