//! Signal dispositions and signals that nobody has taken yet.

use super::{
    batch::{Arg, Batch, Expect},
    world::World,
    Refusal, Restored,
};
use shared_region::context::{Process, SigAction, SigInfo, Thread};
use zerocopy::IntoBytes;

const LAST_SIGNAL: i32 = 64;
const SET_SIZE: u64 = 8;
/// Bytes of a `siginfo_t`.
const INFO_SIZE: usize = 128;

/// The bit of a signal in a mask.
pub fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What cannot be put back is found before anything is built: these two cannot be kept pending.
pub fn check(process: &Process, threads: &[Thread]) -> Restored<()> {
    let impossible = bit(libc::SIGKILL) | bit(libc::SIGTRAP);
    let masks = threads
        .iter()
        .map(|thread| thread.pending_mask)
        .chain([process.pending_mask]);
    let queued = threads
        .iter()
        .flat_map(|thread| &thread.pending)
        .chain(&process.pending);
    let pending = masks
        .chain(queued.map(|info| signal_of(info).map_or(0, bit)))
        .fold(0, |a, b| a | b);
    match pending & impossible {
        0 => Ok(()),
        mask if mask & bit(libc::SIGKILL) != 0 => Err(Refusal::new("pending signals", "it was being killed")),
        _ => Err(Refusal::new("pending signals", "a SIGTRAP is pending")),
    }
}

/// The disposition of every signal but SIGTRAP, which ends batches and is set by [`trap_action`] alone.
pub fn actions(batch: &mut Batch<'_>, process: &Process) -> Restored<()> {
    for signal in 1..=LAST_SIGNAL {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGTRAP) {
            continue;
        }
        let bytes = action_bytes(process, signal);
        batch.call(
            format!("disposition of signal {signal}"),
            libc::SYS_rt_sigaction,
            [signal.into(), Arg::Bytes(&bytes), 0u64.into(), SET_SIZE.into()],
        )?;
    }
    Ok(())
}

/// Number and argument bytes of the disposition of SIGTRAP.
pub fn trap_action(process: &Process) -> [u8; 32] {
    action_bytes(process, libc::SIGTRAP)
}

/// `struct kernel_sigaction` (include/linux/signal_types.h on x86_64): handler, flags, restorer, mask.
fn action_bytes(process: &Process, signal: i32) -> [u8; 32] {
    let action: SigAction = process.sigactions.get(signal as usize - 1).copied().unwrap_or_default();
    let words = [action.handler, action.flags, action.restorer, action.mask];
    let mut bytes = [0; 32];
    bytes.copy_from_slice(words.as_bytes());
    bytes
}

/// Takes out what the building itself has sent: a child that was built as a zombie has announced its death.
pub fn drop_strays(batch: &mut Batch<'_>) -> Restored<()> {
    let set = bit(libc::SIGCHLD).to_le_bytes();
    batch.expect(
        "stray signals",
        libc::SYS_rt_sigtimedwait,
        [Arg::Bytes(&set), 0u64.into(), Arg::Bytes(&[0; 16]), SET_SIZE.into()],
        Expect::Any,
    )
}

/// Queues the signals of a thread, in the thread itself: only to itself may it claim any origin.
pub fn queue_for_thread(batch: &mut Batch<'_>, thread: &Thread, world: &World<'_>) -> Restored<()> {
    let [process, own] = [thread.tgid, thread.tid].map(|id| world.own_number(id));
    for (signal, info) in all(&thread.pending, thread.pending_mask)? {
        batch.call(
            format!("pending signal {signal}"),
            libc::SYS_rt_tgsigqueueinfo,
            [process.into(), own.into(), signal.into(), Arg::Bytes(&info)],
        )?;
    }
    Ok(())
}

/// Queues the signals of a process, in its leader.
pub fn queue_for_process(batch: &mut Batch<'_>, process: &Process, world: &World<'_>) -> Restored<()> {
    let own = world.own_number(process.tgid);
    for (signal, info) in all(&process.pending, process.pending_mask)? {
        batch.call(
            format!("pending signal {signal}"),
            libc::SYS_rt_sigqueueinfo,
            [own.into(), signal.into(), Arg::Bytes(&info)],
        )?;
    }
    Ok(())
}

fn all(queued: &[SigInfo], mask: u64) -> Restored<Vec<(i32, Vec<u8>)>> {
    let mut signals = Vec::new();
    for info in queued {
        let signal = signal_of(info).ok_or_else(|| Refusal::new("pending signals", "one is not a signal"))?;
        let mut bytes = info.0.clone();
        bytes.resize(INFO_SIZE, 0);
        signals.push((signal, bytes));
    }
    let bare = (1..=LAST_SIGNAL)
        .filter(|&signal| mask & bit(signal) != 0 && !signals.iter().any(|(queued, _)| *queued == signal));
    let bare: Vec<i32> = bare.collect();
    for signal in bare {
        let mut bytes = vec![0; INFO_SIZE];
        bytes[..4].copy_from_slice(&signal.to_le_bytes());
        signals.push((signal, bytes));
    }
    Ok(signals)
}

/// The number of a queued signal, if it is one.
pub fn signal_of(info: &SigInfo) -> Option<i32> {
    let number = i32::from_le_bytes(info.0.get(..4)?.try_into().ok()?);
    (1..=LAST_SIGNAL).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_with_information_is_not_queued_a_second_time_for_its_bit() {
        let mut info = vec![0; 16];
        info[0] = 10;
        let signals = all(&[SigInfo(info)], bit(10) | bit(12)).unwrap();
        let numbers: Vec<i32> = signals.iter().map(|(signal, _)| *signal).collect();
        assert_eq!(numbers, [10, 12]);
        assert!(signals.iter().all(|(_, bytes)| bytes.len() == INFO_SIZE));
    }

    #[test]
    fn a_process_about_to_die_is_refused() {
        let process = Process {
            pending_mask: bit(libc::SIGKILL),
            ..Process::default()
        };
        assert!(check(&process, &[]).is_err());
    }

    #[test]
    fn a_signal_out_of_range_is_refused() {
        assert!(all(&[SigInfo(vec![99, 0, 0, 0])], 0).is_err());
    }
}
