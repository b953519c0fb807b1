//! seccomp and no_new_privs. While the thread is traced its filters are suspended, so that they bind from the first
//! instruction of its own on, and not the calls that build it.

use super::{
    batch::{Arg, Batch},
    Refusal, Restored,
};
use shared_region::context::{Seccomp, Thread};
use zerocopy::IntoBytes;

const PR_SET_SECCOMP: u64 = 22;
const PR_SET_NO_NEW_PRIVS: u64 = 38;
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const STRICT: u32 = 1;
const FILTER: u32 = 2;
/// SECCOMP_FILTER_FLAG_LOG and SPEC_ALLOW (include/uapi/linux/seccomp.h).
const KEPT_FLAGS: u32 = 1 << 1 | 1 << 2;

/// What cannot be restored is found before anything is built.
pub fn check(seccomp: &Seccomp) -> Restored<()> {
    if seccomp.mode > FILTER {
        return Err(Refusal::new("seccomp", format!("mode {} is unknown", seccomp.mode)));
    }
    if seccomp.mode == FILTER && seccomp.filters.is_empty() {
        return Err(Refusal::new("seccomp", "its filters were not saved"));
    }
    for (flags, program) in &seccomp.filters {
        if flags & !KEPT_FLAGS != 0 {
            return Err(Refusal::new("seccomp", format!("a filter has flags {flags:#x}")));
        }
        if program.is_empty() || program.len() > 4096 {
            return Err(Refusal::new("seccomp", "a filter has no program of a possible length"));
        }
    }
    Ok(())
}

/// Installs the filters, oldest first. Needs CAP_SYS_ADMIN, so it comes before the credentials.
pub fn install(batch: &mut Batch<'_>, seccomp: &Seccomp) -> Restored<()> {
    if seccomp.mode == STRICT {
        return batch.call(
            "seccomp",
            libc::SYS_prctl,
            [PR_SET_SECCOMP.into(), u64::from(STRICT).into()],
        );
    }
    for (flags, program) in &seccomp.filters {
        // struct sock_fprog: length, padding, address (include/uapi/linux/filter.h).
        let mut head = [0; 16];
        head[..2].copy_from_slice(&(program.len() as u16).to_le_bytes());
        let linked = Arg::Linked {
            outer: &head,
            at: 8,
            inner: program.as_bytes(),
        };
        batch.call(
            "seccomp filter",
            libc::SYS_seccomp,
            [SECCOMP_SET_MODE_FILTER.into(), (*flags).into(), linked],
        )?;
    }
    Ok(())
}

/// Sets no_new_privs.
pub fn no_new_privs(batch: &mut Batch<'_>, thread: &Thread) -> Restored<()> {
    if !thread.no_new_privs {
        return Ok(());
    }
    let arguments = [
        PR_SET_NO_NEW_PRIVS.into(),
        1u64.into(),
        0u64.into(),
        0u64.into(),
        0u64.into(),
    ];
    batch.call("no_new_privs", libc::SYS_prctl, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_with_a_listener_is_refused() {
        let seccomp = Seccomp {
            mode: FILTER,
            filters: vec![(1 << 3, vec![6])],
        };
        assert!(check(&seccomp).is_err());
    }

    #[test]
    fn filter_mode_without_filters_is_refused() {
        let seccomp = Seccomp {
            mode: FILTER,
            filters: Vec::new(),
        };
        assert!(check(&seccomp).is_err());
        assert!(check(&Seccomp::default()).is_ok());
    }
}
