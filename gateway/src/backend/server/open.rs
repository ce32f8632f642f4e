//! Connections to a server are opened: one for a request, one that requests share, one in TCP mode, one for a check.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_shared::origin::{self, Line};
use tokio::net::TcpStream;

use super::super::bound::Tie;
use super::super::check::terms::Check;
use super::super::config::{Address, Protocol};
use super::super::dial::{Agreed, Begins, Offer, dial, dial_plain};
use super::super::http2::links::{Link, Links, Unbegun};
use super::super::queue::{Lent, Permit};
use super::{Home, Kept, Server, Way};

/// A connection that was opened.
enum Opened {
    Http1(Kept),
    Http2(Link),
}

/// DNS has taken the address away between the choice of a server and its connection.
const NOWHERE: &str = "it has no address any more";

/// A server lets nobody onto a connection that it has just taken.
const FULL: &str = "it took the connection, and takes no requests on it";

impl Server {
    /// Opens a connection for one request at a time, which begins with this header, if with any; it may rest for `tie` alone
    /// then. The error is why there is none.
    pub(in crate::backend) async fn connect(
        &self,
        permit: Permit,
        header: Option<Vec<u8>>,
        tie: Option<&Arc<Tie>>,
    ) -> Result<Kept, String> {
        let header = header.as_deref();
        let (home, epoch) = (self.home(header, tie), self.epoch());
        let (line, _agreed) = self.dial(header.unwrap_or_default(), Offer::Http1).await?;
        Ok(keep(line.holding(permit), home, epoch))
    }

    /// Where a connection rests that begins with this header, if with any, and is opened for `tie`.
    fn home(&self, header: Option<&[u8]>, tie: Option<&Arc<Tie>>) -> Home {
        match (header, tie) {
            (None, _) => Home::Worker(self.here()),
            (Some(_), Some(tie)) => Home::Visitor(Arc::clone(tie)),
            (Some(_), None) => Home::Nowhere,
        }
    }

    /// Finds or opens whatever the server speaks: a place on a connection that somebody else is opening is as good. With a header
    /// only what is of `tie` counts.
    pub(in crate::backend) async fn join(
        self: &Arc<Self>,
        permit: Permit,
        header: Option<Vec<u8>>,
        tie: Option<&Arc<Tie>>,
    ) -> Result<Way, String> {
        let header = header.as_deref();
        let own;
        let links = match (header, tie) {
            (None, _) => self.links(),
            (Some(_), Some(tie)) => {
                tie.rests_at(self);
                own = self.bound.links(tie);
                &*own
            }
            (Some(_), None) => {
                own = Arc::default();
                &*own
            }
        };
        let home = self.home(header, tie);
        let mut permit = Some(permit);
        loop {
            let epoch = self.epoch();
            // A server that was asked, and chose HTTP/1.1, is not waited for.
            let alone = match self.protocol {
                Protocol::Http1 => true,
                Protocol::Http2 => false,
                Protocol::Either => self.chose_http1.load(Relaxed),
            };
            if alone {
                let opened = self.begin(permit.take(), header, &home).await?;
                return self.way(opened, links, epoch);
            }
            if let Some(seat) = links.take() {
                return Ok(Way::Http2(seat));
            }
            let opening = links.opening();
            let mut mine = None;
            let told = opening
                .get_or_init(async || {
                    let opened = self.begin(permit.take(), header, &home).await;
                    links.opened(&opening);
                    mine = Some(self.way(opened?, links, epoch)?);
                    Ok(())
                })
                .await;
            if let Err(why) = told {
                return Err(why.clone());
            }
            if let Some(way) = mine {
                return Ok(way);
            }
            // Another one has opened it: there is a place, or this one is next to open one.
            if permit.is_none() {
                return Err(FULL.to_owned());
            }
        }
    }

    /// What a request goes on that has opened a connection: one that may be shared is kept among `links`.
    fn way(&self, opened: Opened, links: &Links, epoch: u64) -> Result<Way, String> {
        let link = match opened {
            Opened::Http1(kept) => return Ok(Way::Http1(kept)),
            Opened::Http2(link) => link,
        };
        links.file(link);
        let seat = links.take().map(Way::Http2);
        if self.epoch() != epoch {
            // It goes to a former address: this one may use it, and nobody else.
            links.clear();
        }
        // Whoever waits for room at this server has some.
        self.room.changed();
        seat.ok_or_else(|| FULL.to_owned())
    }

