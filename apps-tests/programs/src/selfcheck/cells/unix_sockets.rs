//! Sockets of AF_UNIX: connected, listening with connections that wait, datagrams, and what lies in their queues.

use crate::cell::{join, same, Cell, Context};
use crate::sys::{file, process, signal, socket};
use anyhow::{ensure, Context as _, Result};
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "unix-sockets/pair",
        what: "two connected streams: unread data both ways, one direction shut, and whom SO_PEERCRED names",
        covers: &[
            "SocketState.Unix",
            "UnixSocket.peer",
            "UnixPeer.Socket",
            "UnixSocket.shutdown",
            "UnixSocket.messages",
            "UnixMessage.length",
            "UnixSocket.credentials",
            "UnixCredentials.process",
            "UnixCredentials.user",
            "UnixCredentials.group",
        ],
        caught: None,
        run: pair,
    },
    Cell {
        name: "unix-sockets/signals",
        what: "a signal is asked for when something comes (O_ASYNC), with what came before unread: none of the failover, one for the next message",
        covers: &["OpenFile.flags", "OpenFile.owner"],
        caught: None,
        run: signals,
    },
    Cell {
        name: "unix-sockets/packets",
        what: "SOCK_SEQPACKET: bounds of packets, an empty one, and a descriptor and credentials on their way",
        covers: &["UnixSocket.messages", "UnixMessage.files", "UnixMessage.credentials"],
        caught: None,
        run: packets,
    },
    Cell {
        name: "unix-sockets/passed",
        what: "a descriptor on its way in a stream, which nobody else has",
        covers: &["UnixMessage.files"],
        caught: None,
        run: passed,
    },
    Cell {
        name: "unix-sockets/listening",
        what:
            "a listening socket with a path: its file, an accepted connection, two that wait with data, and a new one",
        covers: LISTENING,
        caught: None,
        run: listening_path,
    },
    Cell {
        name: "unix-sockets/listening-abstract",
        what: "the same with an abstract name",
        covers: LISTENING,
        caught: None,
        run: listening_abstract,
    },
    Cell {
        name: "unix-sockets/datagrams",
        what: "datagrams that wait, with their senders: one connected, one gone; and new ones by the path",
        covers: &[
            "UnixSocket.name",
            "UnixSocket.file",
            "UnixSocket.limit",
            "UnixMessage.sender",
        ],
        caught: None,
        run: datagrams,
    },
    Cell {
        name: "unix-sockets/peer-gone",
        what: "streams whose peer has closed: data, the end, EPIPE; and ECONNRESET where the peer had unread data",
        covers: &["UnixSocket.reset", "UnixSocket.shutdown"],
        caught: None,
        run: peer_gone,
    },
    Cell {
        name: "unix-sockets/child",
        what: "a connection by name between two processes with different users, each waiting for the other",
        covers: &["UnixPeer.Socket", "UnixCredentials.process", "UnixCredentials.groups"],
        caught: None,
        run: child,
    },
    Cell {
        name: "unix-sockets/in-recv",
        what: "a `recv` that waits on a stream: it gets what is sent after the failover",
        covers: &["UnixPeer.Socket"],
        caught: Some("recvfrom"),
        run: in_recv,
    },
    Cell {
        name: "unix-sockets/in-send",
        what: "a `send` on a stream that waits for room: it has sent what it says",
        covers: &["UnixMessage.length"],
        caught: Some("sendto"),
        run: in_send,
    },
    Cell {
        name: "unix-sockets/in-send-datagram",
        what: "a `send` of a datagram that waits because the queue is full: it comes once",
        covers: &["UnixSocket.limit", "UnixSocket.messages"],
        caught: Some("sendto"),
        run: in_send_datagram,
    },
    Cell {
        name: "unix-sockets/in-connect",
        what: "a `connect` that waits because the queue is full: it is accepted in its turn",
        covers: &["UnixSocket.listening", "UnixSocket.limit"],
        caught: Some("connect"),
        run: in_connect,
    },
    Cell {
        name: "unix-sockets/in-accept",
        what: "an `accept` that waits: a connection after the failover ends it",
        covers: &["UnixSocket.listening"],
        caught: Some("accept4"),
        run: in_accept,
    },
];

