//! Reads processes and files out of the memory of a Linux kernel, dead or alive, with BTF and kallsyms alone.
//!
//! What we know on entry: physical memory behind the [`memory::PhysMem`] seam, and either the facts the kernel's module
//! published or, on a host, nothing (then the kernel is found by its VMCOREINFO). What we owe: state in terms of the
//! system-call ABI, and a named error for every object that makes no sense. Every pointer read from the kernel is an
//! allegation; every walk is bounded; nothing here panics.
//!
//! The work has two halves. While the kernel is healthy, [`prepared::Prepared`] is made: offsets of the structures we
//! read ([`types`]), addresses of variables, the symbol table. When it is dead, [`kernel::Kernel`] puts that over its
//! memory and looks nothing up any more.
//!
//! | module | what it holds |
//! |---|---|
//! | [`addr`], [`error`] | address types; what can be wrong |
//! | [`memory`] | the seam: physical memory |
//! | [`paging`] | page tables: one translation, a scan over a range |
//! | [`vmcoreinfo`], [`kallsyms`], [`mod@symbols`] | what the kernel says about itself; its variables |
//! | [`mirror`], [`types`], [`tables`] | offsets from BTF; constants BTF does not have |
//! | [`kernel_memory`] | reading kernel virtual memory |
//! | [`prepared`], [`kernel`] | the two halves |
//! | [`newborn`] | whether a kernel panics that has told nothing yet |
//! | [`containers`] | lists, trees, xarrays |
//! | [`printk`], [`modules`], [`module_types`], [`overview`], [`orc`] | the log; loadable modules, their structures; all tasks; call chains |
//! | [`failover`] | the entry: a dead kernel into an Essential Context |
//! | [`layouts`], [`globals`] | offsets and addresses that only the following need |
//! | [`clock`], [`machine`] | clocks; what the kernel said about itself |
//! | [`context`], [`refusal`] | what is known throughout and what was recorded; why something is not |
//! | [`tasks`], [`protected`], [`process`], [`thread`] | the list of processes; which are kept; each into its records |
//! | [`cpus`], [`registers`], [`fpu`] | what CPUs left; general and extended registers |
//! | [`interrupted`], [`calls`], [`user_memory`] | how a thread goes on that was in a system call |
//! | [`creds`], [`seccomp`], [`namespaces`], [`user_namespaces`], [`ipc_namespaces`], [`network_namespaces`], [`sysctls`], [`signals`], [`timers`] | what a process may, was sent, and waits for |
//! | [`mm`], [`aio`], [`vma_flags`], [`frames`], [`frame_set`], [`pages`], [`swap`] | address spaces and their frames |
//! | [`files`], [`file_locks`], [`event_files`], [`io_uring`], [`pipes`] | open files |
//! | [`inodes`], [`page_cache`], [`ext4`] | files of file systems, and what the disk does not know of them |
//! | [`block_devices`], [`device_mapper`] | disks; devices that are made of others |
//! | [`btrfs`], [`vfat`], [`xfs`] | file systems that are modules: what their disks lack |
//! | [`names`], [`ext4_table`], [`ext4_attributes`] | names and attributes where a journal cannot be completed |
//! | [`directories`], [`ext4_dir`], [`dentry`], [`mounts`], [`mount_namespaces`] | their names |
//! | [`evidence`] | why the kernel died |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;
// The declaring macros name this crate from outside and from inside.
extern crate self as salvage;

pub use btf;

pub mod addr;
pub mod aio;
pub mod block_devices;
pub mod btrfs;
pub mod calls;
pub mod clock;
pub mod containers;
pub mod context;
pub mod cpus;
pub mod creds;
pub mod dentry;
pub mod device_mapper;
pub mod directories;
pub mod dirty_files;
pub mod error;
pub mod event_files;
pub mod evidence;
pub mod ext4;
pub mod ext4_attributes;
pub mod ext4_dir;
pub mod ext4_table;
pub mod failover;
pub mod file_locks;
pub mod files;
pub mod fpu;
pub mod frame_set;
pub mod frames;
pub mod globals;
pub mod heartbeat;
pub mod inodes;
pub mod inotify;
pub mod interrupted;
pub mod io_uring;
pub mod ipc_namespaces;
pub mod jbd2;
pub mod kallsyms;
pub mod kernel;
pub mod kernel_memory;
pub mod keyrings;
pub mod launch;
pub mod layouts;
pub mod library;
pub mod link_setup;
pub mod machine;
pub mod memory;
pub mod mirror;
pub mod mm;
pub mod module_types;
pub mod modules;
pub mod mount_namespaces;
pub mod mounts;
pub mod mqueue;
pub mod names;
pub mod namespaces;
pub mod netfilter;
pub mod network;
pub mod network6;
pub mod network_namespaces;
pub mod newborn;
pub mod orc;
pub mod overview;
pub mod page_cache;
pub mod pages;
pub mod paging;
pub mod pid_namespaces;
pub mod pipes;
pub mod prepared;
pub mod printk;
pub mod process;
pub mod protected;
pub mod pseudo_files;
pub mod refusal;
pub mod registers;
pub mod seccomp;
pub mod signals;
pub mod sockets;
pub mod swap;
pub mod symbols;
pub mod sysctls;
pub mod sysv_ipc;
pub mod tables;
pub mod tasks;
pub mod terminals;
pub mod thread;
pub mod timers;
pub mod types;
pub mod user_memory;
pub mod user_namespaces;
pub mod vfat;
pub mod vma_flags;
pub mod vmcoreinfo;
pub mod warm_cache;
pub mod xfs;
