//! Sockets of TCP and UDP that were only made: they stand in no table.

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::fstat,
    net::{ipproto, sockopt, AddressFamily, SocketType},
    process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags},
};

/// Whether a process's descriptor is one of these: never bound, nor connected, which would be seen by its end. Nobody else may
/// look at the sockets of another process than who may trace it.
pub fn is_one(process: u32, fd: i32, inode: u64) -> bool {
    look(process, fd, inode).unwrap_or(false)
}

fn look(process: u32, fd: i32, inode: u64) -> rustix::io::Result<bool> {
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else {
        return Ok(false);
    };
    let holder = pidfd_open(pid, PidfdFlags::empty())?;
    let socket = pidfd_getfd(&holder, fd, PidfdGetfdFlags::empty())?;
    if fstat(&socket)?.st_ino != inode {
        return Ok(false);
    }
    let family = sockopt::socket_domain(&socket)?;
    let kind = (sockopt::socket_type(&socket)?, sockopt::socket_protocol(&socket)?);
    let known = [
        (SocketType::STREAM, Some(ipproto::TCP)),
        (SocketType::DGRAM, Some(ipproto::UDP)),
    ];
    let mut state = [PollFd::new(&socket, PollFlags::IN | PollFlags::RDHUP)];
    poll(&mut state, Some(&Timespec::default()))?;
    let ended = PollFlags::RDHUP | PollFlags::ERR;
    Ok([AddressFamily::INET, AddressFamily::INET6].contains(&family)
        && known.contains(&kind)
        && !state[0].revents().intersects(ended))
}

#[cfg(test)]
mod tests {
    use super::is_one;
    use rustix::{
        fs::fstat,
        net::{socket, AddressFamily, SocketType},
    };
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::{AsFd, AsRawFd},
        time::Duration,
    };

    fn of_this_process(fd: &impl AsFd) -> bool {
        let inode = fstat(fd).expect("status").st_ino;
        is_one(std::process::id(), fd.as_fd().as_raw_fd(), inode)
    }

    #[test]
    fn what_was_only_made_is_told_from_what_has_ended() {
        let made = socket(AddressFamily::INET6, SocketType::STREAM, None).expect("socket");
        assert!(of_this_process(&made));
        assert!(!is_one(std::process::id(), made.as_raw_fd(), 1));
        let of_unix = socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("socket");
        assert!(!of_this_process(&of_unix));

        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        rustix::net::sockopt::set_socket_linger(&server, Some(Duration::ZERO)).expect("linger");
        // A reset.
        drop(server);
        std::thread::sleep(Duration::from_millis(100));
        assert!(!of_this_process(&client));
    }
}
