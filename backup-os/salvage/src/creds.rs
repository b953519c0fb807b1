//! Credentials and the restrictions that hang on them (`include/linux/cred.h`).

use crate::addr::Kva;
use crate::kernel::Kernel;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::Creds;
use shared_region::reasons;

/// `NGROUPS_MAX` (`include/uapi/linux/limits.h`).
const MAX_GROUPS: u64 = 65536;
/// Longest label or description that is read.
const MAX_NAME: usize = 4096;

crate::mirrors! {
    /// Credentials.
    #[allow(missing_docs)]
    pub struct Cred = "cred" {
        uid: Field,
        gid: Field,
        suid: Field,
        sgid: Field,
        euid: Field,
        egid: Field,
        fsuid: Field,
        fsgid: Field,
        securebits: Field,
        cap_inheritable: Field,
        cap_permitted: Field,
        cap_effective: Field,
        cap_bset: Field,
        cap_ambient: Field,
        // Recorded with its process (`keyrings`).
        session_keyring: Option<Field> = "session_keyring",
        process_keyring: Option<Field> = "process_keyring",
        thread_keyring: Option<Field> = "thread_keyring",
        security: Option<Field> = "security",
        user_ns: Field,
        group_info: Field,
    }

    /// Supplementary groups.
    #[allow(missing_docs)]
    pub struct GroupInfo = "group_info" {
        ngroups: Field,
        gid: Field,
    }

    /// Where security modules keep their parts.
    #[allow(missing_docs)]
    pub struct LsmBlobSizes = "lsm_blob_sizes" {
        lbs_cred: Field,
    }

    /// An AppArmor label.
    #[allow(missing_docs)]
    pub struct AaLabel = "aa_label" {
        flags: Field,
        hname: Field,
    }
}

crate::constants! {
    /// Flags of an AppArmor label.
    pub struct AaLabelFlags {
        /// It confines nothing.
        unconfined: Option<u32> = "FLAG_UNCONFINED",
    }
}

/// Supplementary groups.
///
/// # Errors
/// They cannot be read.
pub fn groups<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, cred: Kva) -> Result<Vec<u32>> {
    let types = &kernel.types.layouts;
    let mem = &kernel.mem;
    let info = mem.ptr(cred, types.cred.group_info)?;
    let count = mem.uint(info, types.group_info.ngroups)?;
    if count > MAX_GROUPS {
        return Err(Refusal::new(reasons::UNREADABLE, alloc::format!("{count} groups")));
    }
    let groups = mem.bytes(
        info.offset(u64::from(types.group_info.gid.offset)),
        (count as usize).saturating_mul(4),
    )?;
    let (groups, _) = groups.as_chunks::<4>();
    Ok(groups.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect())
}

/// Translates credentials.
///
/// # Errors
/// They cannot be read, or are confined in a way that cannot be restored.
pub fn read<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, cred: Kva) -> Result<Creds> {
    let types = &kernel.types.layouts;
    let layout = &types.cred;
    let mem = &kernel.mem;
    let id = |field| mem.uint(cred, field).map(|id| id as u32);
    // `kernel_cap_t` is one word, or two halves of it in order (up to Linux 6.2, f122a08b197d).
    let capability = |field: Field| mem.u64(cred.offset(u64::from(field.offset)));

    let mut keyrings = Vec::new();
    for (name, field) in [("process", layout.process_keyring), ("thread", layout.thread_keyring)] {
        let Some(key) = field
            .map(|field| mem.ptr(cred, field))
            .transpose()?
            .filter(|key| !key.is_null())
        else {
            continue;
        };
        let description = mem
            .ptr(key, types.key.description)
            .and_then(|at| mem.cstr(at, MAX_NAME))
            .unwrap_or_default();
        keyrings.push(alloc::format!(
            "{name} keyring {}",
            String::from_utf8_lossy(&description)
        ));
    }

    landlock(kernel, cred)?;
    Ok(Creds {
        uid: [id(layout.uid)?, id(layout.euid)?, id(layout.suid)?, id(layout.fsuid)?],
        gid: [id(layout.gid)?, id(layout.egid)?, id(layout.sgid)?, id(layout.fsgid)?],
        groups: groups(kernel, cred)?,
        caps: [
            capability(layout.cap_inheritable)?,
            capability(layout.cap_permitted)?,
            capability(layout.cap_effective)?,
            capability(layout.cap_bset)?,
            capability(layout.cap_ambient)?,
        ],
        securebits: id(layout.securebits)?,
        lsm: apparmor(kernel, cred)?,
        foreign_user_ns: Some(mem.ptr(cred, layout.user_ns)?) != kernel.prepared.globals.init_user_ns,
        keyrings,
    })
}

/// A security module's word in credentials; `None` if the module is not in use.
fn blob<M: PhysMem + ?Sized>(
    kernel: &Kernel<'_, M>,
    cred: Kva,
    sizes: Option<Kva>,
    initialized: Option<Kva>,
) -> Result<Option<Kva>> {
    let types = &kernel.types.layouts;
    let (Some(sizes), Some(initialized), Some(security)) = (sizes, initialized, types.cred.security) else {
        return Ok(None);
    };
    if kernel.mem.u8(initialized)? == 0 {
        return Ok(None);
    }
    let blob = kernel.mem.ptr(cred, security)?;
    if blob.is_null() {
        return Ok(None);
    }
    let offset = kernel.mem.uint(sizes, types.lsm_blob_sizes.lbs_cred)?;
    Ok(Some(kernel.mem.pointer(blob.offset(offset))?))
}

/// The name of the AppArmor label, empty if it confines nothing.
fn apparmor<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, cred: Kva) -> Result<Vec<u8>> {
    let globals = &kernel.prepared.globals;
    let types = &kernel.types.layouts;
    let label = blob(kernel, cred, globals.apparmor_blob_sizes, globals.apparmor_initialized)?;
    let (Some(label), Some(layout)) = (label.filter(|label| !label.is_null()), &types.aa_label) else {
        return Ok(Vec::new());
    };
    let unconfined = u64::from(types.aa_label_flags.unconfined.unwrap_or(0));
    if kernel.mem.uint(label, layout.flags)? & unconfined != 0 {
        return Ok(Vec::new());
    }
    Ok(kernel.mem.cstr(kernel.mem.ptr(label, layout.hname)?, MAX_NAME)?)
}

/// Refuses credentials with a Landlock domain (`struct landlock_cred_security`, whose first member it is).
fn landlock<M: PhysMem + ?Sized>(kernel: &Kernel<'_, M>, cred: Kva) -> Result<()> {
    let globals = &kernel.prepared.globals;
    match blob(kernel, cred, globals.landlock_blob_sizes, globals.landlock_initialized)? {
        Some(domain) if !domain.is_null() => Err(Refusal::new(reasons::LANDLOCK, "")),
        _ => Ok(()),
    }
}
