//! The commands of a fake node that are about more than keys: AUTH, MULTI, SUBSCRIBE, what blocks.

mod session;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use resp_codec::{CommandFlags, write};
use tokio::time::Instant;

use super::data::{Data, Key};
use super::state::{Out, State, parse};

/// What a command leads to.
pub(super) enum Answer {
    Reply(BytesMut),
    Block {
        wish: Wish,
        until: Option<Instant>,
        none: Bytes,
    },
    /// After +OK.
    Close,
}

/// What a blocked client waits for.
pub(super) enum Wish {
    /// An element of the first of these lists that has one.
    Pop { keys: Vec<Key>, first: bool },
    /// An element to be moved.
    Move { from: Key, to: Key },
    /// What a stream has past this number.
    Read { key: Key, after: u64 },
    /// So many replicas that have so much of the stream.
    Replicas { count: usize, offset: u64 },
}

/// A command that does to a replica's keys what was done here.
type Effect = (u32, Vec<Bytes>);

const NOAUTH: &str = "NOAUTH Authentication required.";
// === impl State ===

impl State {
    /// Executes one command for connection `id`, or queues it.
    pub(super) fn execute(&mut self, id: u64, args: &[Bytes]) -> Answer {
        let mut out = BytesMut::new();
        let command = parse(args);
        let name = command.spec().name;
        let asks = self.users.contains_key("default");
        let connection = self.connection(id);
        if asks && connection.user.is_none() && !command.spec().flags.contains(CommandFlags::NO_AUTH) {
            write::error(&mut out, NOAUTH);
            return Answer::Reply(out);
        }
        let queues = connection.queue.is_some()
            && !matches!(name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset");
        if !command.arity_ok() {
            connection.spoiled = queues;
            write::error(
                &mut out,
                &format!("ERR wrong number of arguments for '{name}' command"),
            );
            return Answer::Reply(out);
        }
        if !connection.resp3 && connection.is_subscribed() && !may_subscribers(name) {
            write::error(&mut out, &format!("ERR Can't execute '{name}' while subscribed"));
            return Answer::Reply(out);
        }
        if name == "exec" {
            return Answer::Reply(self.exec(id));
        }
        if name == "replconf" {
            let offset = args.get(2).and_then(|offset| std::str::from_utf8(offset).ok());
            self.connection(id).acknowledged =
                offset.and_then(|offset| offset.parse().ok()).unwrap_or_default();
            self.serve_waiters();
            return Answer::Reply(out);
        }
        if let Some(refusal) = self.refusal(args) {
            self.connection(id).spoiled |= queues;
            write::error(&mut out, refusal);
            return Answer::Reply(out);
        }
        if queues {
            let line = self.line(id, args);
            self.check_owner(&line);
            let queue = self.connection(id).queue.as_mut().expect("just seen");
            queue.push(args.to_vec());
            write::simple(&mut out, "QUEUED");
            return Answer::Reply(out);
        }
        if command.may_block() {
            return self.block(id, name, args);
        }
        if name == "wait" {
            return self.wait(id, args);
        }
        if name == "quit" {
            return Answer::Close;
        }
        Answer::Reply(self.call(id, name, args))
    }

    /// Executes a command that neither blocks nor queues.
    fn call(&mut self, id: u64, name: &str, args: &[Bytes]) -> BytesMut {
        self.note_executed(id, args);
        let connection = self.connection(id);
        let (db, resp3) = (connection.db, connection.resp3);
        let applied = self.data.borrow_mut().apply(db, resp3, args);
        if let Some(reply) = applied {
            if parse(args).spec().flags.contains(CommandFlags::WRITE) || name == "eval" {
                self.propagate(db, args);
                self.note_written(id);
                self.invalidate();
            } else if name == "get" {
                self.track(id, (db, args[1].clone()));
            }
            self.serve_waiters();
            return reply;
        }
        let mut out = BytesMut::new();
        match name {
            "ping" => self.ping(id, args, &mut out),
            "echo" => write::bulk(&mut out, Some(&args[1])),
            "multi" if self.connection(id).queue.is_some() => {
                write::error(&mut out, "ERR MULTI calls can not be nested");
            }
            "multi" => {
                self.connection(id).queue = Some(Vec::new());
                write::simple(&mut out, "OK");
            }
            "discard" if self.connection(id).queue.is_none() => {
                write::error(&mut out, "ERR DISCARD without MULTI");
            }
            "discard" => {
                self.end_transaction(id);
                write::simple(&mut out, "OK");
            }
            "watch" if self.connection(id).queue.is_some() => {
                write::error(&mut out, "ERR WATCH inside MULTI is not allowed");
            }
            "watch" => {
                let line = self.line(id, args);
                for key in &args[1..] {
                    let key = (db, key.clone());
                    let touched = self.data.borrow().touched(&key);
                    self.connection(id).watched.push((key, touched));
                }
                self.check_owner(&line);
                write::simple(&mut out, "OK");
            }
            "unwatch" => {
                self.connection(id).watched.clear();
                write::simple(&mut out, "OK");
            }
            "wait" => write::integer(&mut out, 1),
            "role" => self.role(&mut out),
            "psync" => self.admit_replica(id, &mut out),
            "publish" => {
                // It reaches replicas, too.
                self.note_written(id);
                write::integer(&mut out, self.publish(&args[1], &args[2]));
            }
            "subscribe" | "psubscribe" | "unsubscribe" | "punsubscribe" => {
                self.subscribe(id, name, &args[1..], &mut out);
            }
            "blpop" | "brpop" | "blmove" | "xread" => write::null_array(&mut out, self.connection(id).resp3),
            _ => self.call_session(id, name, args, &mut out),
        }
        out
    }

    /// WAIT covers what this connection has written.
    fn wait(&mut self, id: u64, args: &[Bytes]) -> Answer {
        let number = |at: usize| std::str::from_utf8(&args[at]).unwrap().parse::<u64>().unwrap();
        let (count, millis) = (number(1) as usize, number(2));
        let offset = self.connection(id).written;
        if let Some(reply) = self.vouched(count, offset) {
            return Answer::Reply(BytesMut::from(&reply[..]));
        }
        Answer::Block {
            wish: Wish::Replicas { count, offset },
            until: (millis > 0).then(|| Instant::now() + Duration::from_millis(millis)),
            none: Bytes::from_static(b":0\r\n"),
        }
    }

    fn note_written(&mut self, id: u64) {
        let offset = self.offset();
        self.connection(id).written = offset;
    }

    /// Connection `id` has just read a key, and may be told when that changes.
    fn track(&mut self, id: u64, key: Key) {
        let touched = self.data.borrow().touched(&key);
        if let Some(tracked) = &mut self.connection(id).tracked {
            tracked.insert(key, touched);
        }
    }

    /// Whoever has read what has been touched since is told so, once.
    fn invalidate(&mut self) {
        let data = self.data.borrow();
        for connection in self.connections.values_mut() {
            let Some(tracked) = &mut connection.tracked else {
                continue;
            };
            tracked.retain(|key, seen| {
                let stays = data.touched(key) == *seen;
                if !stays {
                    let mut out = BytesMut::new();
                    write::push_header(&mut out, connection.resp3, 2);
                    write::bulk(&mut out, Some(b"invalidate"));
                    write::array_header(&mut out, 1);
                    write::bulk(&mut out, Some(&key.1));
                    let _ = connection.out.send(Out::Bytes(out.freeze(), Instant::now()));
                }
                stays
            });
        }
    }

    fn ping(&mut self, id: u64, args: &[Bytes], out: &mut BytesMut) {
        let connection = self.connection(id);
        let word = args.get(1);
        if connection.is_subscribed() && !connection.resp3 {
            write::array_header(out, 2);
            write::bulk(out, Some(b"pong"));
            write::bulk(out, Some(word.map_or(b"", |word| &word[..])));
        } else if let Some(word) = word {
            write::bulk(out, Some(word));
        } else {
            write::simple(out, "PONG");
        }
    }

    fn exec(&mut self, id: u64) -> BytesMut {
        let mut out = BytesMut::new();
        let connection = self.connection(id);
        let (resp3, spoiled) = (connection.resp3, connection.spoiled);
        let Some(queue) = connection.queue.clone() else {
            write::error(&mut out, "ERR EXEC without MULTI");
            return out;
        };
        let watched = std::mem::take(&mut connection.watched);
        self.end_transaction(id);
        let refusal = queue.iter().find_map(|args| self.refusal(args));
        let touched = |(key, seen): &(Key, u64)| self.data.borrow().touched(key) != *seen;
        if spoiled {
            write::error(
                &mut out,
                "EXECABORT Transaction discarded because of previous errors.",
            );
        } else if let Some(refusal) = refusal {
            write::error(
                &mut out,
                &format!("EXECABORT Transaction discarded because of: {refusal}"),
            );
        } else if watched.iter().any(touched) {
            write::null_array(&mut out, resp3);
        } else {
            write::array_header(&mut out, queue.len());
            self.begin_block();
            for args in queue {
                let reply = self.call(id, parse(&args).spec().name, &args);
                out.extend_from_slice(&reply);
            }
            self.end_block();
            self.note_written(id);
        }
        out
    }

    fn end_transaction(&mut self, id: u64) {
        let connection = self.connection(id);
        connection.queue = None;
        connection.spoiled = false;
        connection.watched.clear();
    }

    fn block(&mut self, id: u64, name: &str, args: &[Bytes]) -> Answer {
        let connection = self.connection(id);
        let (db, resp3) = (connection.db, connection.resp3);
        let key = |at: usize| (db, args[at].clone());
        let seconds = |text: &Bytes| std::str::from_utf8(text).unwrap().parse::<f64>().unwrap();
        let mut none = BytesMut::new();
        write::null_array(&mut none, resp3);
        let last = args.len() - 1;
        let (wish, timeout) = match name {
            "blpop" | "brpop" => {
                let keys = (1..last).map(key).collect();
                let first = name == "blpop";
                (Wish::Pop { keys, first }, seconds(&args[last]))
            }
            "blmove" => {
                let (from, to) = (key(1), key(2));
                (Wish::Move { from, to }, seconds(&args[last]))
            }
            "xread" => {
                // XREAD BLOCK millis STREAMS key id
                let key = key(4);
                let after = match &args[5][..] {
                    b"$" => self.data.borrow().newest(&key),
                    number => seconds(&Bytes::copy_from_slice(
                        number.split(|byte| *byte == b'-').next().unwrap(),
                    )) as u64,
                };
                (Wish::Read { key, after }, seconds(&args[2]) / 1000.0)
            }
            _ => panic!("{name} is not faked"),
        };
        let granted = wish.grant(&mut self.data.borrow_mut());
        if let Some((reply, effects)) = granted {
            self.note_executed(id, args);
            for (db, args) in effects {
                self.propagate(db, &args);
            }
            self.note_written(id);
            self.serve_waiters();
            return Answer::Reply(BytesMut::from(&reply[..]));
        }
        let until = (timeout > 0.0).then(|| Instant::now() + Duration::from_secs_f64(timeout));
        let none = none.freeze();
        Answer::Block { wish, until, none }
    }

    /// Who hears a message.
    fn publish(&mut self, channel: &Bytes, message: &Bytes) -> i64 {
        let mut heard = 0;
        for connection in self.connections.values() {
            let mut out = BytesMut::new();
            if connection.channels.contains(channel) {
                write::push_header(&mut out, connection.resp3, 3);
                write::bulk(&mut out, Some(b"message"));
                write::bulk(&mut out, Some(channel));
                write::bulk(&mut out, Some(message));
                heard += 1;
            }
            for pattern in &connection.patterns {
                if channel.starts_with(pattern.strip_suffix(b"*").unwrap_or(pattern)) {
                    write::push_header(&mut out, connection.resp3, 4);
                    write::bulk(&mut out, Some(b"pmessage"));
                    write::bulk(&mut out, Some(pattern));
                    write::bulk(&mut out, Some(channel));
                    write::bulk(&mut out, Some(message));
                    heard += 1;
                }
            }
            if !out.is_empty() {
                let _ = connection.out.send(Out::Bytes(out.freeze(), Instant::now()));
            }
        }
        heard
    }

    fn subscribe(&mut self, id: u64, name: &str, named: &[Bytes], out: &mut BytesMut) {
        let connection = self.connection(id);
        let joins = matches!(name, "subscribe" | "psubscribe");
        let set = match name {
            "subscribe" | "unsubscribe" => &connection.channels,
            _ => &connection.patterns,
        };
        let mut named: Vec<_> = named.iter().cloned().map(Some).collect();
        if named.is_empty() {
            named = set.iter().cloned().map(Some).collect();
        }
        if named.is_empty() {
            named = vec![None];
        }
        for channel in named {
            let set = match name {
                "subscribe" | "unsubscribe" => &mut connection.channels,
                _ => &mut connection.patterns,
            };
            match &channel {
                Some(channel) if joins => drop(set.insert(channel.clone())),
                Some(channel) => drop(set.remove(channel)),
                None => {}
            }
            write::push_header(out, connection.resp3, 3);
            write::bulk(out, Some(name.as_bytes()));
            write::bulk(out, channel.as_deref());
            write::integer(
                out,
                (connection.channels.len() + connection.patterns.len()) as i64,
            );
        }
    }
}

// === impl Wish ===

impl Wish {
    /// What it waits for, if that has come; and what this does to the keys.
    pub(super) fn grant(&self, data: &mut Data) -> Option<(Bytes, Vec<Effect>)> {
        let mut out = BytesMut::new();
        let pop = |key: &Key, first: bool| {
            let name = if first { &b"LPOP"[..] } else { b"RPOP" };
            (key.0, vec![Bytes::from_static(name), key.1.clone()])
        };
        let mut effects = Vec::new();
        match self {
            Self::Pop { keys, first } => {
                let (key, value) = keys.iter().find_map(|key| Some((key, data.pop(key, *first)?)))?;
                write::array_header(&mut out, 2);
                write::bulk(&mut out, Some(&key.1));
                write::bulk(&mut out, Some(&value));
                effects.push(pop(key, *first));
            }
            Self::Move { from, to } => {
                let value = data.pop(from, true)?;
                data.push(to, value.clone(), false);
                write::bulk(&mut out, Some(&value));
                effects.push(pop(from, true));
                let push = [Bytes::from_static(b"RPUSH"), to.1.clone(), value];
                effects.push((to.0, push.to_vec()));
            }
            Self::Read { key, after } => return Some((data.read_stream(key, *after)?, effects)),
            Self::Replicas { .. } => return None,
        }
        Some((out.freeze(), effects))
    }
}

/// What a RESP2 connection may say while it is subscribed.
fn may_subscribers(name: &str) -> bool {
    name.ends_with("subscribe") || matches!(name, "ping" | "quit" | "reset")
}
