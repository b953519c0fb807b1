//! Which boot module is what. The first word of a module's string names its role:
//!
//! | role | the module is |
//! |---|---|
//! | `backup-os` | the backup OS, a position-independent ELF |
//! | `kernel COMMAND-LINE` | the first kernel, a bzImage |
//! | `initramfs` | its initramfs (may be left out if the kernel needs none) |
//! | `successor-kernel COMMAND-LINE` | the kernel that takes over, a bzImage |
//! | `successor-initramfs` | its initramfs, with orthros-init |
//!
//! GRUB unpacks what is compressed with gzip, unless it is told `module2 --nounzip`.

use crate::{
    bzimage::{BzImage, BzImageError},
    elf::{ElfError, Image},
    memory_map,
    multiboot::Module,
    span::Span,
};
use shared_region::header::MemoryRange;

/// What a module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The backup OS.
    BackupOs,
    /// The first kernel.
    Kernel,
    /// Its initramfs.
    Initramfs,
    /// The kernel staged for the first failover.
    SuccessorKernel,
    /// Its initramfs.
    SuccessorInitramfs,
}

const ROLES: [(Role, &str); 5] = [
    (Role::BackupOs, "backup-os"),
    (Role::Kernel, "kernel"),
    (Role::Initramfs, "initramfs"),
    (Role::SuccessorKernel, "successor-kernel"),
    (Role::SuccessorInitramfs, "successor-initramfs"),
];

/// Memory below is divided among the kernels for their real-mode code.
const LOWEST: u64 = 1 << 20;

impl Role {
    /// The word in GRUB's configuration.
    pub fn word(self) -> &'static str {
        ROLES
            .iter()
            .find(|(role, _)| *role == self)
            .map_or("?", |(_, word)| word)
    }
}

/// Why the modules are not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleError {
    /// No module has this role.
    Missing(Role),
    /// Two modules have it.
    Duplicate(Role),
    /// A module's first word is no role.
    Unknown(alloc::string::String),
    /// It is empty.
    Empty(Role),
    /// It does not lie in RAM above 1 MB.
    Place(Role, Span),
    /// It is no kernel this loader can start.
    Kernel(Role, BzImageError),
    /// The backup OS is no file this loader can load.
    BackupOs(ElfError),
    /// It is no initramfs the kernel knows (cpio, or a known compression).
    NotInitramfs(Role),
}

impl core::fmt::Display for ModuleError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Missing(role) => write!(f, "module `{}` is missing from GRUB's menu entry", role.word()),
            Self::Duplicate(role) => write!(f, "module `{}` is given twice", role.word()),
            Self::Unknown(word) => write!(
                f,
                "module with the unknown role `{word}`; roles are backup-os, kernel, initramfs, successor-kernel, \
                 successor-initramfs"
            ),
            Self::Empty(role) => write!(f, "module `{}` is empty", role.word()),
            Self::Place(role, span) => write!(
                f,
                "module `{}` lies at {span}, which is not RAM above 1 MB",
                role.word()
            ),
            Self::Kernel(role, why) => write!(f, "module `{}`: {why}", role.word()),
            Self::BackupOs(why) => write!(f, "module `backup-os`: {why}"),
            Self::NotInitramfs(role) => write!(
                f,
                "module `{}` is neither a cpio archive nor compressed in a way Linux knows",
                role.word()
            ),
        }
    }
}

impl core::error::Error for ModuleError {}

/// A module with its role split off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned<'a> {
    /// Where it lies.
    pub span: Span,
    /// What follows the role: the command line.
    pub arguments: &'a [u8],
}

/// The modules by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modules<'a> {
    /// `backup-os`.
    pub backup_os: Assigned<'a>,
    /// `kernel`.
    pub kernel: Assigned<'a>,
    /// `initramfs`.
    pub initramfs: Option<Assigned<'a>>,
    /// `successor-kernel`.
    pub successor_kernel: Assigned<'a>,
    /// `successor-initramfs`.
    pub successor_initramfs: Assigned<'a>,
}

