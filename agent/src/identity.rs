//! The agent's certificate over time: a renewed file is taken up, one that runs out is announced in time. Decides when to
//! look and what to say; reading is `shared::tls`'s business, dialling again is `reconcile`'s.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate_certs::peer::PeerCertificate;
use tidegate_shared::tls::{Anchors, Identity, SwapIdentity, Unfit};
use tracing::{info, warn};

/// How often the file is looked at, at least.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often it is said that a certificate runs out or has run out.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// A certificate is about to expire in the last part of its life.
const LAST_PART: u32 = 5;

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub from: SystemTime,
    pub until: SystemTime,
}

/// What there is to say about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    Good,
    /// Not valid before so much time has passed.
    Early(Duration),
    /// So much of its life is left, which is little.
    Late(Duration),
    Expired,
}

impl Life {
    /// At this time.
    pub fn age(&self, at: SystemTime) -> Age {
        if let Ok(early) = self.from.duration_since(at)
            && !early.is_zero()
        {
            return Age::Early(early);
        }
        let whole = self.until.duration_since(self.from).unwrap_or_default();
        match self.until.duration_since(at) {
            Err(_) => Age::Expired,
            Ok(left) if left < whole / LAST_PART => Age::Late(left),
            Ok(_) => Age::Good,
        }
    }

    /// When to look at the file again: often enough to catch a renewal while there is time.
    pub fn look_again(&self, at: SystemTime) -> Duration {
        let left = self.until.duration_since(at).unwrap_or(LOOK_EVERY);
        (left / 4).clamp(Duration::from_secs(1), LOOK_EVERY)
    }
}

/// An identity, and what a renewal of it is judged by.
pub type Renewable = (Arc<SwapIdentity>, Anchors);

/// Looks after one identity file.
#[derive(Debug)]
pub struct Keeper {
    anchors: Anchors,
    life: Option<Life>,
    said: Option<(Age, SystemTime)>,
}

impl Keeper {
    /// Says who we are, or what the gateway will not like about it.
    pub fn new(identity: &SwapIdentity, anchors: Anchors) -> Self {
        let mut keeper = Self {
            anchors,
            life: None,
            said: None,
        };
        keeper.read(identity);
        keeper.say(identity, SystemTime::now());
        keeper
    }

    /// Looks at the file. True when tunnels with the fresh certificate are to be made.
    pub fn look(&mut self, identity: &SwapIdentity) -> bool {
        let present = identity.current();
        let renewed = match identity.reload_if_changed(|fresh| self.fit(&present, fresh)) {
            Ok(renewed) => renewed,
            Err(fault) => {
                warn!("the renewed certificate is not used, the one in use stays: {fault}");
                false
            }
        };
        if renewed {
            info!(
                "the certificate in {} was renewed",
                identity.current().path().display()
            );
            self.said = None;
            self.read(identity);
        }
        self.say(identity, SystemTime::now());
        renewed
    }

    /// How long until the next look.
    pub fn pause(&self) -> Duration {
        self.life
            .map_or(LOOK_EVERY, |life| life.look_again(SystemTime::now()))
    }

    /// A gateway refuses what is odd, not for clients, or not valid. What is in use may be odd too, and then a gateway that
    /// is not Tidegate takes it; a renewal of it may be odd as well.
    fn fit(&self, present: &Identity, fresh: &Identity) -> Result<(), Unfit> {
        match PeerCertificate::read(fresh.leaf(), true) {
            Ok(peer) => {
                let life = (peer.facts.not_before, peer.facts.not_after);
                self.anchors.judge(present, fresh, life, SystemTime::now())
            }
            Err(_) if PeerCertificate::read(present.leaf(), true).is_err() => Ok(()),
            Err(refusal) => Err(refusal.to_string().into()),
        }
    }

    fn read(&mut self, identity: &SwapIdentity) {
        let current = identity.current();
        let path = current.path().display().to_string();
        match PeerCertificate::read(current.leaf(), true) {
            Ok(peer) => {
                let names: Vec<String> = peer.names.iter().map(ToString::to_string).collect();
                info!("{path} names this agent {}", names.join(", "));
                self.life = Some(Life {
                    from: peer.facts.not_before,
                    until: peer.facts.not_after,
                });
            }
            Err(refusal) => {
                warn!("{path}: a Tidegate gateway will refuse this certificate: {refusal}");
                self.life = None;
            }
        }
    }

    fn say(&mut self, identity: &SwapIdentity, at: SystemTime) {
        let Some(life) = self.life else { return };
        let age = life.age(at);
        let same = |said: Age| std::mem::discriminant(&said) == std::mem::discriminant(&age);
        if let Some((said, when)) = self.said
            && same(said)
            && at.duration_since(when).unwrap_or_default() < SAY_EVERY
        {
            return;
        }
        self.said = Some((age, at));
        let current = identity.current();
        let path = current.path().display();
        match age {
            Age::Good => {}
            Age::Early(wait) => warn!(
                "the certificate in {path} is valid only in {}: no gateway takes it before; is this machine's clock right?",
                in_words(wait)
            ),
            Age::Late(left) => warn!(
                "the certificate in {path} expires in {}; renew it, and it will be taken up without a restart",
                in_words(left)
            ),
            Age::Expired => warn!(
                "the certificate in {path} has expired: no gateway takes it; renew it, and it will be taken up without a restart"
            ),
        }
    }
}

fn in_words(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} minutes", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} hours", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_early_then_good_then_late_in_its_last_fifth() {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let life = Life {
            from,
            until: from + Duration::from_secs(100),
        };
        let at = |second| from + Duration::from_secs(second);
        let early = SystemTime::UNIX_EPOCH + Duration::from_secs(990);
        assert_eq!(life.age(early), Age::Early(Duration::from_secs(10)));
        assert_eq!(life.age(at(0)), Age::Good);
        assert_eq!(life.age(at(79)), Age::Good);
        assert_eq!(life.age(at(81)), Age::Late(Duration::from_secs(19)));
        assert_eq!(life.age(at(101)), Age::Expired);
        assert_eq!(life.look_again(at(0)), LOOK_EVERY);
        assert_eq!(life.look_again(at(80)), Duration::from_secs(5));
        assert_eq!(life.look_again(at(99)), Duration::from_secs(1));
        assert_eq!(
            life.look_again(at(500)),
            Duration::from_millis(2_500),
            "an expired one is looked at often"
        );
    }
}
