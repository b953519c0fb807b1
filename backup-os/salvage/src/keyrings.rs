//! Session keyrings (`include/linux/key.h`, `security/keys/keyring.c`). One that holds nothing, or just what a service
//! manager puts into it, can be made anew; keys that somebody else has put there cannot.

use crate::addr::Kva;
use crate::context::Context;
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::refusal::{Refusal, Result};
use alloc::string::String;
use alloc::vec::Vec;
use shared_region::context::{Keyring, LinkedKey};
use shared_region::reasons;
use shared_region::record::{flags, Kind, Writer};

/// `KEY_FLAG_IN_QUOTA` and `KEY_FLAG_UID_KEYRING`; any other flag says that the key is not what it was made as.
const IN_QUOTA: u64 = 1 << 2;
const UID_KEYRING: u64 = 1 << 9;
/// `KEY_IS_POSITIVE`.
const POSITIVE: i64 = 1;
/// Expiry of a key that does not expire (`TIME64_MAX`).
const NEVER: u64 = i64::MAX as u64;
/// Low bits of a pointer in an `assoc_array` (`include/linux/assoc_array_priv.h`): the node of a tree, and within it a
/// shortcut; a leaf that is a keyring (`KEYRING_PTR_SUBTYPE`).
const META: u64 = 1;
const SUBTYPE: u64 = 2;
/// Longest name that is read.
const MAX_NAME: usize = 4096;
/// The key by which systemd tells a service which run of it this is, and its bytes (`systemd.exec`, `INVOCATION_ID`).
const INVOCATION: (&[u8], u64) = (b"invocation_id", 16);

crate::mirrors! {
    /// A key or keyring.
    #[allow(missing_docs)]
    pub struct Key = "key" {
        uid: Field,
        gid: Field,
        perm: Field,
        expiry: Field,
        state: Field,
        flags: Field,
        kind: Field = "type",
        description: Field,
        payload: Field = "payload.data",
        keys_root: Field = "keys.root",
        keys_count: Field = "keys.nr_leaves_on_tree",
        restrict_link: Field,
    }

    /// A kind of keys.
    #[allow(missing_docs)]
    pub struct KeyType = "key_type" {
        name: Field,
    }

    /// A node of the tree of a keyring's keys.
    #[allow(missing_docs)]
    pub struct AssocArrayNode = "assoc_array_node" {
        slots: Field,
    }

    /// What a key of type `user` holds.
    #[allow(missing_docs)]
    pub struct UserKeyPayload = "user_key_payload" {
        datalen: Field,
        data: Field,
    }
}

/// Description of a key.
///
/// # Errors
/// It cannot be read.
pub fn description<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, key: Kva) -> Result<Vec<u8>> {
    let mem = &context.kernel.mem;
    let at = mem.ptr(key, context.kernel.types.layouts.key.description)?;
    Ok(mem.cstr(at, MAX_NAME)?)
}

/// The session keyring of a task, null if it has none.
///
/// # Errors
/// It cannot be read.
pub fn of_task<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, task: Kva) -> Result<Kva> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let cred = mem.ptr(task, layouts.task.cred)?;
    match layouts.cred.session_keyring {
        Some(field) => Ok(mem.ptr(cred, field)?),
        None => Ok(Kva::NULL),
    }
}

/// Writes a session keyring, unless that was done for another process.
///
/// # Errors
/// There is something in it that cannot be made anew, or it cannot be read.
pub fn write<M: PhysMem + ?Sized>(
    context: &mut Context<'_, '_, M>,
    writer: &mut Writer<'_>,
    keyring: Kva,
) -> Result<()> {
    if keyring.is_null() || !context.first(Kind::Keyring, keyring.0) {
        return Ok(());
    }
    let record = read(context, keyring).map_err(|refusal| refusal.of(|| String::from("session keyring")))?;
    writer.push(Kind::Keyring, 1, flags::MUST_UNDERSTAND, keyring.0, &record)?;
    Ok(())
}

