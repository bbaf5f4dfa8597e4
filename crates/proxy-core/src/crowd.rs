//! How many clients each address has, and how fast they come: over all workers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::entry::Entry;
use crate::limits;
use crate::metrics::RefuseReason;

/// All addresses that clients come from.
#[derive(Default)]
pub(crate) struct Crowd(Mutex<Known>);

#[derive(Default)]
struct Known {
    visitors: BTreeMap<IpAddr, Visitor>,
    /// When those who matter no longer were forgotten last.
    swept: Option<Instant>,
}

struct Visitor {
    clients: usize,
    /// When the newest client would have come, had they come evenly at the rate allowed.
    due: Instant,
    home: Arc<Home>,
}

/// Where clients come from, as each of them knows it.
struct Home {
    crowd: Weak<Crowd>,
    address: IpAddr,
}

/// One client of an address, counted for as long as this lives. Small: every client has one.
pub(crate) struct Place(Arc<Home>);

/// So many seconds' worth of clients may come at once.
const BURST: Duration = Duration::from_secs(1);

// === impl Crowd ===

impl Crowd {
    /// Counts a client of `address`, unless it has too many, or they come too fast.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, entry: &Entry) -> Result<Place, RefuseReason> {
        let (address, now) = (group(address), Instant::now());
        let known = &mut *self.known();
        if known.visitors.len() >= limits::ADDRESSES && !known.visitors.contains_key(&address) {
            known.sweep(now);
        }
        let visitor = known.visitor(address, self, now);
        if entry
            .max_clients_per_ip
            .is_some_and(|most| visitor.clients >= most)
        {
            return Err(RefuseReason::PerIp);
        }
        if let Some(rate) = entry.accept_rate_per_ip {
            if visitor.due > now + BURST {
                return Err(RefuseReason::Rate);
            }
            let share = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX);
            visitor.due = visitor.due.max(now) + share;
        }
        visitor.clients += 1;
        Ok(Place(Arc::clone(&visitor.home)))
    }

    /// Counts a client of `address` that another process has let in.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Place {
        let known = &mut *self.known();
        let visitor = known.visitor(group(address), self, Instant::now());
        visitor.clients += 1;
        Place(Arc::clone(&visitor.home))
    }

    /// There are clients, and none of them could come again under `entry`.
    pub(crate) fn is_shut_out_by(&self, entry: &Entry) -> bool {
        let known = self.known();
        let mut here = known
            .visitors
            .iter()
            .filter(|(_, visitor)| visitor.clients > 0)
            .peekable();
        here.peek().is_some() && !here.any(|(address, _)| may_come(*address, entry))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn visitor(&mut self, address: IpAddr, crowd: &Arc<Crowd>, now: Instant) -> &mut Visitor {
        self.visitors.entry(address).or_insert_with(|| Visitor {
            clients: 0,
            due: now,
            home: Arc::new(Home {
                crowd: Arc::downgrade(crowd),
                address,
            }),
        })
    }

    /// Forgets addresses without clients. Not more than once a second: whoever comes from ever new addresses must not
    /// have us count them all each time.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now >= swept + BURST) {
            self.visitors
                .retain(|_, visitor| visitor.clients > 0 || visitor.due > now);
            self.swept = Some(now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Home { crowd, address } = &*self.0;
        let Some(crowd) = crowd.upgrade() else { return };
        let known = &mut *crowd.known();
        if let Some(visitor) = known.visitors.get_mut(address) {
            visitor.clients -= 1;
            if visitor.clients == 0 && visitor.due <= Instant::now() {
                known.visitors.remove(address);
            }
        }
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// Some client of this group may.
fn may_come(address: IpAddr, entry: &Entry) -> bool {
    let bits = if address.is_ipv6() { 64 } else { 32 };
    let group = IpNet::new(address, bits).expect("no more bits than an address has");
    entry.allows(address) || entry.allow.iter().any(|network| group.contains(network))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(most: Option<usize>, rate: Option<usize>) -> Entry {
        Entry {
            max_clients_per_ip: most,
            accept_rate_per_ip: rate,
            ..Entry::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_must_be_able_to_come_again() {
        let crowd = Arc::new(Crowd::default());
        let shut_out = |allow: &[&str]| {
            let allow = allow.iter().map(|network| network.parse().unwrap()).collect();
            crowd.is_shut_out_by(&Entry {
                allow,
                ..Entry::default()
            })
        };
        assert!(!shut_out(&["10.0.0.0/8"]), "nobody is there");
        let first = crowd.admit("192.0.2.1".parse().unwrap());
        assert!(shut_out(&["10.0.0.0/8", "192.0.2.2/32"]));
        assert!(!shut_out(&["10.0.0.0/8", "192.0.2.0/24"]));
        assert!(!shut_out(&[]));
        let _second = crowd.admit("2001:db8::7".parse().unwrap());
        assert!(!shut_out(&["2001:db8::7/128"]), "one of the same network");
        drop(first);
        assert!(shut_out(&["192.0.2.0/24"]), "who was there is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_share() {
        let crowd = Arc::new(Crowd::default());
        let entry = entry(Some(2), None);
        let enter = |address: &str| crowd.enter(address.parse().unwrap(), &entry);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.1").err(), Some(RefuseReason::PerIp));
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        let _again = enter("192.0.2.1").unwrap();
        let _six = [enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap()];
        assert_eq!(enter("2001:db8::3").err(), Some(RefuseReason::PerIp));
        let _next = enter("2001:db8:0:1::1").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_pace() {
        let crowd = Arc::new(Crowd::default());
        let entry = entry(None, Some(10));
        let come = |address: &str, times: usize| {
            let address = address.parse().unwrap();
            (0..times)
                .filter(|_| crowd.enter(address, &entry).is_ok())
                .count()
        };
        let burst = come("192.0.2.1", 100);
        assert!((10..=11).contains(&burst), "{burst}");
        assert!(come("192.0.2.2", 5) == 5, "others are not concerned");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(come("192.0.2.1", 100), 5);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(come("192.0.2.1", 100), burst);
        assert_eq!(crowd.known().visitors.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_forgotten() {
        let crowd = Arc::new(Crowd::default());
        let entry = entry(None, Some(1));
        for number in 0..3 * u32::try_from(limits::ADDRESSES).unwrap() {
            drop(crowd.enter(IpAddr::V4(number.into()), &entry));
            tokio::time::advance(Duration::from_micros(100)).await;
        }
        assert!(crowd.known().visitors.len() <= 2 * limits::ADDRESSES);
    }
}
