//! How values are written: sizes, durations, listeners, secrets. Each error says what its flag takes.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use proxy_core::Address;
use sentinel_watcher::{HostPort, Secret};
use tokio_rustls::rustls::pki_types::ServerName;

/// `ADDR` or `ADDR=MASTER`: where to listen, how, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenSpec {
    pub(crate) address: Address,
    pub(crate) transport: Transport,
    pub(crate) master: Option<String>,
}

/// What clients of a listener speak, as its prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// No prefix: TLS with `--listen-tls`.
    AsFlag,
    /// `tcp:` or `unix:`
    Plain,
    /// `tls:`
    Tls,
}

/// Where the admin endpoint listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminSpec {
    Off,
    At(SocketAddr),
}

/// A value that slipring can find by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice<T> {
    Automatic,
    Given(T),
}

/// A value that may be left out by saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch<T> {
    Off,
    On(T),
}

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    pub(crate) address: HostPort,
    /// `/v1/traces`, or what stands before it behind a gateway.
    pub(crate) path: String,
}

/// Bytes: a number with `kb`, `mb`, `gb` (1024) or `k`, `m`, `g` (1000) behind it, as in redis.conf.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let units = [
        ("", 1),
        ("b", 1),
        ("k", 1000),
        ("kb", 1 << 10),
        ("m", 1_000_000),
        ("mb", 1 << 20),
        ("g", 1_000_000_000),
        ("gb", 1 << 30),
    ];
    scaled(text, &units)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| "takes a size in bytes, or with kb, mb or gb behind it: 256mb".to_owned())
}

/// A size in which slipring finds room.
pub(super) fn memory(text: &str) -> Result<usize, String> {
    const LEAST: usize = 32 << 20;
    size(text)
        .ok()
        .filter(|bytes| *bytes >= LEAST)
        .ok_or_else(|| "takes a size of at least 32mb: 512mb, 2gb".to_owned())
}

/// A duration: a number with `ms`, `s` or `m` behind it. Zero may stand alone.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    scaled(text, &[("ms", 1), ("s", 1000), ("m", 60_000)])
        .map(Duration::from_millis)
        .ok_or_else(|| "takes a duration with ms, s or m behind it: 500ms, 5s, 2m".to_owned())
}

/// A duration that is not zero.
pub(super) fn deadline(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("takes a duration above zero: 500ms, 5s, 2m".to_owned()),
        deadline => Ok(deadline),
    }
}

/// A duration that is not zero, or `auto`.
pub(super) fn deadline_or_auto(text: &str) -> Result<Choice<Duration>, String> {
    match text {
        "auto" => Ok(Choice::Automatic),
        text => deadline(text)
            .map(Choice::Given)
            .map_err(|_| "takes auto, or a duration: 30s, 2m".to_owned()),
    }
}

/// A duration that is not zero, or `off`.
pub(super) fn deadline_or_off(text: &str) -> Result<Switch<Duration>, String> {
    match text {
        "off" => Ok(Switch::Off),
        text => deadline(text)
            .map(Switch::On)
            .map_err(|_| "takes off, or a duration above zero: 10ms, 1s".to_owned()),
    }
}

/// A number of things, or `off`.
pub(super) fn count_or_off(text: &str) -> Result<Switch<u64>, String> {
    match (text, text.parse()) {
        ("off", _) => Ok(Switch::Off),
        (_, Ok(number @ 1..=1_000_000_000)) => Ok(Switch::On(number)),
        _ => Err("takes off, or a whole number from 1: 1000 is one command in a thousand".to_owned()),
    }
}

/// A collector's address as OTEL_EXPORTER_OTLP_ENDPOINT has it.
pub(super) fn collector(text: &str) -> Result<Collector, String> {
    let takes = || {
        "takes http://HOST:PORT of a collector that speaks OTLP over HTTP: http://127.0.0.1:4318".to_owned()
    };
    let rest = text.strip_prefix("http://").ok_or_else(takes)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = host.parse().map_err(|_| takes())?;
    let path = match path.trim_end_matches('/') {
        "" => "/v1/traces".to_owned(),
        path if path.ends_with("v1/traces") => format!("/{path}"),
        path => format!("/{path}/v1/traces"),
    };
    Ok(Collector { address, path })
}