const LISTENING: &[&str] = &[
    "UnixSocket.name",
    "UnixSocket.inherited",
    "UnixSocket.file",
    "UnixSocket.listening",
    "UnixSocket.limit",
    "SocketFile.path",
    "SocketFile.mode",
    "SocketFile.user",
    "SocketFile.group",
];
/// Owner and group that the file of a socket is given to.
const OWNER: u32 = 1234;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn rest(mut stream: impl Read) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    stream.read_to_end(&mut data)?;
    Ok(data)
}

fn exactly<const N: usize>(mut stream: impl Read) -> Result<[u8; N]> {
    let mut data = [0; N];
    stream.read_exact(&mut data)?;
    Ok(data)
}

fn own_id() -> Result<i32> {
    Ok(process::getpid()? as i32)
}

fn pair(context: &mut Context) -> Result<()> {
    let (mut one, mut other) = UnixStream::pair()?;
    one.write_all(b"there")?;
    one.write_all(b" it is")?;
    other.write_all(b"unread")?;
    same("taken before", &exactly::<2>(&other)?, b"th")?;
    one.shutdown(Shutdown::Write)?;
    let before = [socket::peer(&one)?, socket::peer(&other)?];
    same("process in SO_PEERCRED", before[0].0, own_id()?)?;
    context.failover(|| exactly::<1>(&other).map(drop))?;
    same("SO_PEERCRED", [socket::peer(&one)?, socket::peer(&other)?], before)?;
    same("data of the one that is shut", rest(&other)?, b"ere it is".to_vec())?;
    ensure!(one.write_all(b"x").is_err(), "it still sends");
    other.write_all(b" too")?;
    drop(other);
    same("data of the other", rest(&one)?, b"unread too".to_vec())
}

fn signals(context: &mut Context) -> Result<()> {
    let (mut near, far) = UnixStream::pair()?;
    file::fcntl(&far, libc::F_SETOWN, std::process::id().into())?;
    file::fcntl(&far, libc::F_SETFL, libc::O_ASYNC.into())?;
    signal::count(libc::SIGIO, 0, 0)?;
    near.write_all(b"before")?;
    same("signals before", signal::counted(libc::SIGIO), 1)?;
    context.failover(|| file::fcntl(&far, libc::F_SETFL, 0).map(drop))?;
    same("signals of the failover", signal::counted(libc::SIGIO), 1)?;
    near.write_all(b" after")?;
    same("signals after the next message", signal::counted(libc::SIGIO), 2)?;
    let mut text = [0; 12];
    (&far).read_exact(&mut text)?;
    same("what came", &text[..], &b"before after"[..])
}

fn packets(context: &mut Context) -> Result<()> {
    let (one, other) = socket::pair(libc::SOCK_SEQPACKET)?;
    socket::set_option(&other, libc::SOL_SOCKET, libc::SO_PASSCRED, 1)?;
    let (reader, writer) = file::pipe(0)?;
    socket::send_with(&one, b"first", &[])?;
    socket::send_with(&one, b"", &[])?;
    socket::send_with(&one, b"with", &[writer.as_fd()])?;
    drop(writer);
    let ids = process::ids(false)?;
    context.failover(|| socket::receive_with(&other).map(drop))?;
    for expected in [&b"first"[..], b""] {
        let found = socket::receive_with(&other)?;
        same("packet", &found.data[..], expected)?;
        same("sender", found.sender, Some((own_id()?, ids[1])))?;
    }
    let mut found = socket::receive_with(&other)?;
    same("packet", &found.data[..], b"with")?;
    let mut writer = File::from(found.files.pop().context("no descriptor came")?);
    writer.write_all(b"through")?;
    drop(writer);
    same("data through the descriptor", rest(reader)?, b"through".to_vec())
}

