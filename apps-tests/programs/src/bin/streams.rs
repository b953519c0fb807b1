//! Serves connections of TCP on a port. Both sides send the same numbers, counted up from the first that this side sends, and
//! check what they receive. Once the client's end has come, what was received is counted, and the count sent as the last number
//! behind [`END`]. Says what is wrong on standard output, and then closes the connection.
//!
//! This side speaks first: QEMU's user network loses what it holds for a guest that repeats its SYN-ACK, so a client does
//! well to send nothing before it has heard something.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Numbers in a block.
const NUMBERS: u64 = 1024;
/// Stands before the last number.
const END: u64 = u64::MAX;

/// A connection.
struct Stream {
    /// The first number.
    first: u64,
    /// Time between two blocks.
    pause: Duration,
    /// How many numbers have come, when the end has.
    received: Arc<AtomicU64>,
}

impl Stream {
    fn send(&self, mut connection: TcpStream) -> io::Result<()> {
        let mut number = self.first;
        loop {
            let received = self.received.load(Ordering::Acquire);
            if received != END {
                return connection.write_all(&[END.to_le_bytes(), received.to_le_bytes()].concat());
            }
            let block: Vec<u8> = (number..number + NUMBERS).flat_map(u64::to_le_bytes).collect();
            connection.write_all(&block)?;
            number += NUMBERS;
            std::thread::sleep(self.pause);
        }
    }

    /// Receives until the end.
    fn receive(&self, mut connection: TcpStream) -> io::Result<()> {
        let mut number = self.first;
        let mut rest = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = connection.read(&mut buffer)?;
            if length == 0 && rest.is_empty() {
                self.received.store(number - self.first, Ordering::Release);
                return Ok(());
            }
            if length == 0 {
                return Err(io::Error::other("it ends in the middle of a number"));
            }
            rest.extend_from_slice(&buffer[..length]);
            let (words, after) = rest.as_chunks::<8>();
            for word in words {
                let found = u64::from_le_bytes(*word);
                if found != number {
                    return Err(io::Error::other(format!("{found} instead of {number}")));
                }
                number += 1;
            }
            rest = after.to_vec();
        }
    }
}

fn serve(connection: &TcpStream, first: u64, pause: Duration) -> io::Result<()> {
    let stream = Stream {
        first,
        pause,
        received: Arc::new(AtomicU64::new(END)),
    };
    std::thread::scope(|scope| {
        let (copy, stream) = (connection.try_clone()?, &stream);
        let sender = scope.spawn(move || {
            let result = stream.send(copy.try_clone()?);
            // The other direction must not wait for ever.
            result.inspect_err(|_| drop(copy.shutdown(std::net::Shutdown::Both)))
        });
        let result = stream.receive(connection.try_clone()?);
        if result.is_err() {
            // It may be closed already.
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        let sent = sender
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        result.and(sent)
    })
}

fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: streams PORT [PAUSE_MS]");
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().and_then(|port| port.parse().ok()).ok_or_else(usage)?;
    let pause = arguments
        .next()
        .map_or(Ok(20), |pause| pause.parse().map_err(|_| usage()))?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for (index, connection) in (0u64..).zip(listener.incoming()) {
        let connection = connection?;
        // No two connections have the same numbers.
        let first = index << 40;
        std::thread::spawn(move || {
            if let Err(error) = serve(&connection, first, Duration::from_millis(pause)) {
                println!("{error}");
            }
        });
    }
    Ok(())
}
