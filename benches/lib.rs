//! Micro-benchmarks and the whole-proxy load driver.