/// A number of threads, or `cores`.
pub(super) fn workers(text: &str) -> Result<Choice<usize>, String> {
    match (text, text.parse()) {
        ("cores", _) => Ok(Choice::Automatic),
        (_, Ok(count @ 1..=1024)) => Ok(Choice::Given(count)),
        _ => Err("takes cores, or a number of threads from 1 to 1024".to_owned()),
    }
}

/// A number of things, at least one.
pub(super) fn count(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "takes a whole number, at least 1".to_owned())
}

pub(super) fn listen(text: &str) -> Result<ListenSpec, String> {
    let (place, master) = match text.rsplit_once('=') {
        Some((place, master)) => (place, Some(master)),
        None => (text, None),
    };
    if master == Some("") {
        return Err("names no master behind the =".to_owned());
    }
    let (address, transport) = match place.split_once(':') {
        Some(("unix", path)) if path.starts_with('/') => {
            (Address::Unix(Path::new(path).into()), Transport::Plain)
        }
        Some(("unix", _)) => {
            return Err("takes an absolute path behind unix: unix:/run/slipring.sock".to_owned());
        }
        Some(("tls", rest)) => (socket_address(rest)?.into(), Transport::Tls),
        Some(("tcp", rest)) => (socket_address(rest)?.into(), Transport::Plain),
        _ => (socket_address(place)?.into(), Transport::AsFlag),
    };
    Ok(ListenSpec {
        address,
        transport,
        master: master.map(str::to_owned),
    })
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let network = text.parse::<IpNet>().ok().or_else(address);
    network.ok_or_else(|| "takes networks or addresses: 10.0.0.0/8, 192.0.2.7, 2001:db8::/32".to_owned())
}

pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| "takes a DNS name or an IP address: redis.example.net".to_owned())
}

pub(super) fn admin(text: &str) -> Result<AdminSpec, String> {
    match text {
        "off" => Ok(AdminSpec::Off),
        text => socket_address(text)
            .map(AdminSpec::At)
            .map_err(|_| "takes IP:PORT (port 0 takes a free one), or off".to_owned()),
    }
}

pub(super) fn sentinel(text: &str) -> Result<HostPort, String> {
    text.parse()
        .map_err(|_| "takes HOST:PORT (Sentinel's own port is 26379): sentinel-1:26379".to_owned())
}

pub(super) fn name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    fits.then(|| text.to_owned())
        .ok_or_else(|| "takes the name that Sentinel knows the master by".to_owned())
}

/// Never fails, so that no error can quote it.
#[expect(clippy::unnecessary_wraps, reason = "the shape of a value parser")]
pub(super) fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret::new(text.as_bytes()))
}

pub(super) fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|wrong: T::Err| wrong.to_string())
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address = match text.strip_prefix('*').and_then(|rest| rest.strip_prefix(':')) {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| (IpAddr::from([0, 0, 0, 0]), port).into()),
        None => text.parse().ok(),
    };
    address.ok_or_else(|| {
        "takes IP:PORT, where * is every IPv4 address: 127.0.0.1:6379, *:6379, [::1]:6379".to_owned()
    })
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_redis() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("1k", 1000),
            ("1kb", 1024),
            ("2M", 2_000_000),
            ("256mb", 256 << 20),
            ("1GB", 1 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "mb", "-1", "1.5gb", "1 mb", "1tb", "99999999999gb"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("20s", 20_000),
            ("2m", 120_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "1h", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(deadline("0ms").is_err());
        assert_eq!(deadline_or_auto("auto"), Ok(Choice::Automatic));
    }

    #[test]
    fn listeners_name_their_master_or_nobody() {
        let check = |text: &str, address: &str, master: Option<&str>| {
            let spec = listen(text).unwrap();
            assert_eq!(
                (spec.address.to_string(), spec.master.as_deref()),
                (address.to_owned(), master)
            );
        };
        check("127.0.0.1:6379", "127.0.0.1:6379", None);
        check("*:6380=sessions", "0.0.0.0:6380", Some("sessions"));
        check("[::1]:0", "[::1]:0", None);
        check("tls:*:6380=sessions", "0.0.0.0:6380", Some("sessions"));
        check("tcp:[::1]:6379", "[::1]:6379", None);
        check("unix:/run/s.sock=sessions", "/run/s.sock:0", Some("sessions"));
        for text in [
            "6379",
            ":6379",
            "localhost:6379",
            "1.2.3.4",
            "1.2.3.4:70000",
            "1.2.3.4:1=",
            "=a",
            "unix:s.sock",
            "tls:6379",
            "tls:unix:/run/s.sock",
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
    }
}