fn passed(context: &mut Context) -> Result<()> {
    let (one, other) = socket::pair(libc::SOCK_STREAM)?;
    let path = context.path("passed");
    let mut sent = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    sent.write_all(b"content")?;
    socket::send_with(&one, b"before", &[])?;
    socket::send_with(&one, b"x", &[sent.as_fd()])?;
    drop(sent);
    context.failover(|| Ok(fs::write(&path, b"more content")?))?;
    let mut found = socket::receive_with(&other)?;
    same("data with it", &found.data[..], b"beforex")?;
    let sent = File::from(found.files.pop().context("no descriptor came")?);
    // Where it stood goes with it.
    same("data behind its position", rest(&sent)?, Vec::new())?;
    same("length", sent.metadata()?.len(), 7)
}

fn listening_path(context: &mut Context) -> Result<()> {
    let path = context.path("listener");
    let address = SocketAddr::from_pathname(&path)?;
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o751))?;
    if process::ids(false)?[1] == 0 {
        chown(&path, Some(OWNER), Some(OWNER))?;
    }
    let file = || -> Result<_> {
        let found = fs::metadata(&path)?;
        Ok((found.mode(), found.uid(), found.gid()))
    };
    let before = file()?;
    listening(context, listener, address)?;
    same("mode and owner of the file", file()?, before)
}

fn listening_abstract(context: &mut Context) -> Result<()> {
    let address = SocketAddr::from_abstract_name(format!("selfcheck-{}", own_id()?))?;
    let listener = UnixListener::bind_addr(&address)?;
    listening(context, listener, address)
}

fn listening(context: &mut Context, listener: UnixListener, address: SocketAddr) -> Result<()> {
    let mut old = UnixStream::connect_addr(&address)?;
    let (accepted, _) = listener.accept()?;
    let mut first = UnixStream::connect_addr(&address)?;
    first.write_all(b"first")?;
    let mut second = UnixStream::connect_addr(&address)?;
    second.write_all(b"second, and gone")?;
    drop(second);
    let names = |old: &UnixStream, accepted: &UnixStream| -> Result<_> {
        let words = |address: SocketAddr| format!("{address:?}");
        Ok([
            words(listener.local_addr()?),
            words(accepted.local_addr()?),
            words(accepted.peer_addr()?),
            words(old.local_addr()?),
            words(old.peer_addr()?),
        ])
    };
    let before = (names(&old, &accepted)?, socket::peer(&old)?, socket::peer(&first)?);
    context.failover(|| {
        listener.accept()?;
        Ok(())
    })?;
    let after = (names(&old, &accepted)?, socket::peer(&old)?, socket::peer(&first)?);
    same("names and SO_PEERCRED", after, before)?;
    listener.set_nonblocking(true)?;
    let (waited, _) = listener.accept().context("the first that waits")?;
    same("process of the first", socket::peer(&waited)?.0, own_id()?)?;
    same("its data", &exactly::<5>(&waited)?, b"first")?;
    let (gone, _) = listener.accept().context("the second that waits")?;
    same("data of the second", rest(gone)?, b"second, and gone".to_vec())?;
    ensure!(listener.accept().is_err(), "more wait than there were");
    (&waited).write_all(b"answer")?;
    same("answer", &exactly::<6>(&first)?, b"answer")?;
    old.write_all(b"on")?;
    same("data of the one accepted before", &exactly::<2>(&accepted)?, b"on")?;
    let mut new = UnixStream::connect_addr(&address).context("a new connection")?;
    new.write_all(b"new")?;
    let (new, _) = listener.accept()?;
    same("data of a new one", &exactly::<3>(&new)?, b"new")
}

