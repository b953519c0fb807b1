//! Urgent data of TCP.

use crate::cell::{same, Cell, Context};
use crate::sys::{file, socket};
use anyhow::{ensure, Result};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "urgent/received",
        what: "urgent data of TCP that has come and nobody has read: reading stops before it, and MSG_OOB gets it",
        covers: &["TcpConnection.urgent_received"],
        caught: None,
        run: received,
    },
    Cell {
        name: "urgent/taken",
        what: "urgent data that was read before what was sent before it: it is not read again",
        covers: &["TcpConnection.urgent_received"],
        caught: None,
        run: taken,
    },
    Cell {
        name: "urgent/to-send",
        what:
            "urgent data behind more than the peer has room for: the peer is told of it and finds it where it was sent",
        covers: &["TcpConnection.urgent_received", "TcpConnection.urgent_to_send"],
        caught: None,
        run: to_send,
    },
];

/// What is sent before and after the urgent byte.
const BEFORE: &[u8] = b"before";
const URGENT: u8 = b'!';
const AFTER: &[u8] = b"after";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let server = listener.accept()?.0;
    server.set_read_timeout(Some(PATIENCE))?;
    Ok((client, server))
}

/// A connection with urgent data between other, all of which has come.
fn sent() -> Result<(TcpStream, TcpStream)> {
    let (mut client, server) = pair()?;
    client.write_all(BEFORE)?;
    socket::send_urgent(&client, URGENT)?;
    client.write_all(AFTER)?;
    std::thread::sleep(Duration::from_millis(200));
    Ok((client, server))
}

fn urgent(end: &TcpStream) -> Result<Vec<u8>, i32> {
    socket::receive_from(end, libc::MSG_OOB | libc::MSG_DONTWAIT).map(|(data, _)| data)
}

/// Reads what was sent before the urgent byte, behind which no call reads on.
fn read_up_to(mut end: &TcpStream, length: usize) -> Result<Vec<u8>> {
    let (mut found, mut room) = (Vec::new(), vec![0; length + 1]);
    while found.len() < length {
        match end.read(&mut room)? {
            0 => break,
            count => found.extend_from_slice(&room[..count]),
        }
    }
    Ok(found)
}

fn received(context: &mut Context) -> Result<()> {
    let (mut client, mut server) = sent()?;
    context.failover(|| same("the urgent byte", urgent(&server), Ok(vec![URGENT])))?;
    let (_, errno, events) = file::poll(&server, libc::POLLPRI | libc::POLLIN, 0);
    same("poll", (errno, events), (0, libc::POLLPRI | libc::POLLIN))?;
    same("what comes before", read_up_to(&server, BEFORE.len())?, BEFORE.to_vec())?;
    same("the urgent byte", urgent(&server), Ok(vec![URGENT]))?;
    same("what comes after", read_up_to(&server, AFTER.len())?, AFTER.to_vec())?;
    same("the urgent byte again", urgent(&server), Err(libc::EINVAL))?;
    client.write_all(BEFORE)?;
    let mut data = [0; BEFORE.len()];
    server.read_exact(&mut data)?;
    same("what is sent afterwards", &data[..], BEFORE)
}

fn taken(context: &mut Context) -> Result<()> {
    let (client, server) = sent()?;
    same("the urgent byte", urgent(&server), Ok(vec![URGENT]))?;
    context.failover(|| socket::send_urgent(&client, URGENT))?;
    same("the urgent byte again", urgent(&server), Err(libc::EINVAL))?;
    same("what comes before", read_up_to(&server, BEFORE.len())?, BEFORE.to_vec())?;
    same("what comes after", read_up_to(&server, AFTER.len())?, AFTER.to_vec())
}

fn to_send(context: &mut Context) -> Result<()> {
    let (mut client, server) = pair()?;
    socket::set_option(&server, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096)?;
    socket::set_option(&client, libc::SOL_SOCKET, libc::SO_SNDBUF, 1 << 20)?;
    let data: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
    client.set_nonblocking(true)?;
    client.write_all(&data)?;
    socket::send_urgent(&client, URGENT)?;
    client.write_all(AFTER)?;
    context.failover(|| socket::send_urgent(&client, URGENT))?;
    let found = read_up_to(&server, data.len())?;
    same("how much comes before", found.len(), data.len())?;
    ensure!(found == data, "other bytes than were sent");
    // The mark was known before the byte came.
    let (ready, errno, _) = file::poll(&server, libc::POLLPRI, PATIENCE.as_millis() as i32);
    same("poll", (ready, errno), (1, 0))?;
    same("the urgent byte", urgent(&server), Ok(vec![URGENT]))?;
    same("what comes after", read_up_to(&server, AFTER.len())?, AFTER.to_vec())
}
