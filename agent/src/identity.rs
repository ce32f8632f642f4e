//! The agent's certificate over time: a renewed file is taken up, one that runs out is announced in time. Decides when to
//! look and what to say; reading is `shared::tls`'s business, dialling again is `post`'s.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use tidegate_certs::life::{Age, LOOK_EVERY, Life, Said, in_words};
use tidegate_certs::peer::PeerCertificate;
use tidegate_shared::tls::{Identity, SwapIdentity, Trust, Unfit};
use tracing::{info, warn};

/// An identity, and whom its owner believes.
pub type Renewable = Arc<Trust<ClientConfig>>;

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Tunnels with the fresh certificate are to be made.
    pub identity: bool,
    /// A gateway that was refused may be believed.
    pub authorities: bool,
}

/// Looks after one identity file, and one of authorities.
#[derive(Debug)]
pub struct Keeper {
    trust: Renewable,
    life: Option<Life>,
    said: Said,
}

impl Keeper {
    /// Says who we are, or what the gateway will not like about it.
    pub fn new(trust: Renewable) -> Self {
        let mut keeper = Self {
            trust: Arc::clone(&trust),
            life: None,
            said: Said::default(),
        };
        keeper.read(trust.identity());
        keeper.say(trust.identity(), SystemTime::now());
        keeper
    }

    /// Looks at the files.
    pub fn look(&mut self) -> Changed {
        // First, because a renewed identity is judged by them.
        let authorities = self.look_at_authorities();
        let trust = Arc::clone(&self.trust);
        Changed {
            identity: self.look_at_identity(trust.identity()),
            authorities,
        }
    }

    fn look_at_authorities(&self) -> bool {
        let path = self.trust.anchors().path().display();
        match self.trust.reload_anchors() {
            Ok(false) => false,
            Ok(true) => {
                info!("the file of authorities {path} (--ca) was read again");
                true
            }
            Err(fault) => {
                warn!(
                    "the file of authorities {path} (--ca) was changed and is not used, the one in use stays: {fault}"
                );
                false
            }
        }
    }

    fn look_at_identity(&mut self, identity: &SwapIdentity) -> bool {
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
            self.said = Said::default();
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
                self.trust
                    .anchors()
                    .judge(present, fresh, life, SystemTime::now())
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
        if !self.said.is_due(age, at) {
            return;
        }
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
