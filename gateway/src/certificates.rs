//! The gateway's certificates over time: files that changed are taken up, and what runs out is announced. Reading is
//! `shared::tls`'s business. Called by `app`'s housekeeping.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tidegate_certs::life::{Age, Life, Said, in_words};
use tidegate_certs::peer::gateway_identity;
use tidegate_shared::tls::{Anchors, Identity, TlsFault, Trust, Unfit, VisitorCerts};
use tracing::{error, info, warn};

use crate::config::listeners::Named;

/// What the gateway shows to agents and to visitors, and which agents it believes.
#[derive(Debug)]
pub(crate) struct Certificates {
    trust: Option<Arc<Trust<ServerConfig>>>,
    of_visitors: Vec<(Named, Arc<VisitorCerts>)>,
    /// By the certificate, because a renewed one is another.
    said: HashMap<(PathBuf, CertificateDer<'static>), Said>,
}

impl Certificates {
    pub(crate) fn new(
        trust: Option<Arc<Trust<ServerConfig>>>,
        of_visitors: Vec<(Named, Arc<VisitorCerts>)>,
    ) -> Self {
        Self {
            trust,
            of_visitors,
            said: HashMap::new(),
        }
    }

    /// Reads the files that have changed, and says what is to be said of those in use. Blocking, and short.
    pub(crate) fn look(&mut self) {
        let changed = |what: &str, outcome: Result<bool, TlsFault>| match outcome {
            Ok(true) => info!("{what} was read again"),
            Ok(false) => {}
            Err(fault) => {
                error!("{what} was changed and is not used, the one in use stays: {fault}")
            }
        };
        let mut in_use = Vec::new();
        if let Some(trust) = &self.trust {
            // First, because a renewed identity is judged by them.
            let path = trust.anchors().path().display();
            changed(
                &format!("the file of authorities {path} (--ca)"),
                trust.reload_anchors(),
            );
            let (identity, anchors) = (trust.identity(), trust.anchors());
            let present = identity.current();
            let renewed = identity.reload_if_changed(|fresh| fit(anchors, &present, fresh));
            changed("the gateway's identity", renewed);
            let present = identity.current();
            let whose = ("--identity".to_owned(), "no agent takes it");
            in_use.push((present.path().to_owned(), present.leaf().clone(), whose));
        }
        for (named, certs) in &self.of_visitors {
            match certs.reload_if_changed() {
                Ok(files) => {
                    for file in files {
                        let what = format!(
                            "the certificate for visitors in {} ({named})",
                            file.display()
                        );
                        changed(&what, Ok(true));
                    }
                }
                Err(fault) => changed("a certificate for visitors", Err(fault)),
            }
            let whose = || (named.to_string(), "browsers refuse it");
            let each = certs.in_use().into_iter();
            in_use.extend(each.map(|(path, leaf)| (path, leaf, whose())));
        }
        let at = SystemTime::now();
        let mut said = HashMap::with_capacity(in_use.len());
        for (path, leaf, whose) in in_use {
            let key = (path, leaf);
            let mut before = self.said.remove(&key).unwrap_or_default();
            say(&key, (&whose.0, whose.1), &mut before, at);
            said.insert(key, before);
        }
        self.said = said;
    }
}

fn say(
    (path, leaf): &(PathBuf, CertificateDer<'static>),
    (option, consequence): (&str, &str),
    said: &mut Said,
    at: SystemTime,
) {
    // One that cannot be parsed has been refused when it was read.
    let Ok(life) = Life::of(leaf) else { return };
    let age = life.age(at);
    if !said.is_due(age, at) {
        return;
    }
    let path: &Path = path;
    let path = path.display();
    let renew = "renew it, and it will be taken up without a restart";
    match age {
        Age::Good => {}
        Age::Early(wait) => warn!(
            "the certificate in {path} ({option}) is valid only in {}: until then {consequence}; is this machine's clock right?",
            in_words(wait)
        ),
        Age::Late(left) => warn!(
            "the certificate in {path} ({option}) expires in {}; {renew}",
            in_words(left)
        ),
        Age::Expired => {
            error!("the certificate in {path} ({option}) has expired: {consequence}; {renew}")
        }
    }
}

/// Agents refuse a certificate that is not for servers, or not valid.
fn fit(anchors: &Anchors, present: &Identity, fresh: &Identity) -> Result<(), Unfit> {
    let read = gateway_identity(fresh.leaf()).map_err(|refusal| refusal.to_string())?;
    let life = (read.facts.not_before, read.facts.not_after);
    anchors.judge(present, fresh, life, SystemTime::now())
}
