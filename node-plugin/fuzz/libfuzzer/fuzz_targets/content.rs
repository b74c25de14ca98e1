//! See `umbra_fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    umbra_fuzz::run("content", data);
});