fn read<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, keyring: Kva) -> Result<Keyring> {
    let layout = &context.kernel.types.layouts.key;
    let mem = &context.kernel.mem;
    let name = description(context, keyring)?;
    let refuse = |what: &str| {
        let name = String::from_utf8_lossy(&name);
        Refusal::new(reasons::KEYRING, alloc::format!("{name}: {what}"))
    };
    if kind(context, keyring)? != b"keyring" || !is_plain(context, keyring, IN_QUOTA)? {
        return Err(refuse("revoked, or with a limited life"));
    }
    if !mem.ptr(keyring, layout.restrict_link)?.is_null() {
        return Err(refuse("it takes only some keys"));
    }
    // Others are named by their owner, who finds them by that name.
    if name != b"_ses" {
        return Err(refuse("a name of its own"));
    }
    let mut keys = Vec::new();
    for (key, is_keyring) in links(context, keyring)?.ok_or_else(|| refuse("it holds more than a few keys"))? {
        let linked = if is_keyring {
            user_keyring(context, key)?
        } else {
            invocation(context, key)?
        };
        let what = || String::from_utf8_lossy(&description(context, key).unwrap_or_default()).into_owned();
        keys.push(linked.ok_or_else(|| refuse(&alloc::format!("it holds the key {}", what())))?);
    }
    Ok(Keyring {
        description: name.clone(),
        uid: mem.uint(keyring, layout.uid)? as u32,
        gid: mem.uint(keyring, layout.gid)? as u32,
        perm: mem.uint(keyring, layout.perm)? as u32,
        keys,
    })
}

/// The name of a key's type.
fn kind<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, key: Kva) -> Result<Vec<u8>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let kind = mem.ptr(key, layouts.key.kind)?;
    Ok(mem.cstr(mem.ptr(kind, layouts.key_type.name)?, MAX_NAME)?)
}

/// Whether a key is valid, for ever, and has at most these flags.
fn is_plain<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, key: Kva, allowed: u64) -> Result<bool> {
    let layout = &context.kernel.types.layouts.key;
    let mem = &context.kernel.mem;
    let expiry = mem.uint(key, layout.expiry)?;
    Ok(mem.uint(key, layout.flags)? & !allowed == 0
        && mem.int(key, layout.state)? == POSITIVE
        && (expiry == 0 || expiry == NEVER))
}

/// What a keyring is linked to, each with whether it is a keyring; `None` if that is more than fits one node.
fn links<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, keyring: Kva) -> Result<Option<Vec<(Kva, bool)>>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let root = mem.uint(keyring, layouts.key.keys_root)?;
    let count = mem.uint(keyring, layouts.key.keys_count)?;
    let leaf = |word: u64| (Kva(word & !SUBTYPE), word & SUBTYPE != 0);
    if root == 0 {
        return Ok((count == 0).then(Vec::new));
    }
    if root & META == 0 {
        return Ok((count == 1).then(|| alloc::vec![leaf(root)]));
    }
    if root & SUBTYPE != 0 {
        return Ok(None);
    }
    let slots = layouts.assoc_array_node.slots;
    let first = Kva(root & !META).offset(u64::from(slots.offset));
    let mut found = Vec::new();
    for i in 0..u64::from(slots.count()) {
        match mem.u64(first.offset(i.wrapping_mul(8)))? {
            0 => {}
            word if word & META != 0 => return Ok(None),
            word => found.push(leaf(word)),
        }
    }
    Ok((found.len() as u64 == count).then_some(found))
}

/// The keyring of a user, if it is one and empty.
fn user_keyring<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, key: Kva) -> Result<Option<LinkedKey>> {
    let layout = &context.kernel.types.layouts.key;
    let name = description(context, key)?;
    let user = name
        .strip_prefix(b"_uid.")
        .and_then(|user| core::str::from_utf8(user).ok()?.parse().ok());
    let empty = context.kernel.mem.uint(key, layout.keys_count)? == 0;
    let plain = is_plain(context, key, IN_QUOTA | UID_KEYRING)?;
    Ok(user
        .filter(|_| empty && plain)
        .map(|uid| LinkedKey::UserKeyring { uid }))
}

/// The id of a service's run, if it is that.
fn invocation<M: PhysMem + ?Sized>(context: &Context<'_, '_, M>, key: Kva) -> Result<Option<LinkedKey>> {
    let layouts = &context.kernel.types.layouts;
    let mem = &context.kernel.mem;
    let name = description(context, key)?;
    if name != INVOCATION.0 || kind(context, key)? != b"user" || !is_plain(context, key, IN_QUOTA)? {
        return Ok(None);
    }
    // The first of the words that a type may use (`user_read`).
    let payload = mem.pointer(key.offset(u64::from(layouts.key.payload.offset)))?;
    let length = mem.uint(payload, layouts.user_key_payload.datalen)?;
    if length != INVOCATION.1 {
        return Ok(None);
    }
    let data = payload.offset(u64::from(layouts.user_key_payload.data.offset));
    Ok(Some(LinkedKey::User {
        description: name,
        payload: mem.bytes(data, length as usize)?,
        uid: mem.uint(key, layouts.key.uid)? as u32,
        gid: mem.uint(key, layouts.key.gid)? as u32,
        perm: mem.uint(key, layouts.key.perm)? as u32,
    }))
}
