//! One function for each thing that reads bytes from outside: whatever they are, it returns, soon, without a panic.
//!
//! libFuzzer calls them through `fuzz_targets/`; the smoke test calls them on any toolchain with the seeds, with
//! changed seeds, and with noise. What the fuzzer finds is put into `seeds/` and stays there.
#![forbid(unsafe_code)]

mod targets;

pub use targets::records::records;
pub use targets::{
    btf::btf, bzimage::bzimage, containers::containers, holding::holding, kallsyms::kallsyms, multiboot2::multiboot2,
    own_address::own_address, own_address::pages_shown, packed::packed, rescue_area::rescue_area,
};

/// A function under test.
pub type Target = fn(&[u8]);

/// Every target by the name of its folder in `seeds/`.
pub const TARGETS: [(&str, Target); 10] = [
    ("btf", btf),
    ("kallsyms", kallsyms),
    ("containers", containers),
    ("records", records),
    ("multiboot2", multiboot2),
    ("bzimage", bzimage),
    ("packed", packed),
    ("holding", holding),
    ("own_address", own_address),
    ("rescue_area", rescue_area),
];
