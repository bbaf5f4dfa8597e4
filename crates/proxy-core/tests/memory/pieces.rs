//! Replies that come in pieces, over the shared connection: each whole, in its place, and nobody else's.

use crate::common::world::{World, run};

/// Bytes of values around what is kept until it is complete, and around what is read at once.
const LENGTHS: [usize; 9] = [
    3, 30_000, 65_520, 65_536, 70_000, 131_050, 131_072, 200_000, 500_000,
];

/// A value that tells where in it a piece is from, and of which length it is.
fn value(len: usize) -> Vec<u8> {
    (0..len / 4 + 1)
        .flat_map(|at| ((at * 31 + len) as u32).to_le_bytes())
        .take(len)
        .collect()
}

fn reply(len: usize) -> Vec<u8> {
    [format!("${len}\r\n").as_bytes(), &value(len), b"\r\n"].concat()
}

fn put_values(world: &World) {
    for len in LENGTHS {
        world.a.put(&len.to_string(), &value(len));
    }
}

/// GETs of all lengths by turns, `round` of them later than in the first round.
fn in_turn(round: usize) -> impl Iterator<Item = usize> {
    LENGTHS.into_iter().cycle().skip(round).take(LENGTHS.len())
}

#[test]
fn each_is_whole_and_in_its_place() {
    run(async |world| {
        put_values(world);
        let mut clients = [
            world.client(),
            world.narrow_client(1000),
            world.narrow_client(64 << 10),
        ];
        for round in 0..LENGTHS.len() {
            let gets: Vec<_> = in_turn(round).map(|len| format!("GET {len}")).collect();
            for client in &mut clients {
                client.send(&gets.join("; ")).await;
            }
            for client in &mut clients {
                for len in in_turn(round) {
                    assert!(client.frame().await == reply(len), "round {round}, {len} bytes");
                }
            }
        }
    });
}

#[test]
fn one_that_is_kept_from_its_client_is_all_kept_and_nothing_else() {
    run(async |world| {
        put_values(world);
        let mut client = world.client();
        for round in 0..LENGTHS.len() {
            let mut expected = Vec::new();
            for (at, len) in in_turn(round).enumerate() {
                if at % 2 == 0 {
                    client.send_bytes(b"CLIENT REPLY SKIP\r\n").await;
                } else {
                    expected.push(len);
                }
                client.send(&format!("GET {len}")).await;
            }
            for len in expected {
                assert!(client.frame().await == reply(len), "round {round}, {len} bytes");
            }
        }
    });
}
