//! User namespaces of processes (`kernel/user_namespace.c`): ids of their own, and capabilities that hold for what belongs to
//! them.
//!
//! One is kept if its parent is the first, its ids were set, and nothing in it was limited further.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::UserNamespace;
use shared_region::reasons;

/// Most extents of a map that lie in the map itself, and at all (`UID_GID_MAP_MAX_BASE_EXTENTS`, `UID_GID_MAP_MAX_EXTENTS`).
const INLINE_EXTENTS: u64 = 5;
const MAX_EXTENTS: u64 = 340;
/// Bytes of an extent: three numbers of 32 bits.
const EXTENT: usize = 12;
/// `USERNS_SETGROUPS_ALLOWED`, the only flag.
const SETGROUPS_ALLOWED: u64 = 1;
/// Resource limits of a namespace (`enum rlimit_type`), the first of which is the number of processes.
const LIMITS: usize = 4;
const UNLIMITED: u64 = i64::MAX as u64;
/// What is not limited (`create_user_ns`).
const NO_MAXIMUM: u64 = i32::MAX as u64;

crate::mirrors! {
    /// A user namespace.
    #[allow(missing_docs)]
    pub struct UserNamespaceLayout = "user_namespace" {
        uid_map: Field,
        gid_map: Field,
        projid_map: Field,
        parent: Field,
        owner: Field,
        group: Field,
        flags: Field,
        ns_ops: Field = "ns.ops",
        ucount_max: Field,
        // Apart from the counts since Linux 5.19 (de399236e240).
        rlimit_max: Option<Field> = "rlimit_max",
    }

    /// How ids are mapped.
    #[allow(missing_docs)]
    pub struct UidGidMap = "uid_gid_map" {
        extent: Field,
        forward: Field,
        nr_extents: Field,
    }
}

fn refuse(what: impl Into<String>) -> Refusal {
    Refusal::new(reasons::NS_USER, what)
}

/// The namespace that a task's credentials are of.
///
/// # Errors
/// It cannot be read.
pub fn of_task<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let cred = mem.ptr(task, layouts.task.cred)?;
    Ok(mem.ptr(cred, layouts.cred.user_ns)?)
}

/// Translates one.
///
/// # Errors
/// It cannot be read, or is of a kind that cannot be made anew.
pub fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, namespace: Kva) -> Result<UserNamespace> {
    let layout = &context.kernel.types.layouts.user_namespace;
    let mem = &context.kernel.mem;
    let functions = context.kernel.prepared.globals.userns_operations;
    if functions.is_some_and(|functions| mem.ptr(namespace, layout.ns_ops) != Ok(functions)) {
        return Err(Refusal::new(reasons::UNREADABLE, "not a user namespace"));
    }
    let first = context.namespaces.user;
    if first.is_null() {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            "the first user namespace is not known",
        ));
    }
    if mem.ptr(namespace, layout.parent)? != first {
        return Err(refuse("which is in another one"));
    }
    let flags = mem.uint(namespace, layout.flags)?;
    if flags & !SETGROUPS_ALLOWED != 0 {
        return Err(refuse(alloc::format!("with flags {flags:#x}")));
    }
    if words(context, namespace, layout.ucount_max)?
        .iter()
        .any(|&most| most != NO_MAXIMUM)
    {
        return Err(refuse("with limits of its own (/proc/sys/user)"));
    }
    let limits = layout
        .rlimit_max
        .map(|field| words(context, namespace, field))
        .transpose()?;
    let limits = limits.and_then(|limits| limits.try_into().ok());
    let map = |field: Field| map(context, namespace.offset(u64::from(field.offset)));
    let (uids, gids, projects) = (map(layout.uid_map)?, map(layout.gid_map)?, map(layout.projid_map)?);
    if uids.is_empty() || gids.is_empty() {
        return Err(refuse("whose ids were not set"));
    }
    let id = |field| mem.uint(namespace, field).map(|id| id as u32);
    let owner = (id(layout.owner)?, id(layout.group)?);
    let limits: [u64; LIMITS] = limits.ok_or_else(|| refuse("with limits of another kind"))?;
    // Only a set-user-id program can have made it so.
    if owner.0 == 0 && limits.first() != Some(&UNLIMITED) {
        return Err(refuse("with a limit of processes that root has not"));
    }
    Ok(UserNamespace {
        owner,
        uids,
        gids,
        projects,
        setgroups: flags & SETGROUPS_ALLOWED != 0,
        limits,
    })
}

/// An array of words.
fn words<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, of: Kva, field: Field) -> Result<Vec<u64>> {
    let first = of.offset(u64::from(field.offset));
    let word = |index: u32| context.kernel.mem.u64(first.offset(u64::from(index).wrapping_mul(8)));
    Ok((0..field.count()).map(word).collect::<core::result::Result<_, _>>()?)
}

fn map<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, map: Kva) -> Result<Vec<(u32, u32, u32)>> {
    let layout = &context.kernel.types.layouts.uid_gid_map;
    let mem = &context.kernel.mem;
    let count = mem.uint(map, layout.nr_extents)?;
    if count > MAX_EXTENTS {
        return Err(Refusal::new(
            reasons::UNREADABLE,
            alloc::format!("{count} ranges of ids"),
        ));
    }
    let first = match count > INLINE_EXTENTS {
        true => mem.ptr(map, layout.forward)?,
        false => map.offset(u64::from(layout.extent.offset)),
    };
    let bytes = mem.bytes(first, (count as usize).saturating_mul(EXTENT))?;
    Ok(extents(&bytes))
}

/// What `struct uid_gid_extent`s say: first id inside, first outside, how many.
fn extents(bytes: &[u8]) -> Vec<(u32, u32, u32)> {
    let (numbers, _) = bytes.as_chunks::<4>();
    let (extents, _) = numbers.as_chunks::<3>();
    let extent = |numbers: &[[u8; 4]; 3]| {
        let [first, outside, count] = numbers.map(u32::from_le_bytes);
        (first, outside, count)
    };
    extents.iter().map(extent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read_in_the_kernels_order() {
        let bytes: Vec<u8> = [0u32, 0, 1, 100, 5000, 10]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        assert_eq!(extents(&bytes), [(0, 0, 1), (100, 5000, 10)]);
        // What is torn is none.
        assert_eq!(extents(bytes.get(..20).unwrap()), [(0, 0, 1)]);
        assert_eq!(extents(&[]), []);
    }
}
