//! The timeline against what happened: each failover is told of, in the right order, and what it cost is what clients saw.

use sentinel_watcher::{Phase, Promotion};
use tokio::time::Instant;

use super::blame::{Dread, blame};
use super::ledger::{Ledger, ON_THE_WAY};
use super::world::{Published, World};
use proxy_core::FailoverRecord;

/// Finds fault, once all is calm.
pub(super) fn audit(world: &World, ledger: &Ledger) {
    let history = world.published();
    for timeline in world.handle().timelines() {
        let mut records = timeline.records();
        records.reverse();
        check_completeness(&history, &records);
        for (at, record) in records.iter().enumerate() {
            let next = records.get(at + 1).map(|next| next.failover.began);
            if let Err(what) = check(record, next, &history, ledger) {
                blame(Dread::Untold, format!("{what}: {:?}", record.fields()));
            }
            if world.is_peaceful() && record.cost.unknown > 0 {
                blame(Dread::Untold, format!("doubts in peace: {:?}", record.fields()));
            }
        }
    }
}

/// Every other primary that was published has its record.
fn check_completeness(history: &[Published], records: &[FailoverRecord]) {
    if records
        .windows(2)
        .any(|pair| pair[0].failover.number >= pair[1].failover.number)
    {
        blame(Dread::Untold, "records out of order".to_owned());
    }
    let oldest = records.first().map(|record| record.failover.began);
    let primaries = history
        .iter()
        .filter_map(|published| Some((published.at, published.shard.primary.as_ref()?)));
    let primaries: Vec<_> = primaries.collect();
    for pair in primaries.windows(2) {
        let [(_, before), (at, after)] = pair else {
            continue;
        };
        let kept = oldest.is_some_and(|oldest| oldest <= *at);
        let told = records.iter().any(|record| {
            let promotion = record.failover.promotion.as_ref();
            promotion.is_some_and(|to| to.term == after.term && to.address == after.address)
        });
        if before.address != after.address && kept && !told {
            blame(Dread::Untold, format!("nothing is told of {after:?}"));
        }
    }
}

fn check(
    record: &FailoverRecord,
    next: Option<Instant>,
    history: &[Published],
    ledger: &Ledger,
) -> Result<(), &'static str> {
    let failover = &record.failover;
    let at_its_beginning = history.iter().rfind(|published| published.at <= failover.began);
    let began = at_its_beginning.ok_or("it begins before anything was published")?;
    let primary = began.shard.primary.as_ref().map(|primary| &primary.address);
    if began.at == failover.began && began.shard.phase == Phase::Moving && primary != Some(&failover.from) {
        return Err("another one was primary");
    }
    if failover.candidate.is_none() && failover.promotion.is_some() {
        return Err("promoted without being a candidate");
    }
    if failover.end.is_none() {
        return Err("it never ended");
    }
    let Some(promotion) = &failover.promotion else {
        return match (record.fenced, record.first_write) {
            (None, None) => Ok(()),
            _ => Err("nobody was promoted, and somebody was fenced"),
        };
    };
    check_order(record, promotion)?;
    let published = history.iter().find(|published| {
        let primary = published.shard.primary.as_ref();
        primary.is_some_and(|primary| primary.term == promotion.term)
    });
    let promoted = failover.began + promotion.after;
    if let Some(published) = published {
        if published.at != promoted {
            return Err("promoted and published at different times");
        }
        if record.fenced.is_none() {
            return Err("nobody fenced the former primary");
        }
    }
    // Who is let go and held again at once is the next one's.
    let settled = next.is_none_or(|next| next > promoted + ON_THE_WAY * 10);
    let waiting = ledger.waiting(failover.began + ON_THE_WAY, promoted);
    if settled && record.cost.held < waiting.len() as u64 {
        return Err("more sessions waited than are counted");
    }
    Ok(())
}

fn check_order(record: &FailoverRecord, promotion: &Promotion) -> Result<(), &'static str> {
    let failover = &record.failover;
    let candidate = failover.candidate.as_ref().map(|(_, named)| *named);
    if candidate > Some(promotion.after) {
        return Err("promoted before it was a candidate");
    }
    if record.fenced.is_some_and(|fenced| fenced < promotion.after) {
        return Err("fenced before the promotion");
    }
    if record.first_write.is_some() && record.first_write < record.fenced {
        return Err("the new primary took a write before the former one was fenced");
    }
    match failover.end {
        Some((_, ended)) if ended < promotion.after => Err("it ended before the promotion"),
        _ => Ok(()),
    }
}