impl<'a> Modules<'a> {
    /// Assigns roles; does not look into the modules. `memory` is the firmware's map.
    ///
    /// # Errors
    /// [`ModuleError`]: unknown, duplicate, missing, empty, or in no place for a module.
    pub fn assign(modules: &[Module<'a>], memory: &[MemoryRange]) -> Result<Self, ModuleError> {
        let mut found: [Option<Assigned<'a>>; ROLES.len()] = [None; ROLES.len()];
        for module in modules {
            let string = module.string.trim_ascii();
            let length = string.iter().position(u8::is_ascii_whitespace).unwrap_or(string.len());
            let (word, arguments) = string.split_at(length);
            let position = ROLES.iter().position(|(_, name)| name.as_bytes() == word);
            let (Some((role, _)), Some(slot)) = (
                position.and_then(|p| ROLES.get(p)),
                position.and_then(|p| found.get_mut(p)),
            ) else {
                return Err(ModuleError::Unknown(
                    alloc::string::String::from_utf8_lossy(word).into_owned(),
                ));
            };
            if slot.is_some() {
                return Err(ModuleError::Duplicate(*role));
            }
            if module.span.is_empty() {
                return Err(ModuleError::Empty(*role));
            }
            let in_ram = memory_map::ram(memory).any(|ram| ram.contains(&module.span));
            if module.span.start < LOWEST || !in_ram {
                return Err(ModuleError::Place(*role, module.span));
            }
            *slot = Some(Assigned {
                span: module.span,
                arguments: arguments.trim_ascii(),
            });
        }
        let [backup_os, kernel, initramfs, successor_kernel, successor_initramfs] = found;
        Ok(Self {
            backup_os: backup_os.ok_or(ModuleError::Missing(Role::BackupOs))?,
            kernel: kernel.ok_or(ModuleError::Missing(Role::Kernel))?,
            initramfs,
            successor_kernel: successor_kernel.ok_or(ModuleError::Missing(Role::SuccessorKernel))?,
            successor_initramfs: successor_initramfs.ok_or(ModuleError::Missing(Role::SuccessorInitramfs))?,
        })
    }
}

/// Checks that a module is what its role says.
///
/// # Errors
/// [`ModuleError`], naming the role and what is wrong.
pub fn check(role: Role, bytes: &[u8]) -> Result<(), ModuleError> {
    match role {
        Role::Kernel | Role::SuccessorKernel => BzImage::parse(bytes)
            .map(|_| ())
            .map_err(|why| ModuleError::Kernel(role, why)),
        Role::BackupOs => Image::parse(bytes).map(|_| ()).map_err(ModuleError::BackupOs),
        Role::Initramfs | Role::SuccessorInitramfs if is_initramfs(bytes) => Ok(()),
        Role::Initramfs | Role::SuccessorInitramfs => Err(ModuleError::NotInitramfs(role)),
    }
}

/// cpio "newc" with or without checksums, or a compression of `lib/decompress.c`.
fn is_initramfs(bytes: &[u8]) -> bool {
    const MAGICS: [&[u8]; 10] = [
        b"070701",
        b"070702",
        &[0x1F, 0x8B],
        &[0x1F, 0x9E],
        &[0x42, 0x5A],
        &[0x5D, 0x00],
        &[0xFD, 0x37],
        &[0x89, 0x4C],
        &[0x02, 0x21],
        &[0x28, 0xB5],
    ];
    MAGICS.iter().any(|magic| bytes.starts_with(magic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const RAM: [MemoryRange; 1] = [MemoryRange {
        start: 0,
        end: 0x1000_0000,
        kind: memory_map::kind::RAM,
    }];

    fn module(string: &str, start: u64) -> Module<'_> {
        Module {
            span: Span::of(start, 0x1000),
            string: string.as_bytes(),
        }
    }

    fn all() -> Vec<Module<'static>> {
        alloc::vec![
            module("kernel console=ttyS0  quiet ", 0x10_1000),
            module("initramfs", 0x10_2000),
            module("backup-os", 0x10_3000),
            module("successor-kernel root=/dev/vda", 0x10_4000),
            module("successor-initramfs", 0x10_5000),
        ]
    }

    #[test]
    fn roles_and_command_lines_are_split() {
        let all = all();
        let modules = Modules::assign(&all, &RAM).unwrap();
        assert_eq!(modules.kernel.arguments, b"console=ttyS0  quiet");
        assert_eq!(modules.successor_kernel.arguments, b"root=/dev/vda");
        assert_eq!(modules.backup_os.span.start, 0x10_3000);
    }

    #[test]
    fn missing_double_unknown_and_empty_modules_are_named() {
        let mut list = all();
        let backup = list.remove(2);
        assert_eq!(Modules::assign(&list, &RAM), Err(ModuleError::Missing(Role::BackupOs)));
        list.extend([backup, backup]);
        assert_eq!(
            Modules::assign(&list, &RAM),
            Err(ModuleError::Duplicate(Role::BackupOs))
        );
        assert_eq!(
            Modules::assign(&[module("kernal", 0)], &RAM),
            Err(ModuleError::Unknown("kernal".into()))
        );
        let mut empty = module("kernel", 0);
        empty.span.end = empty.span.start;
        assert_eq!(Modules::assign(&[empty], &RAM), Err(ModuleError::Empty(Role::Kernel)));
        list = all();
        list.remove(1);
        assert!(Modules::assign(&list, &RAM).unwrap().initramfs.is_none());
    }

    #[test]
    fn a_module_that_lies_nowhere_is_refused() {
        for start in [0x1000, 0x1000_0000] {
            assert_eq!(
                Modules::assign(&[module("kernel", start)], &RAM),
                Err(ModuleError::Place(Role::Kernel, Span::of(start, 0x1000)))
            );
        }
    }

    #[test]
    fn contents_are_checked_against_the_role() {
        assert_eq!(check(Role::Initramfs, b"070701000"), Ok(()));
        assert_eq!(
            check(Role::SuccessorInitramfs, b"<!DOCTYPE html>"),
            Err(ModuleError::NotInitramfs(Role::SuccessorInitramfs))
        );
        assert_eq!(
            check(Role::BackupOs, b"\x7FELF\x01"),
            Err(ModuleError::BackupOs(ElfError::NotSupported))
        );
        assert!(matches!(
            check(Role::Kernel, b"070701"),
            Err(ModuleError::Kernel(Role::Kernel, _))
        ));
    }
}
