#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| orthros_fuzz::rescue_area(data));