pub(super) fn datagrams(context: &mut Context) -> Result<()> {
    let path = context.path("server");
    let server = UnixDatagram::bind(&path)?;
    let name = SocketAddr::from_abstract_name(format!("selfcheck-d-{}", own_id()?))?;
    let client = UnixDatagram::bind_addr(&name)?;
    client.connect(&path)?;
    client.send(b"of the client")?;
    let gone = context.path("gone");
    let other = UnixDatagram::bind(&gone)?;
    other.send_to(b"of one that is gone", &path)?;
    drop(other);
    fs::remove_file(&gone)?;
    UnixDatagram::unbound()?.send_to(b"", &path)?;
    context.failover(|| server.recv(&mut [0; 64]).map(|_| ()).map_err(Into::into))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let mut data = [0; 64];
    let mut next = || -> Result<_> {
        let (length, from) = server.recv_from(&mut data)?;
        Ok((data[..length].to_vec(), from))
    };
    let (found, from) = next()?;
    same("of the client", found, b"of the client".to_vec())?;
    same("its name", from.as_abstract_name(), name.as_abstract_name())?;
    server.send_to_addr(b"answer", &from)?;
    let (found, from) = next()?;
    same("of the other", found, b"of one that is gone".to_vec())?;
    same("its name", from.as_pathname(), Some(gone.as_path()))?;
    let (found, from) = next()?;
    same(
        "of the one without a name",
        (found, from.is_unnamed()),
        (Vec::new(), true),
    )?;
    let mut answer = [0; 6];
    same("answer", client.recv(&mut answer)?, 6)?;
    client.send(b"again")?;
    same("sent by the connection", next()?.0, b"again".to_vec())?;
    UnixDatagram::unbound()?.send_to(b"by path", &path)?;
    same("sent by the path", next()?.0, b"by path".to_vec())
}

fn peer_gone(context: &mut Context) -> Result<()> {
    let (mut one, mut closed) = UnixStream::pair()?;
    closed.write_all(b"last words")?;
    drop(closed);
    let (reset, mut closed) = UnixStream::pair()?;
    closed.write_all(b"more words")?;
    (&reset).write_all(b"never read")?;
    drop(closed);
    context.failover(|| exactly::<1>(&one).map(drop))?;
    same("its last words", rest(&one)?, b"last words".to_vec())?;
    ensure!(one.write_all(b"x").is_err(), "somebody listens");
    same("words of the other", &exactly::<10>(&reset)?, b"more words")?;
    let error = (&reset).read(&mut [0]).err().map(|error| error.kind());
    same("after them", error, Some(std::io::ErrorKind::ConnectionReset))
}

fn child(context: &mut Context) -> Result<()> {
    context.need_root()?;
    let address = SocketAddr::from_abstract_name(format!("selfcheck-c-{}", own_id()?))?;
    let listener = UnixListener::bind_addr(&address)?;
    let child = process::fork(|| {
        process::set_groups(&[7, 5])?;
        process::setresgid(OWNER.into(), OWNER.into(), OWNER.into())?;
        process::setresuid(OWNER.into(), OWNER.into(), OWNER.into())?;
        let mut stream = UnixStream::connect_addr(&address)?;
        stream.write_all(b"question")?;
        context.wait()?;
        same("answer", &exactly::<6>(&stream)?, b"answer")
    })?;
    let (mut stream, _) = listener.accept()?;
    same("question", &exactly::<8>(&stream)?, b"question")?;
    let who = |stream: &UnixStream| -> Result<_> { Ok((socket::peer(stream)?, socket::peer_groups(stream)?)) };
    let before = who(&stream)?;
    same("SO_PEERCRED", before.0, (child.pid as i32, OWNER, OWNER))?;
    same("groups", before.1.clone(), vec![5, 7])?;
    context.failover(|| Ok(()))?;
    let answer: &[u8; 6] = if context.mutate() { b"wrong!" } else { b"answer" };
    let after = who(&stream)?;
    stream.write_all(answer)?;
    same("SO_PEERCRED and groups", after, before)?;
    child.join("child")
}

