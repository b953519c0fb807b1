#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| orthros_fuzz::own_address(data));
