//! What the running kernel has to offer.

use super::Item;
use crate::root::Root;

/// Kernel series that the module was written for.
const SERIES: [&str; 2] = ["6.1.", "6.12."];
/// `SecureBoot`, a variable of the EFI global namespace (UEFI 2.10, 3.3): four bytes of attributes, then the value.
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Everything about the kernel.
pub fn items(root: &Root) -> Vec<Item> {
    let release = root.line("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        series(&release),
        type_information(root),
        symbols(root),
        secure_boot(root),
        module(root, &release),
    ]
}

fn series(release: &str) -> Item {
    const NAME: &str = "kernel";
    if release.is_empty() {
        return Item::doubtful(NAME, "/proc/sys/kernel/osrelease cannot be read");
    }
    if SERIES.iter().any(|series| release.starts_with(series)) {
        return Item::good(NAME, release);
    }
    Item::doubtful(
        NAME,
        format!(
            "{release}: tried with 6.1 and 6.12 only; the module checks what it uses and refuses to load if it differs"
        ),
    )
}

fn type_information(root: &Root) -> Item {
    const NAME: &str = "type information";
    match root.exists("/sys/kernel/btf/vmlinux") {
        true => Item::good(NAME, "BTF of the kernel is there"),
        false => Item::bad(NAME, "no BTF: a kernel with CONFIG_DEBUG_INFO_BTF is required"),
    }
}

fn symbols(root: &Root) -> Item {
    const NAME: &str = "symbols";
    match root.exists("/proc/kallsyms") {
        true => Item::good(NAME, "kallsyms is there"),
        false => Item::bad(NAME, "no kallsyms: a kernel with CONFIG_KALLSYMS is required"),
    }
}

fn secure_boot(root: &Root) -> Item {
    const NAME: &str = "Secure Boot";
    const WAY_OUT: &str = "; the module is not signed, and would be refused: turn Secure Boot off, or sign the module \
                           and enrol the key";
    let on = std::fs::read(root.path(SECURE_BOOT)).is_ok_and(|bytes| bytes.get(4) == Some(&1));
    if on {
        return Item::bad(NAME, format!("on{WAY_OUT}"));
    }
    if root.line("/sys/module/module/parameters/sig_enforce").as_deref() == Some("Y") {
        return Item::bad(NAME, format!("off, but the kernel takes signed modules only{WAY_OUT}"));
    }
    let lockdown = root.line("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[integrity]") || lockdown.contains("[confidentiality]") {
        return Item::bad(NAME, format!("off, but the kernel is locked down{WAY_OUT}"));
    }
    Item::good(NAME, "off")
}

fn module(root: &Root, release: &str) -> Item {
    const NAME: &str = "module";
    if root.exists("/sys/module/orthros") {
        return Item::good(NAME, "loaded");
    }
    let list = root
        .read(&format!("/lib/modules/{release}/modules.dep"))
        .unwrap_or_default();
    let installed = list.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        path.rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with("orthros.ko"))
    });
    match installed {
        true => Item::good(NAME, "installed for this kernel"),
        false => Item::doubtful(NAME, "not installed for this kernel"),
    }
}
