//! Who asked, for servers and agents that want to be told: what is known of a visitor's connection, and the field in which it
//! goes to agents with each of its requests. What a visitor wrote in a field of that name is gone before (`forward`). Called by `exchange`.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::HeaderMap;
use tidegate_shared::proxy_header::Tlvs;
use tidegate_shared::visitor::{self, Tls, VISITOR, Visitor};

use crate::backend::greeting::{Introduced, TlsFacts};
use crate::backend::{Caller, Tie};
use crate::cloud::{Cloud, Label};
use crate::door::Taken;
use crate::exchange::Visit;

/// What a [`Visit`] does not need for itself.
#[derive(Debug, Default)]
pub struct Introduction {
    /// What the visitor connected to.
    to: Option<SocketAddr>,
    tls: TlsFacts,
    alpn: Option<&'static [u8]>,
    /// The header with which the connection came, and what that said.
    header: Option<Taken>,
    received: Tlvs,
    /// Servers' connections that are its own, once there are any.
    tie: OnceLock<Arc<Tie>>,
    /// The field up to the request's id, made when an agent first wants it.
    stem: OnceLock<Box<str>>,
}

impl Introduction {
    /// Of a connection in clear text. An IPv4 address of a listener on `[::]` is shown as what it is.
    pub fn new(to: Option<SocketAddr>) -> Self {
        Self {
            to: to.map(|to| SocketAddr::new(to.ip().to_canonical(), to.port())),
            ..Self::default()
        }
    }

    /// The same over TLS.
    pub fn over_tls(self, tls: TlsFacts, alpn: Option<&'static [u8]>) -> Self {
        Self { tls, alpn, ..self }
    }

    /// The same where a header came with it.
    pub fn received(self, received: Tlvs, header: Option<Taken>) -> Self {
        Self {
            received,
            header,
            ..self
        }
    }

    /// How the lines of the connection say whose it is.
    pub fn label(&self, visitor: SocketAddr) -> Label {
        Label {
            cloud: Cloud::of(&self.received),
            ..visitor.into()
        }
    }

    /// What the visitor connected to.
    pub fn to(&self) -> Option<SocketAddr> {
        self.to
    }

    /// The header with which the connection came, if one did.
    pub fn header(&self) -> Option<Taken> {
        self.header
    }

    /// The same, where it names nobody.
    pub fn nameless(&self) -> Option<Taken> {
        self.header.filter(Taken::is_nameless)
    }

    /// For a server that is told who asks. `host` is whom the request is for, which counts where TLS has not said it.
    pub(crate) fn caller<'a>(
        &'a self,
        visit: &'a Visit,
        host: Option<&'a str>,
        request: &'a str,
    ) -> Caller<'a> {
        let (tls, sni) = match &visit.tls {
            Some((_, sni)) => (Some(self.tls), sni.as_deref()),
            None => (None, None),
        };
        let introduced = Introduced {
            from: visit.visitor,
            to: self.to,
            authority: sni.or(host),
            alpn: self.alpn,
            id: request,
            tls,
            received: Some(&self.received),
        };
        Caller {
            source: visit.visitor.ip(),
            introduced: Some(introduced),
            tie: Some(self.tie.get_or_init(Tie::new)),
        }
    }

    /// Puts the field into the head of a request that goes to an agent.
    pub(crate) fn tell(&self, headers: &mut HeaderMap, visit: &Visit, request: &str) {
        let stem = self.stem.get_or_init(|| {
            let visitor = Visitor {
                connection: visit.gateway.access.connection_id().into(),
                from: visit.visitor,
                to: self.to,
                tls: visit.tls.as_ref().map(|(_, server_name)| Tls {
                    version: self.tls.version.map(Box::from),
                    alpn: self.alpn.map(Box::from),
                    server_name: server_name.as_deref().map(Box::from),
                }),
                asks: None,
            };
            visitor.stem().into()
        });
        if let Some(field) = visitor::field(stem, request) {
            headers.insert(VISITOR, field);
        }
    }
}
