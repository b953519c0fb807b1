#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| orthros_fuzz::holding(data));
