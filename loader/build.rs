//! Links the bare-metal binary at a fixed address; a host build (for the lints) is left alone.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/loader.ld");
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-T{script}");
        // The target's default is a static PIE; GRUB loads to the addresses in the file and relocates nothing.
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
