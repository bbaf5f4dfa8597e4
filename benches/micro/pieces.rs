//! `cargo bench -p slipring-benches`: the time that each counted piece of the hot path takes.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slipring_benches::counted::{COMMANDS, Case};

fn pieces(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pieces");
    group
        .throughput(Throughput::Elements(COMMANDS as u64))
        .measurement_time(Duration::from_secs(2));
    for case in Case::ALL {
        let mut prepared = case.prepare().expect("a worker in memory");
        group.bench_function(case.name(), |bencher| {
            bencher.iter(|| prepared.run().expect("replies as expected"));
        });
    }
    group.finish();
}

criterion_group!(all, pieces);
criterion_main!(all);
