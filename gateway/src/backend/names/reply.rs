//! What a DNS message says to a question: its records, followed through aliases (RFC 1034 §3.6.2), or that there are none. Pure:
//! a message in, what it means out. Whoever answers may be anybody: what was not asked for does not count.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// Aliases of aliases; more are a circle.
pub(super) const ALIASES: usize = 8;

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Records(Records),
    /// Whoever wants to know is to ask for this name.
    Alias {
        name: Name,
        ttl: Duration,
    },
    Nothing(Nothing),
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) data: Vec<RData>,
    /// The least of all on the way to them.
    pub(super) ttl: Duration,
}

/// That there is none of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nothing {
    /// As it follows the name.
    pub(super) why: &'static str,
    /// For how long, where that was said.
    pub(super) ttl: Option<Duration>,
}

/// Why a server's answer is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) what: What,
    /// What is the same of it however it differs in detail, such as in words of whoever answered.
    pub(super) kind: &'static str,
    /// As it follows the server's address.
    pub(super) why: String,
}

/// In one word, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It said that it cannot, or will not.
    Error,
    Timeout,
    /// It cannot be asked.
    Unreachable,
    /// What it answered is no answer.
    Invalid,
}

impl Refused {
    fn invalid(why: impl Into<String>) -> Self {
        Self {
            what: What::Invalid,
            kind: "invalid",
            why: why.into(),
        }
    }
}

const NO_NAME: &str = "does not exist (NXDOMAIN)";
const NO_RECORDS: &str = "has no address";

/// Reads a message that answers the question for `name`.
pub(super) fn read(message: &Message, name: &Name, of: RecordType) -> Result<Reply, Refused> {
    let code = message.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(answered(code));
    }
    let mut name = name.clone();
    let mut ttl = u32::MAX;
    for hops in 0..=ALIASES {
        let here = || message.answers.iter().filter(|record| record.name == name);
        let wanted = here().filter(|record| record.record_type() == of);
        let data: Vec<RData> = wanted.clone().map(|record| record.data.clone()).collect();
        if !data.is_empty() {
            let least = wanted.map(lasts).min().unwrap_or_default().min(ttl);
            let ttl = seconds(least);
            return Ok(Reply::Records(Records { data, ttl }));
        }
        let alias = here().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((target.0.clone(), lasts(record))),
            _ => None,
        });
        let Some((target, lasts)) = alias else {
            return match (hops, code, message.answers.is_empty()) {
                (_, ResponseCode::NXDomain, _) => Ok(nothing(NO_NAME, None)),
                (0, _, true) => Ok(nothing(NO_RECORDS, None)),
                (0, _, false) if here().next().is_none() => Err(Refused::invalid(
                    "answered with records of names that nobody had asked for",
                )),
                (0, ..) => Ok(nothing(NO_RECORDS, None)),
                _ => Ok(Reply::Alias {
                    name,
                    ttl: seconds(ttl),
                }),
            };
        };
        ttl = ttl.min(lasts);
        name = target;
    }
    Err(too_many_aliases())
}

/// Aliases that lead nowhere.
pub(super) fn too_many_aliases() -> Refused {
    Refused::invalid(format!(
        "answered with more than {ALIASES} aliases, or aliases in a circle"
    ))
}

/// Reads why there is no message. `within` is how long one was waited for.
pub(super) fn read_error(error: &NetError, within: Duration) -> Result<Reply, Refused> {
    let unreachable = |why: String| Refused {
        what: What::Unreachable,
        kind: "unreachable",
        why,
    };
    Err(match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords {
            ns,
            soa,
            negative_ttl,
            response_code,
            ..
        })) => {
            if ns.is_some() && soa.is_none() {
                return Err(Refused::invalid(
                    "refers to other servers; give one that answers for all names (a resolver)",
                ));
            }
            let why = match response_code {
                ResponseCode::NXDomain => NO_NAME,
                _ => NO_RECORDS,
            };
            return Ok(nothing(why, *negative_ttl));
        }
        NetError::Dns(DnsError::ResponseCode(code)) => answered(*code),
        NetError::Timeout => Refused {
            what: What::Timeout,
            kind: "timeout",
            why: format!("gave no answer within {within:?}"),
        },
        NetError::Truncated => Refused::invalid("cut its answer short, over TCP too"),
        NetError::Proto(_) | NetError::ForeignClassRecord { .. } | NetError::QueryCaseMismatch => {
            Refused::invalid(format!("answered what cannot be understood ({error})"))
        }
        NetError::Io(error) => unreachable(format!("cannot be asked: {error}")),
        error => unreachable(format!("cannot be asked: {error}")),
    })
}

fn answered(code: ResponseCode) -> Refused {
    let word = match code {
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::NotImp => "NOTIMP",
        _ => {
            return Refused {
                what: What::Error,
                kind: "code",
                why: format!("answered with code {}", u16::from(code)),
            };
        }
    };
    Refused {
        what: What::Error,
        kind: word,
        why: format!("answered {word}"),
    }
}

