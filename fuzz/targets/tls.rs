#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tickws::fuzz::run("tls", data));
