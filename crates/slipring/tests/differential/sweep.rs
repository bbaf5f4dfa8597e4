//! Every command that any server knows, with too few arguments, some and too many; alone, in transactions and in
//! subscribed sessions, in RESP2 and RESP3.

use regex::bytes::Regex;
use resp_codec::spec::TABLE;

use super::scenario::{Act, Scenario, Step};

/// What is not asked, of any server: where the words stand in the command, it is passed over.
const LEFT_OUT: &[(&str, &str)] = &[
    ("SHUTDOWN", "it would end the server"),
    ("SYNC", "a stream of its own: see the scenario"),
    ("PSYNC", "a stream of its own: see the scenario"),
    ("MONITOR", "it hears who watches the node: see the scenario"),
    ("REPLICAOF k 1", "the node would follow a host that is none"),
    ("SLAVEOF k 1", "the node would follow a host that is none"),
    ("BGSAVE", "its answer depends on when the last one ended"),
    ("BGREWRITEAOF", "its answer depends on when the last one ended"),
    ("SAVE", "its answer depends on when the last one ended"),
    ("PFSELFTEST", "it takes a second"),
    ("LATENCY HISTOGRAM", "it counts what else was asked of the node"),
    ("CLUSTER RESET", "no cluster, nothing to see"),
];

/// What cannot be the same for two servers, and the pattern of it.
const MASKED: &[(&str, &str)] = &[
    ("TIME", "[0-9]+"),
    ("LASTSAVE", "[0-9]+"),
    ("INFO", "(?s).*"),
    ("LOLWUT", "(?s).*"),
    ("ROLE", "[0-9]+"),
    ("HELLO", "^[0-9]+$"),
    ("CLIENT ID", "^[0-9]+$"),
    ("CLIENT LIST", "(?s).*"),
    (
        "CLIENT INFO",
        "(id|addr|laddr|fd|age|idle|qbuf|qbuf-free|argv-mem|multi|multi-mem|rbs|rbp|obl|oll|omem|tot-mem|tot-net-in|tot-net-out|tot-cmds|events|sub|watch)=[^ ]*",
    ),
    ("MEMORY STATS", "(?s).*"),
    ("MEMORY MALLOC-STATS", "(?s).*"),
    ("MEMORY DOCTOR", "(?s).*"),
    ("LATENCY", "(?s).*"),
    ("SLOWLOG", "(?s).*"),
    ("COMMANDLOG", "(?s).*"),
    ("ACL GENPASS", "(?s).*"),
    ("ACL LOG", "(?s).*"),
    ("ACL LIST", "(?s).*"),
    ("CONFIG GET", "(?s).*"),
    ("CLUSTER MYID", "(?s).*"),
];

/// What stands before and behind the command in question.
const PLACES: &[(&str, &[&str], &[&str])] = &[
    ("in MULTI", &["A MULTI"], &["A EXEC"]),
    ("in MULTI at once", &["A+ MULTI"], &["A EXEC"]),
    ("watching", &["A WATCH w"], &["A MULTI", "A EXEC"]),
    ("subscribed", &["A SUBSCRIBE c"], &["A UNSUBSCRIBE c"]),
    ("RESP3", &["A HELLO 3"], &[]),
    ("RESP3 and subscribed", &["A HELLO 3", "A SSUBSCRIBE c"], &[]),
];

/// All of it, as scenarios.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for spec in TABLE.iter().filter(|spec| spec.name != "other") {
        let name = spec.name.to_uppercase().replace('|', " ");
        let many = [" 1"; 12].concat();
        for arguments in ["", " k", " k 1", " HELP", many.as_str()] {
            all.extend(scenario("alone", &[], &format!("{name}{arguments}"), &[]));
        }
        let enough =
            " k".repeat((spec.arity.unsigned_abs() as usize).saturating_sub(name.split(' ').count()));
        for (place, before, behind) in PLACES {
            for arguments in [enough.as_str(), " HELP"] {
                all.extend(scenario(place, before, &format!("{name}{arguments}"), behind));
            }
        }
    }
    all
}

fn scenario(place: &str, before: &[&str], command: &str, behind: &[&str]) -> Option<Scenario> {
    let concerns = |words: &str| command == words || command.starts_with(&format!("{words} "));
    if LEFT_OUT.iter().any(|(words, _)| concerns(words)) {
        return None;
    }
    let masks = MASKED.iter().filter(|(words, _)| concerns(words));
    let mut scenario = Scenario {
        name: format!("{place}: {command}"),
        masks: masks
            .map(|(_, mask)| Regex::new(mask).expect("a pattern of this table"))
            .collect(),
        unordered: true,
        ..Scenario::default()
    };
    let mut add = |line: &str| match line.strip_prefix("A+ ") {
        Some(kept) => scenario.steps.push(Step::Client('A', Act::Keep(kept.to_owned()))),
        None => {
            let line = line.strip_prefix("A ").unwrap_or(line);
            scenario.steps.push(Step::Client('A', Act::Say(line.to_owned())));
        }
    };
    before.iter().for_each(|line| add(line));
    add(&if before.iter().any(|line| line.starts_with("A+")) {
        format!("A+ {command}")
    } else {
        format!("A {command}")
    });
    behind.iter().for_each(|line| add(line));
    Some(scenario)
}
