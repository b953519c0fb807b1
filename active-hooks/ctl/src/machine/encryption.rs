//! Memory encryption: what one kernel wrote, another could not read.

use super::Item;
use crate::root::Root;

const NAME: &str = "memory encryption";

/// Whether SME, SEV or TDX is in use.
///
/// A processor names `sme` and `sev` among its flags when it could do them. In a guest the flag means that the guest
/// itself is encrypted (AMD APM vol. 2, 15.34.1); on bare metal SME is in use only if the kernel was told to.
pub fn memory(root: &Root, flags: &[String]) -> Item {
    let has = |name: &str| flags.iter().any(|flag| flag == name);
    if has("tdx_guest") {
        return Item::bad(NAME, "this is an encrypted guest (TDX)");
    }
    if has("hypervisor") && ["sev", "sev_es", "sev_snp"].into_iter().any(has) {
        return Item::bad(NAME, "this is an encrypted guest (SEV)");
    }
    let line = root.line("/proc/cmdline").unwrap_or_default();
    let told = line
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("mem_encrypt="));
    if has("sme") && told == Some("on") {
        return Item::bad(
            NAME,
            "SME is in use: remove mem_encrypt=on from the kernel's parameters",
        );
    }
    Item::good(NAME, "not active")
}
