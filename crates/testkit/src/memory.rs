//! What memory a process has, as the kernel counts it.

use anyhow::{Context as _, Result};

/// Resident memory of a process, in bytes.
///
/// # Errors
/// When it has ended.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most that it has ever been, in bytes.
///
/// # Errors
/// When it has ended.
pub fn peak_bytes(pid: u32) -> Result<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, row: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(row));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.with_context(|| format!("no {row}"))?.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_some_and_had_no_less() {
        let pid = std::process::id();
        let resident = resident_bytes(pid).unwrap();
        assert!(resident > 100 << 10);
        assert!(peak_bytes(pid).unwrap() >= resident);
    }
}
