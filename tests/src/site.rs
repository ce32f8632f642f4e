//! The scene of most tests: one gateway, one app, and one agent for [`HOST`] between them; or, with [`DIALLED`] in the
//! environment, a backend of the gateway's that is the app, so that the same tests hold for both.

use std::time::{Duration, Instant};

use crate::apps::HttpApp;
use crate::program::Program;
use crate::visitors::http1::{Answer, Visitor};
use crate::world::{Builder, World};

/// The name of the site. The gateway has a visitor certificate for it.
pub const HOST: &str = "blog.test";

/// Set by `backends`, which runs some of the tests once more: the gateway dials the app.
pub const DIALLED: &str = "TIDEGATE_TESTS_DIALLED";

/// A site that can be visited.
#[derive(Debug)]
pub struct Site {
    /// The gateway and its CA.
    pub world: World,
    /// What the agent stands in front of.
    pub app: HttpApp,
    /// The agent.
    pub agent: Program,
}

/// The configuration of a gateway for which an app is the backend of [`HOST`].
fn dialled(app: &HttpApp) -> String {
    format!(
        "[backends.site.servers]\none = \"{}\"\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n",
        app.address()
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
        if std::env::var_os(DIALLED).is_some() {
            let world = gateway.config(&dialled(&app)).start().await;
            let agent = world.agent_with("another.test", app.target(), agent).await;
            return Self { world, app, agent };
        }
        let world = gateway.start().await;
        let agent = world.agent_with(HOST, app.target(), agent).await;
        Self { world, app, agent }
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
