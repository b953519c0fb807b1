//! Numbers an outsider cannot foresee: the CPU's own generator where it has one, and the time-stamp counter in any case.

use raw_cpuid::CpuId;
use x86_64::instructions::random::RdRand;

/// Tries before the generator is believed to be empty (Intel SDM vol. 1, 7.3.17.1).
const TRIES: usize = 10;
/// An odd multiplier with well-mixed bits.
const MULTIPLIER: u64 = 0xD134_2543_DE82_EF95;

/// A number; without a generator in the CPU it is no better than the time of day.
pub fn number() -> u64 {
    let has_generator = CpuId::new().get_feature_info().is_some_and(|info| info.has_rdrand());
    let generator = RdRand::new().filter(|_| has_generator);
    let drawn = generator.and_then(|generator| (0..TRIES).find_map(|_| generator.get_u64()));
    let time = crate::clock::tsc().wrapping_mul(MULTIPLIER).rotate_left(32);
    drawn.unwrap_or(0) ^ time.wrapping_mul(MULTIPLIER)
}

/// A number below `bound`; 0 if that is 0.
pub fn below(bound: u64) -> u64 {
    number().checked_rem(bound).unwrap_or(0)
}
