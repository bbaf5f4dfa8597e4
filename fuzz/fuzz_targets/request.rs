#![no_main]
//! What `resp_codec::check::request` says must hold for any bytes.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| resp_codec::check::request(bytes));
