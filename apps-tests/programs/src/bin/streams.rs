//! Serves connections of TCP on a port: on each it sends a counter for ever, and checks that it receives one. Says what
//! is wrong on standard output, and then closes the connection.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

/// Numbers in a block.
const NUMBERS: u64 = 1024;

fn send(mut connection: TcpStream) -> io::Result<()> {
    let mut number = 0;
    loop {
        let block: Vec<u8> = (number..number + NUMBERS).flat_map(u64::to_le_bytes).collect();
        connection.write_all(&block)?;
        number += NUMBERS;
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn receive(mut connection: TcpStream) -> io::Result<()> {
    let mut number = 0u64;
    let mut word = [0; 8];
    let mut buffer = vec![0; 1 << 16];
    let mut have = 0;
    loop {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for byte in &buffer[..length] {
            word[have] = *byte;
            have += 1;
            if have == word.len() {
                let found = u64::from_le_bytes(word);
                if found != number {
                    return Err(io::Error::other(format!("{found} instead of {number}")));
                }
                number += 1;
                have = 0;
            }
        }
    }
}

fn watched(name: &str, connection: TcpStream, work: fn(TcpStream) -> io::Result<()>, ends: bool) {
    let other = connection.try_clone();
    if let Err(error) = work(connection) {
        // That the client goes away in the end is no problem.
        let closed = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        if !(closed && ends) {
            println!("{name}: {error}");
        }
        if let Ok(other) = other {
            // It may be closed already.
            let _ = other.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other("usage: streams PORT"))?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for connection in listener.incoming() {
        let connection = connection?;
        let copy = connection.try_clone()?;
        std::thread::spawn(move || watched("sending", copy, send, true));
        std::thread::spawn(move || watched("receiving", connection, receive, true));
    }
    Ok(())
}