fn nothing(why: &'static str, ttl: Option<u32>) -> Reply {
    let ttl = ttl.map(seconds);
    Reply::Nothing(Nothing { why, ttl })
}

/// A TTL above 2^31 is none (RFC 2181 §8).
fn lasts(record: &Record) -> u32 {
    if record.ttl > i32::MAX.unsigned_abs() {
        0
    } else {
        record.ttl
    }
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

/// An address record's address, or why no server can be there.
pub(super) fn address(data: &RData) -> Option<Result<IpAddr, IpAddr>> {
    let ip = match data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(aaaa) => IpAddr::V6(aaaa.0).to_canonical(),
        _ => return None,
    };
    let nowhere = match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 0 || ip.is_broadcast() || ip.is_multicast(),
        // Addresses of one link mean nothing without the link's name, for which a record has no room.
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    };
    Some(if nowhere { Err(ip) } else { Ok(ip) })
}

/// A service record's content. `None` for the one that says that there is no such service (RFC 2782), and for what is none.
pub(super) fn service(data: &RData) -> Option<&SRV> {
    match data {
        RData::SRV(service) if !service.target.is_root() && service.port != 0 => Some(service),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hickory_resolver::proto::op::OpCode;
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(of: &str, ttl: u32, last: u8) -> Record {
        let data = RData::A(A(Ipv4Addr::new(10, 0, 0, last)));
        Record::from_rdata(name(of), ttl, data)
    }

    fn alias(of: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(of), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn message(code: ResponseCode, answers: Vec<Record>) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = code;
        message.answers = answers;
        message
    }

    fn ask(answers: Vec<Record>) -> Result<Reply, Refused> {
        let message = message(ResponseCode::NoError, answers);
        read(&message, &name("app.test."), RecordType::A)
    }

    #[test]
    fn records_of_the_name_count_with_the_least_ttl() {
        let reply = ask(vec![
            a("app.test.", 60, 1),
            a("other.test.", 1, 66),
            a("APP.test.", 30, 2),
        ]);
        let Ok(Reply::Records(records)) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!(records.data.len(), 2);
        assert_eq!(records.ttl, Duration::from_secs(30));
    }

    #[test]
    fn aliases_are_followed_in_whatever_order_and_their_ttl_counts() {
        let reply = ask(vec![
            a("c.test.", 60, 1),
            alias("b.test.", 20, "c.test."),
            alias("app.test.", 40, "b.test."),
        ]);
        let Ok(Reply::Records(records)) = reply else {
            panic!("{reply:?}")
        };
        assert_eq!((records.data.len(), records.ttl.as_secs()), (1, 20));
        let open = ask(vec![alias("app.test.", 40, "b.test.")]).unwrap();
        let ttl = Duration::from_secs(40);
        assert_eq!(
            open,
            Reply::Alias {
                name: name("b.test."),
                ttl
            }
        );
        let circle = ask(vec![
            alias("app.test.", 40, "b.test."),
            alias("b.test.", 40, "app.test."),
        ]);
        assert_eq!(circle.unwrap_err().what, What::Invalid);
    }

    #[test]
    fn a_huge_ttl_is_none() {
        let Ok(Reply::Records(records)) = ask(vec![a("app.test.", u32::MAX, 1)]) else {
            panic!("no records")
        };
        assert_eq!(records.ttl, Duration::ZERO);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let strange = ask(vec![a("other.test.", 60, 1)]).unwrap_err();
        assert!(strange.why.contains("nobody had asked"), "{strange:?}");
        let gone = message(
            ResponseCode::NXDomain,
            vec![alias("app.test.", 40, "b.test.")],
        );
        let reply = read(&gone, &name("app.test."), RecordType::A).unwrap();
        assert_eq!(reply, nothing(NO_NAME, None));
        let refused = message(ResponseCode::Refused, Vec::new());
        let refused = read(&refused, &name("app.test."), RecordType::A).unwrap_err();
        assert_eq!(refused.why, "answered REFUSED");
    }

    #[test]
    fn no_server_is_at_an_address_that_is_nobodys() {
        let v4 = |ip: [u8; 4]| address(&RData::A(A(ip.into()))).unwrap();
        for ip in [
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [224, 0, 0, 1],
            [239, 255, 255, 250],
            [255; 4],
        ] {
            assert_eq!(v4(ip), Err(ip.into()));
        }
        assert_eq!(v4([127, 0, 0, 1]), Ok([127, 0, 0, 1].into()));
        let v6 = |ip: &str| address(&RData::AAAA(AAAA(ip.parse::<Ipv6Addr>().unwrap()))).unwrap();
        for ip in ["::", "ff02::1", "fe80::1", "::ffff:0.0.0.0"] {
            assert!(v6(ip).is_err(), "{ip}");
        }
        assert_eq!(v6("::ffff:10.0.0.1"), Ok("10.0.0.1".parse().unwrap()));
        assert_eq!(v6("2001:db8::1"), Ok("2001:db8::1".parse().unwrap()));
    }
}
