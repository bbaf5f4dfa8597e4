//! What a process has cost, as the kernel accounts it under /proc.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Sub;

use anyhow::{Context, Result};

/// Processor time of all living threads of a process, since it began or between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cpu {
    /// Microseconds on a processor, exact (the scheduler's own sum).
    pub(super) total_us: f64,
    /// Clock ticks in the process' own code and in the kernel. They are sampled, and only their proportion is used.
    user_ticks: f64,
    system_ticks: f64,
}

// === impl Cpu ===

impl Cpu {
    /// Reads `/proc/<pid>/task/*/schedstat` for the sum and `/proc/<pid>/stat` for the proportion.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let mut total_ns = 0.0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while the folder is read.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            total_ns += first_number(&text).context("schedstat has no number")?;
        }
        let (user_ticks, system_ticks) = ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
        Ok(Self {
            total_us: total_ns / 1e3,
            user_ticks,
            system_ticks,
        })
    }

    /// The part of `total_us` spent in the process' own code; good over a second or more.
    pub(super) fn user_us(&self) -> f64 {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks > 0.0 {
            self.total_us * self.user_ticks / ticks
        } else {
            0.0
        }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            total_us: self.total_us - earlier.total_us,
            user_ticks: self.user_ticks - earlier.user_ticks,
            system_ticks: self.system_ticks - earlier.system_ticks,
        }
    }
}

/// Established IPv4 connections of a process to a port of another.
pub(super) fn connections(pid: u32, port: u16) -> Result<usize> {
    let mut owned = BTreeSet::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = fs::read_link(descriptor?.path()) else {
            continue;
        };
        let name = target.to_string_lossy();
        if let Some(inode) = name
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
        {
            owned.insert(inode.to_owned());
        }
    }
    let table = fs::read_to_string("/proc/net/tcp")?;
    Ok(established_to(&table, port)
        .filter(|inode| owned.contains(*inode))
        .count())
}

/// Inodes of the sockets of `/proc/net/tcp` that are connected to `port`.
fn established_to(table: &str, port: u16) -> impl Iterator<Item = &str> {
    const ESTABLISHED: &str = "01";
    let port = format!(":{port:04X}");
    table.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let (remote, state, inode) = (fields.nth(2)?, fields.next()?, fields.nth(5)?);
        (state == ESTABLISHED && remote.ends_with(&port)).then_some(inode)
    })
}

fn first_number(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// utime and stime of `/proc/<pid>/stat`.
fn ticks(stat: &str) -> Result<(f64, f64)> {
    // The command's name, in parentheses, may itself hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ").context("stat has no name")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut next = || {
        fields
            .next()
            .and_then(|field| field.parse().ok())
            .context("stat is short")
    };
    Ok((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_follow_a_name_with_spaces_and_parentheses() {
        let stat = "8352 (a (b) c) R 8346 8346 6106 0 -1 4194368 52 0 0 0 49 7 0 0 20 0 1 0 99594";
        assert_eq!(ticks(stat).unwrap(), (49.0, 7.0));
    }

    #[test]
    fn only_established_connections_to_the_port_count() {
        let table =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1
   1: 0100007F:9C40 0100007F:18EB 01 00000000:00000000 00:00000000 00000000     0        0 101 1
   2: 0100007F:18EB 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 102 1
   3: 0100007F:9C41 0100007F:18EB 06 00000000:00000000 00:00000000 00000000     0        0 0 1";
        assert_eq!(established_to(table, 0x18EB).collect::<Vec<_>>(), ["101"]);
    }

    #[test]
    fn own_work_is_seen() {
        let pid = std::process::id();
        let before = Cpu::of(pid).unwrap();
        let spent = || (Cpu::of(pid).unwrap() - before).total_us;
        // Until it has worked for so long, however little of the machine it gets.
        let patience = std::time::Instant::now();
        while spent() < 5_000.0 {
            assert!(patience.elapsed().as_secs() < 30, "30 s of work are not seen");
        }
    }
}
