//! What a fake Redis answers to whoever changes his connection: AUTH HELLO SELECT RESET and CLIENT.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use resp_codec::write;

use crate::sim::state::State;

/// Databases of a node.
const DATABASES: u32 = 16;

const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

impl State {
    /// AUTH HELLO SELECT RESET and CLIENT, and what makes a password.
    pub(super) fn call_session(&mut self, id: u64, name: &str, args: &[Bytes], out: &mut BytesMut) {
        match name {
            "auth" => self.auth(id, args, out),
            "hello" => self.hello(id, args, out),
            "select" => match std::str::from_utf8(&args[1]).unwrap().parse() {
                Ok(db) if db < DATABASES => {
                    self.connection(id).db = db;
                    write::simple(out, "OK");
                }
                Ok(_) => write::error(out, "ERR DB index is out of range"),
                Err(_) => write::error(out, "ERR value is not an integer or out of range"),
            },
            "reset" => self.reset(id, out),
            // Of both only what gives "default" a password, as the last argument.
            "config|set" | "acl|setuser" => {
                let password = String::from_utf8_lossy(args.last().expect("its name"));
                let password = password.trim_start_matches('>').to_owned();
                self.users.insert("default".to_owned(), password);
                write::simple(out, "OK");
            }
            _ => match name.strip_prefix("client|") {
                Some(what) => self.client(id, what, args, out),
                None => write::error(out, &unknown(args)),
            },
        }
    }

    fn auth(&mut self, id: u64, args: &[Bytes], out: &mut BytesMut) {
        let (user, password) = match args {
            [_, password] => ("default", password),
            [_, user, password] => (std::str::from_utf8(user).unwrap(), password),
            _ => return write::error(out, "ERR syntax error"),
        };
        let right = self.users.get(user);
        if right.is_some_and(|right| right.as_bytes() == &password[..]) {
            self.connection(id).user = Some(user.to_owned());
            write::simple(out, "OK");
        } else {
            write::error(out, WRONGPASS);
        }
    }

    fn hello(&mut self, id: u64, args: &[Bytes], out: &mut BytesMut) {
        let connection = self.connection(id);
        if connection.user.is_none() {
            let refusal = "NOAUTH HELLO must be called with the client already authenticated";
            return write::error(out, refusal);
        }
        connection.resp3 = args.get(1).is_some_and(|version| &version[..] == b"3");
        write::map_header(out, connection.resp3, 2);
        write::bulk(out, Some(b"server"));
        write::bulk(out, Some(b"redis"));
        write::bulk(out, Some(b"id"));
        write::integer(out, id.cast_signed());
    }

    fn reset(&mut self, id: u64, out: &mut BytesMut) {
        let user = (!self.users.contains_key("default")).then(|| "default".to_owned());
        self.end_transaction(id);
        let connection = self.connection(id);
        connection.user = user;
        connection.db = 0;
        connection.resp3 = false;
        connection.channels.clear();
        connection.patterns.clear();
        connection.tracked = None;
        write::simple(out, "RESET");
    }

    fn client(&mut self, id: u64, what: &str, args: &[Bytes], out: &mut BytesMut) {
        match what {
            "tracking" => {
                let on = args[2].eq_ignore_ascii_case(b"on");
                self.connection(id).tracked = on.then(BTreeMap::new);
                write::simple(out, "OK");
            }
            "id" => write::integer(out, id.cast_signed()),
            "unblock" => self.unblock(args, out),
            "info" => {
                let line = format!("id={id} addr= name= flags=N db=0 sub=0 multi=-1 cmd= user= resp=2");
                write::bulk(out, Some(line.as_bytes()));
            }
            "list" => write::bulk(out, Some(b"")),
            "kill" if args.len() == 3 => write::error(out, "ERR No such client"),
            "kill" => write::integer(out, 0),
            "getname" => write::null(out, self.connection(id).resp3),
            "pause" if args[2].iter().any(|byte| !byte.is_ascii_digit()) => {
                write::error(out, "ERR timeout is not an integer or out of range");
            }
            "caching" | "setname" | "setinfo" | "reply" | "pause" | "unpause" => write::simple(out, "OK"),
            _ => write::error(out, &unknown(args)),
        }
    }

    fn unblock(&mut self, args: &[Bytes], out: &mut BytesMut) {
        let whom: u64 = std::str::from_utf8(&args[2]).unwrap().parse().unwrap();
        let at = self.waiters.iter().position(|waiter| waiter.connection == whom);
        if let Some(at) = at {
            let waiter = self.waiters.remove(at);
            let error = args.get(3).is_some_and(|way| way.eq_ignore_ascii_case(b"error"));
            let reply = &b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"[..];
            let reply = if error {
                Bytes::from_static(reply)
            } else {
                waiter.none
            };
            let _ = waiter.reply.send(reply);
        }
        write::integer(out, i64::from(at.is_some()));
    }
}

fn unknown(args: &[Bytes]) -> String {
    let name = String::from_utf8_lossy(&args[0]);
    format!("ERR unknown command '{name}', with args beginning with: ")
}
