//! VMCOREINFO: the text in which a kernel tells a crash dumper about itself (`Documentation/admin-guide/kdump/vmcoreinfo.rst`).

use crate::addr::{Kva, PhysAddr};
use crate::memory::Image;
use crate::paging::Levels;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// Longest text (`VMCOREINFO_BYTES` is one page).
const MAX_LEN: usize = 16 << 10;

/// The text, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmCoreInfo {
    lines: BTreeMap<String, String>,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadVmCoreInfo(pub &'static str);

impl fmt::Display for BadVmCoreInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VMCOREINFO: `{}` is missing or malformed", self.0)
    }
}

impl core::error::Error for BadVmCoreInfo {}

impl VmCoreInfo {
    /// Takes a text apart, up to its NUL if it has one.
    ///
    /// # Errors
    /// Names the first of the lines everything rests on that is missing.
    pub fn parse(text: &[u8]) -> Result<Self, BadVmCoreInfo> {
        let end = text
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(text.len())
            .min(MAX_LEN);
        let text = text
            .get(..end)
            .and_then(|text| core::str::from_utf8(text).ok())
            .ok_or(BadVmCoreInfo("text"))?;
        let lines = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        let info = Self { lines };
        info.get("OSRELEASE").ok_or(BadVmCoreInfo("OSRELEASE"))?;
        info.symbol("swapper_pg_dir")
            .ok_or(BadVmCoreInfo("SYMBOL(swapper_pg_dir)"))?;
        info.number("phys_base").ok_or(BadVmCoreInfo("NUMBER(phys_base)"))?;
        Ok(info)
    }

    /// The value of a line.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines.get(key).map(String::as_str)
    }

    fn wrapped(&self, kind: &str, name: &str) -> Option<&str> {
        let mut key = String::with_capacity(kind.len().saturating_add(name.len()).saturating_add(2));
        for part in [kind, "(", name, ")"] {
            key.push_str(part);
        }
        self.get(&key)
    }

    /// Address of a `SYMBOL(name)`.
    pub fn symbol(&self, name: &str) -> Option<Kva> {
        u64::from_str_radix(self.wrapped("SYMBOL", name)?, 16).ok().map(Kva)
    }

    /// A `NUMBER(name)`, decimal and perhaps negative.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.wrapped("NUMBER", name)?.parse().ok()
    }

    /// `uname -r`.
    pub fn release(&self) -> &str {
        self.get("OSRELEASE").unwrap_or("")
    }

    /// The GNU build id in hexadecimal, if the kernel has one.
    pub fn build_id(&self) -> Option<&str> {
        self.get("BUILD-ID")
    }

    /// `phys_base`, two's complement.
    pub fn phys_base(&self) -> u64 {
        self.number("phys_base").unwrap_or(0) as u64
    }

    /// Levels of the kernel's page tables.
    pub fn levels(&self) -> Levels {
        if self.number("pgtable_l5_enabled") == Some(1) {
            Levels::Five
        } else {
            Levels::Four
        }
    }
}

/// Finds every text in an image that looks whole. Copies of earlier kernels and of kexec linger: which one belongs to
/// the kernel that ran last is decided by its page tables, not here.
pub fn find_all(image: &Image<'_>) -> Vec<(PhysAddr, VmCoreInfo)> {
    const START: &[u8] = b"OSRELEASE=";
    let bytes = image.bytes();
    let mut found = Vec::new();
    // The text starts a page of its own (`get_zeroed_page`), but copies in ELF notes do not.
    for offset in memchr::memmem::find_iter(bytes, START) {
        let text = bytes.get(offset..).unwrap_or(&[]);
        let Ok(info) = VmCoreInfo::parse(text.get(..text.len().min(MAX_LEN)).unwrap_or(&[])) else {
            continue;
        };
        if let Some(phys) = image.phys_of_offset(offset as u64) {
            found.push((phys, info));
        }
    }
    found
}
