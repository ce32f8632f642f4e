//! What holds: orders by server, until they are taken back or their time is over. Pure: the time is told.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tidegate_shared::when;

use super::Identity;
use super::talk::Change;

/// In which way a server is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It gets no new requests; what is in flight goes on.
    Drain,
    /// The same, and connections that rest are closed, and nobody looks whether it is well.
    Maintenance,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        })
    }
}

/// Who asked for something, and why; in words of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub who: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(with = "moment")]
    pub since: SystemTime,
    /// When it ends by itself; `None` where somebody has to take it back.
    #[serde(
        default,
        with = "moment::maybe",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<SystemTime>,
}

impl fmt::Display for Note {
    /// `by alice (uid 1000) since …, until …: why`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {} since {}", self.who, when::utc(self.since))?;
        if let Some(until) = self.until {
            write!(f, ", until {}", when::utc(until))?;
        }
        match &self.why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// Moments as a file has them.
pub(super) mod moment {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};
    use tidegate_shared::when;

    pub(in super::super) fn serialize<S: Serializer>(
        moment: &SystemTime,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&when::second(*moment))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        when::read(&text).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is no moment like 2026-11-20T14:03:22Z"))
        })
    }

    pub(in super::super) mod maybe {
        use super::{Deserializer, Serializer, SystemTime};

        pub(in super::super::super) fn serialize<S: Serializer>(
            moment: &Option<SystemTime>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match moment {
                Some(moment) => super::serialize(moment, to),
                None => to.serialize_none(),
            }
        }

        pub(in super::super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}

/// One thing that was asked for, and the note that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held<T> {
    pub(super) value: T,
    pub(super) note: Note,
}

/// Everything that is asked of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    pub(super) mode: Option<Held<Mode>>,
    pub(super) weight: Option<Held<u16>>,
}

/// What is asked of one server, without who and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bidding {
    pub(crate) mode: Option<Mode>,
    pub(crate) weight: Option<u16>,
}

impl Orders {
    pub(super) fn bidding(&self) -> Bidding {
        Bidding {
            mode: self.mode.as_ref().map(|held| held.value),
            weight: self.weight.as_ref().map(|held| held.value),
        }
    }

    /// One after the other.
    pub(super) fn each(&self) -> impl Iterator<Item = (Change, &Note)> {
        let mode = self.mode.as_ref();
        let weight = self.weight.as_ref();
        let mode = mode.map(|held| (Change::Mode(held.value), &held.note));
        let weight = weight.map(|held| (Change::Weight(Some(held.value)), &held.note));
        mode.into_iter().chain(weight)
    }
}

/// A server that something is asked of, as the operator calls it in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) backend: String,
    pub(super) server: String,
    pub(super) orders: Orders,
}

/// An order whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) identity: Identity,
    pub(super) backend: String,
    /// As the operator calls it.
    pub(super) server: String,
    /// `drain` or `weight 20`.
    pub(super) what: String,
    pub(super) note: Note,
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Book(BTreeMap<Identity, Entry>);

impl Book {
    pub(super) fn orders(&self, identity: Identity) -> Orders {
        let entry = self.0.get(&identity);
        entry.map(|entry| entry.orders.clone()).unwrap_or_default()
    }

    /// All of them.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Identity, &Entry)> {
        self.0.iter().map(|(identity, entry)| (*identity, entry))
    }

    /// Writes an order down, in the place of an earlier one of its kind. What asks for nothing takes it back.
    pub(super) fn write(
        &mut self,
        identity: Identity,
        (backend, server): (&str, &str),
        change: Change,
        note: Note,
    ) {
        let entry = self.0.entry(identity).or_insert_with(|| Entry {
            backend: backend.to_owned(),
            server: server.to_owned(),
            orders: Orders::default(),
        });
        let orders = &mut entry.orders;
        match change {
            Change::Ready => orders.mode = None,
            Change::Mode(value) => orders.mode = Some(Held { value, note }),
            Change::Weight(Some(value)) => orders.weight = Some(Held { value, note }),
            Change::Weight(None) => orders.weight = None,
        }
        self.tidy();
    }

    /// Strikes out everything whose time is over.
    pub(super) fn expire(&mut self, now: SystemTime) -> Vec<Over> {
        let mut all = Vec::new();
        for (identity, entry) in &mut self.0 {
            let mut over = |what: String, note: Note| {
                all.push(Over {
                    identity: *identity,
                    backend: entry.backend.clone(),
                    server: entry.server.clone(),
                    what,
                    note,
                });
            };
            let orders = &mut entry.orders;
            if let Some(held) = orders.mode.take_if(|held| held.note.is_over(now)) {
                over(held.value.to_string(), held.note);
            }
            if let Some(held) = orders.weight.take_if(|held| held.note.is_over(now)) {
                over(format!("weight {}", held.value), held.note);
            }
        }
        self.tidy();
        all
    }

    /// Strikes out what was asked of a server, but for those machines of it that are `here`. How many were struck out.
    pub(super) fn take_back(
        &mut self,
        (backend, server): (&str, &str),
        change: Change,
        here: impl Fn(Identity) -> bool,
    ) -> usize {
        let mut count = 0;
        for (identity, entry) in &mut self.0 {
            if entry.backend != backend || entry.server != server || here(*identity) {
                continue;
            }
            let orders = &mut entry.orders;
            let taken = match change {
                Change::Ready => orders.mode.take().is_some(),
                Change::Weight(None) => orders.weight.take().is_some(),
                Change::Mode(_) | Change::Weight(Some(_)) => false,
            };
            count += usize::from(taken);
        }
        self.tidy();
        count
    }

    /// Strikes out everything asked of servers that are not `known`.
    pub(super) fn keep_known(&mut self, known: impl Fn(Identity, &Entry) -> bool) -> Vec<Entry> {
        let all = std::mem::take(&mut self.0).into_iter();
        let (here, gone): (Vec<_>, Vec<_>) =
            all.partition(|(identity, entry)| known(*identity, entry));
        self.0 = here.into_iter().collect();
        gone.into_iter().map(|(_, entry)| entry).collect()
    }

    fn tidy(&mut self) {
        self.0.retain(|_, entry| entry.orders != Orders::default());
    }
}