fn in_recv(context: &mut Context) -> Result<()> {
    let (mut one, mut other) = UnixStream::pair()?;
    let expected: &[u8; 4] = if context.mutate() { b"then" } else { b"late" };
    let partner = context.partner(move || other.write_all(b"late").map(|()| other));
    context.ready(|| Ok(()))?;
    let mut data = [0; 4];
    let length = one.read(&mut data)?;
    context.expect_failover("recv")?;
    same("bytes", length, 4)?;
    same("data", &data, expected)?;
    join(partner)?.map(drop).context("the sender")
}

fn in_send(context: &mut Context) -> Result<()> {
    let (mut one, mut other) = UnixStream::pair()?;
    let data: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let wanted = data.len();
    let partner = context.partner(move || {
        let mut found = Vec::new();
        other.read_to_end(&mut found).map(|_| found)
    });
    context.ready(|| Ok(()))?;
    let first = one.write(&data)?;
    context.expect_failover("send")?;
    ensure!(first != 0, "nothing was sent");
    one.write_all(&data[first..])?;
    drop(one);
    let found = join(partner)??;
    let wrong = usize::from(context.mutate());
    same("bytes", found.len(), wanted + wrong)?;
    ensure!(found == data, "data is wrong");
    Ok(())
}

fn in_send_datagram(context: &mut Context) -> Result<()> {
    let (one, other) = UnixDatagram::pair()?;
    one.set_nonblocking(true)?;
    let mut sent = 0u32;
    while one.send(&sent.to_le_bytes()).is_ok() {
        sent += 1;
    }
    one.set_nonblocking(false)?;
    other.set_read_timeout(Some(PATIENCE))?;
    let wrong = u32::from(context.mutate());
    let partner = context.partner(move || -> Result<UnixDatagram> {
        let mut data = [0; 8];
        for expected in 0..=sent {
            same("bytes", other.recv(&mut data)?, 4)?;
            same("datagram", &data[..4], &(expected + wrong).to_le_bytes()[..])?;
        }
        other.set_nonblocking(true)?;
        ensure!(other.recv(&mut data).is_err(), "more came than were sent");
        Ok(other)
    });
    context.ready(|| Ok(()))?;
    let last = one.send(&sent.to_le_bytes())?;
    context.expect_failover("send")?;
    same("bytes", last, 4)?;
    join(partner)?.map(drop)
}

fn in_connect(context: &mut Context) -> Result<()> {
    let address = SocketAddr::from_abstract_name(format!("selfcheck-n-{}", own_id()?))?;
    let listener = UnixListener::bind_addr(&address)?;
    socket::listen(&listener, 0)?;
    let first = UnixStream::connect_addr(&address)?;
    (&first).write_all(b"first")?;
    let mutate = context.mutate();
    let partner = context.partner(move || -> Result<[[u8; 5]; 2]> {
        let (first, _) = listener.accept()?;
        let (second, _) = listener.accept()?;
        Ok([exactly(&first)?, exactly(&second)?])
    });
    context.ready(|| Ok(()))?;
    let second = UnixStream::connect_addr(&address)?;
    context.expect_failover("connect")?;
    (&second).write_all(if mutate { b"wrong" } else { b"later" })?;
    same("data", join(partner)??, [*b"first", *b"later"])
}

fn in_accept(context: &mut Context) -> Result<()> {
    let address = SocketAddr::from_abstract_name(format!("selfcheck-a-{}", own_id()?))?;
    let listener = UnixListener::bind_addr(&address)?;
    let mutate = context.mutate();
    let partner = context.partner(move || -> Result<UnixStream> {
        let mut stream = UnixStream::connect_addr(&address)?;
        stream.write_all(if mutate { b"then" } else { b"late" })?;
        Ok(stream)
    });
    context.ready(|| Ok(()))?;
    let (stream, _) = listener.accept()?;
    context.expect_failover("accept")?;
    same("data", &exactly::<4>(&stream)?, b"late")?;
    join(partner)?.map(drop).context("the client")
}
