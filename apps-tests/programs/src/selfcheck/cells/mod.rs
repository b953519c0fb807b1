//! The cells, one file for each resource.

mod aio;
mod clocks;
mod connecting;
mod event_files;
mod file_locks;
mod files;
mod files_on_disk;
mod fork_memory;
mod identity;
mod inotify;
mod io_uring;
mod ipc_namespaces;
mod keyrings;
mod late_memory;
mod limits;
mod memory;
mod memory_flags;
mod merged_memory;
mod mounts;
mod mqueue;
mod namespaces;
mod netlink;
mod network_namespaces;
mod packets;
mod pid_namespaces;
mod pipes;
mod places;
mod process_tree;
mod pseudo_files;
mod restrictions;
mod shared_memory;
mod signals;
mod socket_options;
mod sockets;
mod swapped_memory;
mod sysv_ipc;
mod terminals;
mod threads;
mod timers;
mod unix_sockets;
mod urgent;

use crate::cell::Cell;

/// Every cell, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Cell> {
    let lists: [&'static [Cell]; 41] = [
        memory::CELLS,
        memory_flags::CELLS,
        fork_memory::CELLS,
        late_memory::CELLS,
        merged_memory::CELLS,
        shared_memory::CELLS,
        swapped_memory::CELLS,
        threads::CELLS,
        identity::CELLS,
        keyrings::CELLS,
        process_tree::CELLS,
        limits::CELLS,
        restrictions::CELLS,
        mounts::CELLS,
        namespaces::CELLS,
        ipc_namespaces::CELLS,
        network_namespaces::CELLS,
        pid_namespaces::CELLS,
        signals::CELLS,
        files::CELLS,
        files_on_disk::CELLS,
        file_locks::CELLS,
        pseudo_files::CELLS,
        pipes::CELLS,
        sysv_ipc::CELLS,
        sockets::CELLS,
        connecting::CELLS,
        socket_options::CELLS,
        netlink::CELLS,
        packets::CELLS,
        unix_sockets::CELLS,
        urgent::CELLS,
        event_files::CELLS,
        aio::CELLS,
        io_uring::CELLS,
        terminals::CELLS,
        inotify::CELLS,
        mqueue::CELLS,
        timers::CELLS,
        clocks::CELLS,
        places::CELLS,
    ];
    lists.into_iter().flatten()
}

/// The cell of a name.
pub fn find(name: &str) -> Option<&'static Cell> {
    all().find(|cell| cell.name == name)
}
