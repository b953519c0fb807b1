//! Session keyrings. The first process that has one makes it; another one joins it by its name, for which it is made open to
//! just that for a moment. All of this happens as root: owners and permissions come last. A process in a user namespace is not
//! root by then, so a keeper makes what it is the first to have.

use super::{
    arena::Arena,
    batch::{query, Arg, Batch, Expect},
    process::Built,
    tracee::Tracee,
    world::World,
    OrRefuse, Refusal, Restored,
};
use crate::sys::{self, Tid};
use shared_region::context::{Id, Keyring, LinkedKey};
use std::{collections::BTreeMap, io};

/// Operations of `keyctl` (include/uapi/linux/keyctl.h).
const JOIN_SESSION_KEYRING: u64 = 1;
const CHOWN: u64 = 4;
const SETPERM: u64 = 5;
const LINK: u64 = 8;
/// `KEY_SPEC_SESSION_KEYRING` and `KEY_SPEC_USER_KEYRING`.
const SESSION: i32 = -3;
const USER: i32 = -4;
/// Permissions of a new session keyring: its possessor may do everything, its owner look (`KEY_POS_ALL`, `KEY_USR_VIEW`,
/// `KEY_USR_READ`; security/keys/process_keys.c). With `KEY_USR_SEARCH` its owner can join it.
const CLOSED: u32 = 0x3F03_0000;
const OPEN: u32 = CLOSED | 0x0008_0000;
/// An id that is not changed.
const SAME: u32 = u32::MAX;

/// The session keyrings that were made.
#[derive(Debug, Default)]
pub struct Keyrings {
    made: BTreeMap<Id, Made>,
    /// Processes that do nothing but make keyrings.
    keepers: Vec<Tracee>,
}

#[derive(Clone, Copy, Debug)]
struct Made {
    /// Serial number in this kernel.
    serial: u32,
    /// The process that made it.
    maker: Tid,
}

impl Keyrings {
    /// Gives a process that has no other threads yet its session keyring; 0 is none. `confined` says that it will be in a user
    /// namespace.
    pub fn join(
        &mut self,
        arena: &mut Arena,
        leader: &Tracee,
        id: Id,
        world: &World<'_>,
        confined: bool,
    ) -> Restored<()> {
        if id == 0 {
            return Ok(());
        }
        let record = world
            .keyrings
            .get(&id)
            .ok_or_else(|| Refusal::new("session keyring", "there is no record of it"))?;
        let made = match self.made.get(&id) {
            Some(made) => *made,
            None if confined => {
                let tid = sys::spawn_paused(0, 0).or_refuse(|| "keeper of a session keyring")?;
                let keeper = Tracee::seize(tid)?;
                let made = self.make(arena, &keeper, id, record);
                self.keepers.push(keeper);
                made?
            }
            None => return self.make(arena, leader, id, record).map(drop),
        };
        let name = [record.description.as_slice(), &[0]].concat();
        made.permit(arena, OPEN)?;
        let mut batch = Batch::new(arena, leader);
        batch.expect(
            "session keyring",
            libc::SYS_keyctl,
            [JOIN_SESSION_KEYRING.into(), Arg::Bytes(&name)],
            Expect::Value(made.serial.into()),
        )?;
        let joined = batch.finish();
        made.permit(arena, CLOSED)?;
        joined
    }

    fn make(&mut self, arena: &mut Arena, maker: &Tracee, id: Id, record: &Keyring) -> Restored<Made> {
        let serial = make(arena, maker, record)?;
        let maker = maker.tid();
        let made = Made { serial, maker };
        self.made.insert(id, made);
        Ok(made)
    }

    /// Sets owners and permissions. Returns those of which that failed.
    pub fn seal(&mut self, arena: &mut Arena, world: &World<'_>) -> Vec<(Id, Refusal)> {
        let seal = |(id, made): (&Id, &Made)| {
            let record = world.keyrings.get(id)?;
            let refusal = made.give_back(arena, record).err()?;
            Some((*id, refusal))
        };
        let failed = self.made.iter().filter_map(seal).collect();
        for keeper in self.keepers.drain(..) {
            Built::new(keeper, 0).kill();
        }
        failed
    }
}

impl Made {
    fn permit(&self, arena: &mut Arena, perm: u32) -> Restored<()> {
        let maker = Tracee::borrowed(self.maker);
        let mut batch = Batch::new(arena, &maker);
        batch.call(
            "session keyring",
            libc::SYS_keyctl,
            [SETPERM.into(), self.serial.into(), perm.into()],
        )?;
        batch.finish()
    }

    fn give_back(&self, arena: &mut Arena, record: &Keyring) -> Restored<()> {
        let maker = Tracee::borrowed(self.maker);
        let mut batch = Batch::new(arena, &maker);
        owner_and_permissions(&mut batch, self.serial, (record.uid, record.gid), record.perm)?;
        batch.finish()
    }
}

fn owner_and_permissions(batch: &mut Batch<'_>, serial: u32, (uid, gid): (u32, u32), perm: u32) -> Restored<()> {
    let what = "owner of a session keyring";
    batch.call(
        what,
        libc::SYS_keyctl,
        [CHOWN.into(), serial.into(), uid.into(), gid.into()],
    )?;
    batch.call(what, libc::SYS_keyctl, [SETPERM.into(), serial.into(), perm.into()])
}

/// Makes a keyring with what is linked into it, and returns its serial number.
fn make(arena: &mut Arena, leader: &Tracee, record: &Keyring) -> Restored<u32> {
    let serial = serial(query(
        arena,
        leader,
        libc::SYS_keyctl,
        |_| [JOIN_SESSION_KEYRING, 0, 0, 0, 0, 0],
        &[],
    )?)?;
    for key in &record.keys {
        match key {
            LinkedKey::UserKeyring { uid } => link_user_keyring(arena, leader, *uid)?,
            LinkedKey::User {
                description,
                payload,
                uid,
                gid,
                perm,
            } => {
                let key = add_key(arena, leader, description, payload)?;
                let mut batch = Batch::new(arena, leader);
                owner_and_permissions(&mut batch, key, (*uid, *gid), *perm)?;
                batch.finish()?;
            }
        }
    }
    Ok(serial)
}

/// A user's keyring is that of the real user id.
fn link_user_keyring(arena: &mut Arena, leader: &Tracee, uid: u32) -> Restored<()> {
    let mut batch = Batch::new(arena, leader);
    let what = || format!("keyring of user {uid}");
    batch.call(what(), libc::SYS_setresuid, [uid.into(), SAME.into(), SAME.into()])?;
    batch.call(what(), libc::SYS_keyctl, [LINK.into(), USER.into(), SESSION.into()])?;
    batch.call(what(), libc::SYS_setresuid, [0u64.into(), SAME.into(), SAME.into()])?;
    batch.finish()
}

/// Adds a key of type `user` to the session keyring, and returns its serial number.
fn add_key(arena: &mut Arena, leader: &Tracee, description: &[u8], payload: &[u8]) -> Restored<u32> {
    let data = [b"user\0", description, b"\0", payload].concat();
    let name = b"user\0".len() as u64;
    let content = name + description.len() as u64 + 1;
    let session = i64::from(SESSION) as u64;
    let arguments = |at: u64| [at, at + name, at + content, payload.len() as u64, session, 0];
    serial(query(arena, leader, libc::SYS_add_key, arguments, &data)?)
}

fn serial((result, _): (i64, Vec<u8>)) -> Restored<u32> {
    u32::try_from(result).map_err(|_| {
        let error = io::Error::from_raw_os_error(-result as i32);
        Refusal::new("session keyring", error)
    })
}