impl Note {
    fn is_over(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn note(until: Option<u64>) -> Note {
        Note {
            who: "alice".to_owned(),
            why: None,
            since: UNIX_EPOCH,
            until: until.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn the_last_order_of_a_kind_holds_until_it_is_taken_back() {
        let mut book = Book::default();
        let one = Identity::of("alb", "one", "10.0.0.1:80");
        let mut write = |change| {
            book.write(one, ("alb", "one"), change, note(None));
            let orders = book.orders(one);
            let mode = orders.mode.map(|held| held.value);
            (mode, orders.weight.map(|held| held.value))
        };
        assert_eq!(write(Change::Mode(Mode::Drain)), (Some(Mode::Drain), None));
        assert_eq!(write(Change::Weight(Some(0))), (Some(Mode::Drain), Some(0)));
        assert_eq!(
            write(Change::Mode(Mode::Maintenance)),
            (Some(Mode::Maintenance), Some(0))
        );
        assert_eq!(write(Change::Ready), (None, Some(0)));
        assert_eq!(write(Change::Weight(None)), (None, None));
        assert_eq!(book.entries().count(), 0, "nothing is left of it");
    }

    #[test]
    fn an_order_ends_with_its_time_and_no_other_does() {
        let mut book = Book::default();
        let one = Identity::of("alb", "one", "10.0.0.1:80");
        let name = ("alb", "one");
        book.write(one, name, Change::Mode(Mode::Drain), note(Some(10)));
        book.write(one, name, Change::Weight(Some(5)), note(Some(20)));
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(book.expire(at(9)), []);
        let over = book.expire(at(10));
        assert_eq!(over.len(), 1);
        assert_eq!(over[0].what, "drain");
        assert_eq!(book.orders(one).weight.unwrap().value, 5);
        assert_eq!(book.expire(at(25))[0].what, "weight 5");
        assert_eq!(book, Book::default());
    }

    #[test]
    fn what_was_asked_of_servers_that_are_gone_is_given_up() {
        let mut book = Book::default();
        let one = Identity::of("alb", "one", "10.0.0.1:80");
        let moved = Identity::of("alb", "one", "10.0.0.1:81");
        book.write(one, ("alb", "one"), Change::Mode(Mode::Drain), note(None));
        assert_eq!(book.keep_known(|known, _| known == one).len(), 0);
        assert_eq!(book.keep_known(|known, _| known == moved)[0].server, "one");
        assert_eq!(book, Book::default());
    }

    #[test]
    fn what_was_asked_of_absent_machines_alone_can_be_taken_back() {
        let mut book = Book::default();
        let (one, two) = (
            Identity::of("alb", "one", "10.0.0.1:80"),
            Identity::of("alb", "one", "10.0.0.2:80"),
        );
        let name = ("alb", "one");
        for machine in [one, two] {
            book.write(machine, name, Change::Mode(Mode::Drain), note(None));
            book.write(machine, name, Change::Weight(Some(5)), note(None));
        }
        let here = |machine| machine == one;
        assert_eq!(book.take_back(("alb", "two"), Change::Ready, here), 0);
        assert_eq!(book.take_back(name, Change::Ready, here), 1);
        assert_eq!(book.take_back(name, Change::Ready, here), 0);
        assert_eq!(book.orders(two).bidding().weight, Some(5));
        assert_eq!(book.take_back(name, Change::Weight(None), here), 1);
        assert_eq!(book.entries().count(), 1);
        assert_eq!(book.orders(one).bidding().mode, Some(Mode::Drain));
    }
}
