//! The functions, one file each.

pub mod btf;
pub mod bzimage;
pub mod containers;
pub mod holding;
pub mod kallsyms;
pub mod multiboot2;
pub mod own_address;
pub mod packed;
pub mod records;
pub mod rescue_area;
