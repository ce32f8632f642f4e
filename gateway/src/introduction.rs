//! Who asked, for agents that want to be told: what is known of a visitor's connection, and the field in which it goes with
//! each of its requests. What a visitor wrote in a field of that name is gone before (`forward`). Called by `exchange`.

use std::net::SocketAddr;
use std::sync::OnceLock;

use http::HeaderMap;
use tidegate_shared::visitor::{self, Tls, VISITOR, Visitor};

use crate::exchange::Visit;

/// What a [`Visit`] does not need for itself.
#[derive(Debug, Default)]
pub struct Introduction {
    /// What the visitor connected to.
    to: Option<SocketAddr>,
    /// As in `TLSv1.3`.
    tls_version: Option<&'static str>,
    alpn: Option<&'static [u8]>,
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
    pub fn over_tls(self, tls_version: Option<&'static str>, alpn: Option<&'static [u8]>) -> Self {
        Self {
            tls_version,
            alpn,
            ..self
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
                    version: self.tls_version.map(Box::from),
                    alpn: self.alpn.map(Box::from),
                    server_name: server_name.as_deref().map(Box::from),
                }),
            };
            visitor.stem().into()
        });
        if let Some(field) = visitor::field(stem, request) {
            headers.insert(VISITOR, field);
        }
    }
}