    /// Opens a connection in whatever the server speaks, which begins with this header, if with any. One for a request at a time
    /// rests at `home`.
    async fn begin(
        &self,
        permit: Option<Permit>,
        header: Option<&[u8]>,
        home: &Home,
    ) -> Result<Opened, String> {
        let epoch = self.epoch();
        let dialled = self.dial(header.unwrap_or_default(), Offer::Usual).await?;
        let (line, agreed) = dialled;
        let place = permit.map(Lent::of);
        let claim = place.as_ref().map(Lent::claim);
        let line = match place {
            Some(place) => line.holding(place),
            None => line,
        };
        let http2 = self.is_http2(agreed)?;
        self.chose_http1.store(!http2, Relaxed);
        if http2 {
            let link = self.link(line, self.terms.connect).await;
            let link = link.map_err(|unbegun| self.did_not_begin(unbegun))?;
            self.mismatches.understood();
            // One that all may share is not taken away for somebody's sake.
            let claim = claim.filter(|_| header.is_some());
            Ok(Opened::Http2(link.giving_way(claim)))
        } else {
            Ok(Opened::Http1(keep(line, home.clone(), epoch)))
        }
    }

    /// Begins HTTP/2 on a connection.
    pub(in crate::backend) async fn link(
        &self,
        line: Line,
        within: Duration,
    ) -> Result<Link, Unbegun> {
        Link::open(line, within, &self.links().drivers, &self.doubts).await
    }

    /// What is spoken on a connection that agreed on this. The error is why that cannot be.
    fn is_http2(&self, agreed: Option<Agreed>) -> Result<bool, String> {
        match (self.protocol, agreed) {
            (Protocol::Http1, _) | (Protocol::Either, None | Some(Agreed::Http1)) => Ok(false),
            (Protocol::Http2, None) | (_, Some(Agreed::Http2)) => Ok(true),
            (Protocol::Http2, Some(Agreed::Http1)) => Err(
                "it does not agree on HTTP/2 by ALPN; leave `protocol` out if it speaks HTTP/1.1"
                    .to_owned(),
            ),
        }
    }

    async fn dial(&self, header: &[u8], offer: Offer) -> Result<(Line, Option<Agreed>), String> {
        let (tls, within) = (self.tls.as_ref(), self.terms.connect);
        let here = self.at_present().ok_or_else(|| NOWHERE.to_owned())?;
        let begins = Begins::With(header);
        let dialled = dial(&here.address, begins, tls, offer, within)
            .await
            .map_err(|undialled| self.misfits(undialled.why, undialled.misfit))?;
        self.counts.connections.inc();
        Ok(dialled)
    }

    /// The same for a connection in TCP mode.
    pub(in crate::backend) async fn connect_plain(&self) -> Result<TcpStream, String> {
        let here = self.at_present().ok_or_else(|| NOWHERE.to_owned())?;
        let tcp = dial_plain(&here.address, self.terms.connect).await?;
        self.counts.connections.inc();
        Ok(tcp)
    }

    /// Opens a connection that counts nowhere, for a check of this server; and whether HTTP/2 is spoken on it. It begins as the
    /// traffic's do, but for whose it is.
    pub(in crate::backend) async fn line_for_check(
        &self,
        at: &Address,
        terms: &Check,
    ) -> Result<(Line, bool), String> {
        let tls = self.tls.as_ref().filter(|_| terms.tls != Some(false));
        // What listens elsewhere is there for checks, which are in HTTP/1.1 everywhere.
        let as_requests = terms.port.is_none() && tls.is_some() == self.is_secured();
        let offer = if as_requests {
            Offer::Usual
        } else {
            Offer::Http1
        };
        let told = self.send_proxy.as_ref();
        let told = told.filter(|_| terms.send_proxy != Some(false));
        let begins = told.map_or(Begins::With(&[]), |told| Begins::AsOurs(told));
        let dialled = dial(at, begins, tls, offer, terms.timeout).await;
        let (line, agreed) = dialled
            .map_err(|undialled| self.misfits_check(undialled.why, undialled.misfit, at, terms))?;
        Ok((line, as_requests && self.is_http2(agreed)?))
    }
}

fn keep(line: Line, home: Home, epoch: u64) -> Kept {
    let link = origin::Link::new(line);
    Kept { link, home, epoch }
}
