//! Credentials of a thread: ids, groups, capabilities, securebits.
//!
//! The thread starts as root with everything and gives away what it did not have. The order matters: each step needs
//! a capability that a later one drops.

use super::{
    batch::{Arg, Batch},
    OrRefuse, Refusal, Restored,
};
use crate::sys::SECBIT_NO_SETUID_FIXUP;
use shared_region::context::Creds;
use zerocopy::IntoBytes;

const PR_CAPBSET_DROP: u64 = 24;
const PR_SET_SECUREBITS: u64 = 28;
const PR_CAP_AMBIENT: u64 = 47;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// What cannot be restored is found before anything is built.
pub fn check(creds: &Creds) -> Restored<()> {
    if !creds.lsm.is_empty() {
        let label = String::from_utf8_lossy(&creds.lsm).into_owned();
        return Err(Refusal::new(
            "security label",
            format!("`{label}` cannot be set from here"),
        ));
    }
    if !creds.keyrings.is_empty() {
        return Err(Refusal::new("keyrings", creds.keyrings.join(", ")));
    }
    Ok(())
}

/// What the agent itself may do: a thread it builds starts with that.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Permitted capabilities.
    pub permitted: u64,
    /// The highest capability this kernel knows.
    pub last_cap: u32,
}

impl Own {
    /// Looks at this process and kernel.
    pub fn now() -> Restored<Self> {
        let status = std::fs::read_to_string("/proc/self/status").or_refuse(|| "capabilities of the agent")?;
        let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
        let permitted = permitted.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        let last_cap = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").or_refuse(|| "capabilities")?;
        Ok(Self {
            permitted: permitted.ok_or_else(|| Refusal::new("capabilities of the agent", "they cannot be read"))?,
            last_cap: last_cap.trim().parse().or_refuse(|| "capabilities")?,
        })
    }
}

/// Sets all of them. In a user namespace ids are set before it is entered ([`ids`]), where they have the numbers recorded.
pub fn set(batch: &mut Batch<'_>, creds: &Creds, own: Own) -> Restored<()> {
    if !creds.foreign_user_ns {
        ids(batch, creds)?;
    }
    capabilities(batch, creds, own)
}

/// Everything that [`ids`] sets.
pub fn all_ids(creds: &Creds) -> ([u32; 4], [u32; 4], &[u32]) {
    (creds.uid, creds.gid, &creds.groups)
}

/// Sets groups and ids, and leaves capabilities alone.
pub fn ids(batch: &mut Batch<'_>, creds: &Creds) -> Restored<()> {
    let [uid, euid, suid, fsuid] = creds.uid;
    let [gid, egid, sgid, fsgid] = creds.gid;

    let count = creds.groups.len() as u64;
    batch.call(
        "groups",
        libc::SYS_setgroups,
        [count.into(), Arg::Bytes(creds.groups.as_bytes())],
    )?;
    batch.call("group ids", libc::SYS_setresgid, [gid.into(), egid.into(), sgid.into()])?;
    batch.call("group ids", libc::SYS_setfsgid, [fsgid.into()])?;
    securebits(batch, SECBIT_NO_SETUID_FIXUP.into())?;
    batch.call("user ids", libc::SYS_setresuid, [uid.into(), euid.into(), suid.into()])?;
    batch.call("user ids", libc::SYS_setfsuid, [fsuid.into()])
}

/// Sets capabilities and securebits.
fn capabilities(batch: &mut Batch<'_>, creds: &Creds, own: Own) -> Restored<()> {
    let last_cap = own.last_cap;
    let known = u64::MAX >> (63 - last_cap.min(63));
    let [inheritable, permitted, effective, bounding, ambient] = creds.caps.map(|set| set & known);
    capset(batch, inheritable | ambient, own.permitted, own.permitted)?;
    for capability in (0..=last_cap).filter(|capability| ambient >> capability & 1 != 0) {
        batch.call(
            format!("ambient capability {capability}"),
            libc::SYS_prctl,
            [
                PR_CAP_AMBIENT.into(),
                PR_CAP_AMBIENT_RAISE.into(),
                capability.into(),
                0u64.into(),
                0u64.into(),
            ],
        )?;
    }
    for capability in (0..=last_cap).filter(|capability| bounding >> capability & 1 == 0) {
        batch.call(
            format!("bounding capability {capability}"),
            libc::SYS_prctl,
            [PR_CAPBSET_DROP.into(), capability.into()],
        )?;
    }
    securebits(batch, u64::from(creds.securebits))?;
    capset(batch, inheritable, permitted, effective)
}

fn securebits(batch: &mut Batch<'_>, bits: u64) -> Restored<()> {
    batch.call("securebits", libc::SYS_prctl, [PR_SET_SECUREBITS.into(), bits.into()])
}

fn capset(batch: &mut Batch<'_>, inheritable: u64, permitted: u64, effective: u64) -> Restored<()> {
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let header = [CAPABILITY_VERSION, 0];
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    batch.call(
        "capabilities",
        libc::SYS_capset,
        [Arg::Bytes(header.as_bytes()), Arg::Bytes(data.as_bytes())],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_other_subsystems_is_refused_by_name() {
        let labelled = Creds {
            lsm: b"profile (enforce)".to_vec(),
            ..Creds::default()
        };
        assert_eq!(check(&labelled).unwrap_err().what, "security label");
        assert!(check(&Creds::default()).is_ok());
    }
}
