//! What both failovers cost, and whether that is what slipring promises.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use testkit::load::{History, Outcome, Phase, Verdict};

const LONGEST_PLANNED_PAUSE: Duration = Duration::from_millis(400);
const LONGEST_RETURN: Duration = Duration::from_millis(200);

/// When the acts of the demo began and what they led to.
pub(super) struct Moments {
    /// The order for the planned failover.
    pub(super) planned: Instant,
    /// The new primary's ROLE said so.
    pub(super) planned_promotion: Instant,
    /// The old one was a replica in sync. What is acknowledged from here on, the kill may lose.
    pub(super) planned_end: Instant,
    /// The killed primary was dead.
    pub(super) gone: Instant,
    /// Its successor's ROLE said so.
    pub(super) kill_promotion: Instant,
    /// The load was told to end.
    pub(super) end: Instant,
}

/// One failover.
pub(super) struct Column {
    title: &'static str,
    phase: Phase,
    /// From the promotion to the first acknowledged write that stayed.
    back_after: Option<Duration>,
    /// What was not as promised.
    pub(super) broken: Vec<String>,
}

// === impl Column ===

impl Column {
    pub(super) fn planned(history: &History, verdict: &Verdict, moments: &Moments) -> Self {
        let phase = history.phase(verdict, moments.planned, moments.planned_end);
        let mut column = Self::new(
            "planned failover",
            history,
            verdict,
            phase,
            moments.planned_promotion,
        );
        column.expect_none("unknown outcomes", column.phase.unknown_count());
        column.expect_none("acknowledged writes lost", column.phase.lost);
        column.expect_none("ids of the queue given out twice", column.phase.redelivered);
        if column.phase.longest_pause >= LONGEST_PLANNED_PAUSE {
            column.broken.push(format!(
                "planned failover: the longest pause was {}, promised is less than {}",
                time(column.phase.longest_pause),
                time(LONGEST_PLANNED_PAUSE),
            ));
        }
        column
    }

    pub(super) fn kill(history: &History, verdict: &Verdict, moments: &Moments) -> Self {
        let phase = history.phase(verdict, moments.planned_end, moments.end);
        let mut column = Self::new("kill -9", history, verdict, phase, moments.kill_promotion);
        // What the dead primary had acknowledged and not yet replicated is lost by Redis itself.
        let sent_later = |index: &&usize| history.operations[**index].sent >= moments.gone;
        column.expect_none(
            "writes lost that were sent after the kill",
            verdict.lost.iter().filter(sent_later).count(),
        );
        let not_in_flight = history
            .window(moments.planned_end, moments.end)
            .filter(|(_, operation)| {
                matches!(operation.outcome, Outcome::Unknown(_)) && operation.sent >= moments.kill_promotion
            });
        column.expect_none(
            "unknown outcomes of writes sent after the promotion",
            not_in_flight.count(),
        );
        match column.back_after {
            Some(after) if after <= LONGEST_RETURN => {}
            after => column.broken.push(format!(
                "kill -9: service was back {} after the promotion, promised are {}",
                after.map_or("never".to_owned(), time),
                time(LONGEST_RETURN),
            )),
        }
        column
    }

    /// With what holds for both.
    fn new(
        title: &'static str,
        history: &History,
        verdict: &Verdict,
        phase: Phase,
        promotion: Instant,
    ) -> Self {
        let first = history.first_write_after(verdict, promotion);
        let mut column = Self {
            title,
            phase,
            back_after: first.map(|first| first - promotion),
            broken: Vec::new(),
        };
        column.expect_none("errors", column.phase.error_count());
        for (text, times) in &column.phase.errors {
            column.broken.push(format!("{title}: {times} x {text}"));
        }
        column.expect_none("dropped connections", column.phase.dropped);
        column.expect_none("writes executed twice", column.phase.doubled);
        column.expect_none(
            "writes refused and executed all the same",
            column.phase.contradicted,
        );
        column
    }

    fn expect_none(&mut self, what: &str, count: usize) {
        if count > 0 {
            self.broken.push(format!("{}: {count} {what}", self.title));
        }
    }
}

pub(super) fn render(columns: &[Column]) -> String {
    let mut text = String::from("\n");
    let mut row = |name: &str, cell: &dyn Fn(&Column) -> String| {
        let cells: String = columns
            .iter()
            .map(|column| format!("{:>20}", cell(column)))
            .collect();
        let _ = writeln!(text, "{name:<36}{cells}");
    };
    row("", &|column| column.title.to_owned());
    row("operations", &|column| column.phase.operations.to_string());
    row("acknowledged writes", &|column| {
        column.phase.acknowledged_writes.to_string()
    });
    row("errors", &|column| column.phase.error_count().to_string());
    row("unknown outcomes (in flight)", &|column| {
        column.phase.unknown_count().to_string()
    });
    row("dropped connections", &|column| column.phase.dropped.to_string());
    row("acknowledged writes lost", &|column| {
        column.phase.lost.to_string()
    });
    row("writes executed twice", &|column| {
        column.phase.doubled.to_string()
    });
    row("longest pause", &|column| time(column.phase.longest_pause));
    row("first write after the promotion", &|column| {
        column.back_after.map_or("never".to_owned(), time)
    });
    row("as promised", &|column| {
        if column.broken.is_empty() { "yes" } else { "NO" }.to_owned()
    });
    text
}

fn time(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}
