//! What a fake node keeps: keys of a few kinds, and the commands upon them.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use resp_codec::write;

/// Database and name.
pub type Key = (u32, Bytes);

/// The keys of all databases. Nodes that replicate from each other share one, until they are told apart.
#[derive(Clone, Default)]
pub struct Data {
    keys: BTreeMap<Key, Value>,
    /// When a key was last touched, for WATCH.
    touched: BTreeMap<Key, u64>,
    clock: u64,
}

#[derive(Clone)]
enum Value {
    Text(Bytes),
    List(VecDeque<Bytes>),
    /// Entries by their number: `7-0` is entry 7.
    Stream(Vec<(u64, Vec<Bytes>)>),
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

// === impl Data ===

impl Data {
    /// What a key holds, where that is text.
    pub fn text(&self, db: u32, key: &str) -> Option<Bytes> {
        match self.keys.get(&(db, Bytes::copy_from_slice(key.as_bytes())))? {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// What a key holds, where that is a list.
    pub fn list(&self, db: u32, key: &str) -> Vec<Bytes> {
        match self.keys.get(&(db, Bytes::copy_from_slice(key.as_bytes()))) {
            Some(Value::List(list)) => list.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Puts a text.
    pub fn set(&mut self, db: u32, key: &str, value: &[u8]) {
        let key = (db, Bytes::copy_from_slice(key.as_bytes()));
        self.keys
            .insert(key.clone(), Value::Text(Bytes::copy_from_slice(value)));
        self.touch(&key);
    }

    /// When a key was last touched; 0 for never.
    pub fn touched(&self, key: &Key) -> u64 {
        self.touched.get(key).copied().unwrap_or_default()
    }

    /// The reply to a command upon keys. `None`: no such command.
    pub fn apply(&mut self, db: u32, resp3: bool, args: &[Bytes]) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        let name = args[0].to_ascii_lowercase();
        let key = (db, args.get(1).cloned().unwrap_or_default());
        match (&name[..], &args[1..]) {
            (b"set", [_, value, ..]) => {
                self.keys.insert(key.clone(), Value::Text(value.clone()));
                self.touch(&key);
                write::simple(&mut out, "OK");
            }
            (b"get", [_]) => match self.keys.get(&key) {
                Some(Value::Text(text)) => write::bulk(&mut out, Some(text)),
                Some(_) => write::error(&mut out, WRONG_TYPE),
                None => write::null(&mut out, resp3),
            },
            (b"del", keys) => {
                let gone = keys.iter().filter(|name| {
                    let key = (db, (*name).clone());
                    self.touch(&key);
                    self.keys.remove(&key).is_some()
                });
                let gone = gone.count();
                write::integer(&mut out, gone as i64);
            }
            // A script that does what its name says: it writes, and may then return a refusal's very words.
            (b"eval", [script, _, _, value]) if script.starts_with(b"push") => {
                let key = (db, args[3].clone());
                self.push(&key, value.clone(), false);
                match &script[..] {
                    b"push-then-refuse" => {
                        write::error(&mut out, "READONLY You can't write against a read only replica.");
                    }
                    _ => write::integer(&mut out, self.list_mut(&key).len() as i64),
                }
            }
            (b"incr" | b"eval", _) => self.increment(&key, &mut out),
            (b"rpush" | b"lpush", [_, values @ ..]) => {
                for value in values {
                    self.push(&key, value.clone(), name == b"lpush");
                }
                write::integer(&mut out, self.list_mut(&key).len() as i64);
            }
            (b"lpop" | b"rpop", [_]) => match self.pop(&key, name == b"lpop") {
                Some(value) => write::bulk(&mut out, Some(&value)),
                None => write::null(&mut out, resp3),
            },
            (b"llen", [_]) => write::integer(&mut out, self.list_mut(&key).len() as i64),
            (b"lrange", [_, _, _]) => {
                let list = self.list_mut(&key);
                write::array_header(&mut out, list.len());
                list.iter().for_each(|value| write::bulk(&mut out, Some(value)));
            }
            (b"xadd", [_, _, fields @ ..]) => self.add_to_stream(&key, fields, &mut out),
            _ => return None,
        }
        Some(out)
    }

    fn increment(&mut self, key: &Key, out: &mut BytesMut) {
        let before = self.text(key.0, std::str::from_utf8(&key.1).unwrap());
        let number = before.map_or(Ok(0), |text| std::str::from_utf8(&text).unwrap().parse::<i64>());
        match number {
            Ok(number) => {
                let text = Bytes::from((number + 1).to_string());
                self.keys.insert(key.clone(), Value::Text(text));
                self.touch(key);
                write::integer(out, number + 1);
            }
            Err(_) => write::error(out, "ERR value is not an integer or out of range"),
        }
    }

    fn add_to_stream(&mut self, key: &Key, fields: &[Bytes], out: &mut BytesMut) {
        let number = self.clock + 1;
        let stream = self.keys.entry(key.clone()).or_insert(Value::Stream(Vec::new()));
        match stream {
            Value::Stream(entries) => {
                entries.push((number, fields.to_vec()));
                write::bulk(out, Some(format!("{number}-0").as_bytes()));
                self.touch(key);
            }
            _ => write::error(out, WRONG_TYPE),
        }
    }

    /// Takes the first or last element of a list.
    pub fn pop(&mut self, key: &Key, first: bool) -> Option<Bytes> {
        if !matches!(self.keys.get(key), Some(Value::List(_))) {
            return None;
        }
        let list = self.list_mut(key);
        let value = if first { list.pop_front() } else { list.pop_back() };
        if list.is_empty() {
            self.keys.remove(key);
        }
        self.touch(key);
        value
    }

    /// Puts a value first or last into a list.
    pub fn push(&mut self, key: &Key, value: Bytes, first: bool) {
        let list = self.list_mut(key);
        if first {
            list.push_front(value);
        } else {
            list.push_back(value);
        }
        self.touch(key);
    }

    /// XREAD's reply with what a stream has past `after`, where it has something.
    pub fn read_stream(&self, key: &Key, after: u64) -> Option<Bytes> {
        let Some(Value::Stream(entries)) = self.keys.get(key) else {
            return None;
        };
        let fresh: Vec<_> = entries.iter().filter(|(number, _)| *number > after).collect();
        if fresh.is_empty() {
            return None;
        }
        let mut out = BytesMut::new();
        write::array_header(&mut out, 1);
        write::array_header(&mut out, 2);
        write::bulk(&mut out, Some(&key.1));
        write::array_header(&mut out, fresh.len());
        for (number, fields) in fresh {
            write::array_header(&mut out, 2);
            write::bulk(&mut out, Some(format!("{number}-0").as_bytes()));
            write::array_header(&mut out, fields.len());
            fields.iter().for_each(|field| write::bulk(&mut out, Some(field)));
        }
        Some(out.freeze())
    }

    /// The number of a stream's newest entry.
    pub fn newest(&self, key: &Key) -> u64 {
        match self.keys.get(key) {
            Some(Value::Stream(entries)) => entries.last().map_or(0, |(number, _)| *number),
            _ => 0,
        }
    }

    fn list_mut(&mut self, key: &Key) -> &mut VecDeque<Bytes> {
        let value = self
            .keys
            .entry(key.clone())
            .or_insert_with(|| Value::List(VecDeque::new()));
        match value {
            Value::List(list) => list,
            _ => panic!("{key:?} is no list; the fake does not bother"),
        }
    }

    fn touch(&mut self, key: &Key) {
        self.clock += 1;
        self.touched.insert(key.clone(), self.clock);
    }
}
