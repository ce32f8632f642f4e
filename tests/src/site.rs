//! The scene of most tests: one gateway, one app, and one agent for [`HOST`] between them; or, with [`DIALLED`] in the
//! environment, a backend of the gateway's that is the app, so that the same tests hold for both.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::apps::HttpApp;
use crate::program::Program;
use crate::visitors::http1::{Answer, Visitor};
use crate::world::{Builder, World};

/// The name of the site. The gateway has a visitor certificate for it.
pub const HOST: &str = "blog.test";

/// Set by `backends`, which runs some of the tests once more: the gateway dials the app. With [`BY_HTTP2`] in it, the gateway dials
/// another gateway in HTTP/2, and that one the app.
pub const DIALLED: &str = "TIDEGATE_TESTS_DIALLED";

/// See [`DIALLED`].
pub const BY_HTTP2: &str = "h2";

/// A site that can be visited.
#[derive(Debug)]
pub struct Site {
    /// The gateway and its CA.
    pub world: World,
    /// What the agent stands in front of.
    pub app: HttpApp,
    /// The agent.
    pub agent: Program,
    /// Another gateway on the way.
    _inner: Option<World>,
}

/// The configuration of a gateway for which an app is the backend of [`HOST`].
fn dialled(app: SocketAddr, protocol: &str) -> String {
    format!(
        "[backends.site]\nprotocol = \"{protocol}\"\n[backends.site.servers]\none = \"{app}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n"
    )
}

impl Site {
    /// A site with defaults everywhere.
    pub async fn start() -> Self {
        Self::start_with(World::builder(), &[]).await
    }

    /// A site with a gateway and an agent of the test's own making.
    pub async fn start_with(gateway: Builder, agent: &[&str]) -> Self {
        let app = HttpApp::start("blog").await;
        if let Some(how) = std::env::var_os(DIALLED) {
            let direct = dialled(app.address(), "http/1.1");
            let (inner, config) = if how == BY_HTTP2 {
                let inner = World::builder().config(&direct).start().await;
                let config = dialled(inner.visitors, "h2");
                (Some(inner), config)
            } else {
                (None, direct)
            };
            let world = gateway.config(&config).start().await;
            let agent = world.agent_with("another.test", app.target(), agent).await;
            return Self {
                world,
                app,
                agent,
                _inner: inner,
            };
        }
        let world = gateway.start().await;
        let agent = world.agent_with(HOST, app.target(), agent).await;
        Self {
            world,
            app,
            agent,
            _inner: None,
        }
    }

    /// A clear-text visitor.
    pub async fn visitor(&self) -> Visitor {
        self.world.visitor().await
    }

    /// One GET in clear text.
    pub async fn get(&self, path: &str) -> Answer {
        self.world.get(HOST, path).await
    }

    /// Another visitor is answered, and without a wait: within a second, also on a loaded machine. `what` is going on meanwhile.
    pub async fn answers_at_once(&self, what: &str) {
        let began = Instant::now();
        assert_eq!(self.get("/hello").await.status(), 200, "{what}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{what}: {took:?}");
    }

    /// Sends bytes on a connection of their own, and returns the answer to `method`.
    pub async fn ask(&self, method: &str, bytes: impl AsRef<[u8]>) -> Answer {
        let mut visitor = self.visitor().await;
        visitor.send(bytes).await;
        visitor.answer(method).await
    }
}
