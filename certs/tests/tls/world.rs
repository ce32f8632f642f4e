//! An authority with its files, and two ends that meet without a socket.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::DerefMut;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, Error, RootCertStore, ServerConfig,
    ServerConnection, SupportedProtocolVersion,
};
use tempfile::TempDir;
use tidegate_certs::anchor;
use tidegate_certs::ca::{Authority, Validity};
use tidegate_shared::tls::{
    Anchors, End, HandshakeFault, PemFile, SwapIdentity, agent_client, tunnel_server,
};

/// A directory with an authority, and files written into it by name.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) authority: Authority,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            authority: Authority::create(Validity::days(3650)).unwrap(),
        };
        world.write("ca.crt", world.authority.certificate_pem());
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// The authorities in `ca.crt`, as an end of a tunnel has them.
    pub(crate) fn anchors(&self, end: End) -> Anchors {
        Anchors::load(&self.ca(), end, anchor::require).unwrap()
    }

    /// Written beside its place and renamed, as renewals are.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, beside) = (self.path(name), self.path("beside"));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
        fs::rename(beside, &path).unwrap();
        path
    }

    pub(crate) fn agent(&self, names: &[&str]) -> Arc<SwapIdentity> {
        self.agent_during(names, Validity::days(1))
    }

    pub(crate) fn agent_during(&self, names: &[&str], validity: Validity) -> Arc<SwapIdentity> {
        let bundle = self.authority.issue_agent(names, validity).unwrap();
        SwapIdentity::load(&self.write("agent.pem", bundle.pem())).unwrap()
    }

    pub(crate) fn gateway(&self) -> Arc<SwapIdentity> {
        self.gateway_during(Validity::days(1))
    }

    pub(crate) fn gateway_during(&self, validity: Validity) -> Arc<SwapIdentity> {
        let bundle = self
            .authority
            .issue_gateway(&["gw.test", "127.0.0.1"], validity)
            .unwrap();
        SwapIdentity::load(&self.write("gateway.pem", bundle.pem())).unwrap()
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        tunnel_server(self.gateway(), &self.anchors(End::Gateway)).unwrap()
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        agent_client(self.agent(&["app1"]), &self.anchors(End::Agent)).unwrap()
    }

    /// A client that is not ours: any version, any ALPN, resumption on, with or without a certificate.
    pub(crate) fn stranger(
        &self,
        version: &'static SupportedProtocolVersion,
        identity: Option<Arc<SwapIdentity>>,
        alpn: &[&[u8]],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in PemFile::read(&self.ca()).unwrap().certificates {
            roots.add(certificate).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_webpki_verifier(verifier.build().unwrap());
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(identity),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.into()
    }
}

/// A finished or failed handshake, seen from both ends.
pub(crate) struct Met {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    pub(crate) client_error: Option<Error>,
    pub(crate) server_error: Option<Error>,
}

impl Met {
    pub(crate) fn by_server(&self) -> HandshakeFault {
        HandshakeFault::from_rustls(self.server_error.as_ref().expect("the server refuses"))
    }

    pub(crate) fn by_client(&self) -> HandshakeFault {
        HandshakeFault::from_rustls(self.client_error.as_ref().expect("the client learns of it"))
    }

    pub(crate) fn assert_done(&self) {
        assert_eq!((&self.client_error, &self.server_error), (&None, &None));
        assert!(!self.client.is_handshaking() && !self.server.is_handshaking());
    }
}

pub(crate) fn meet(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &'static str,
) -> Met {
    let mut met = Met {
        client: ClientConnection::new(client.clone(), name.try_into().unwrap()).unwrap(),
        server: ServerConnection::new(server.clone()).unwrap(),
        client_error: None,
        server_error: None,
    };
    loop {
        let mut wire = Vec::new();
        while met.client.wants_write() {
            met.client.write_tls(&mut wire).unwrap();
        }
        let sent = wire.len();
        if met.server_error.is_none() {
            met.server_error = read(&mut met.server, &wire);
        }
        wire.clear();
        while met.server.wants_write() {
            met.server.write_tls(&mut wire).unwrap();
        }
        if met.client_error.is_none() {
            met.client_error = read(&mut met.client, &wire);
        }
        if sent + wire.len() == 0 {
            return met;
        }
    }
}

pub(crate) fn read<Data>(
    end: &mut impl DerefMut<Target = ConnectionCommon<Data>>,
    mut wire: &[u8],
) -> Option<Error> {
    while !wire.is_empty() {
        end.read_tls(&mut wire).unwrap();
        if let Err(e) = end.process_new_packets() {
            return Some(e);
        }
    }
    None
}

pub(crate) fn past(seconds: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(seconds)
}

pub(crate) fn future(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds)
}

pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];
