//! The scene of the tests that play the gateway themselves: a `tidegate` with one tunnel to a gateway by hand, and its app.

use tempfile::TempDir;

use crate::apps::HttpApp;
use crate::peers::gateway::RawGateway;
use crate::pki::Pki;
use crate::program::Program;
use crate::site::HOST;
use crate::world::launch_agent;

/// A gateway of frames, an agent for [`HOST`] that dials it, and the agent's app, called `blog`. Nothing has been accepted.
#[derive(Debug)]
pub struct ByHand {
    /// Where the agent's one tunnel arrives.
    pub gateway: RawGateway,
    /// The agent.
    pub agent: Program,
    /// What the agent stands in front of.
    pub app: HttpApp,
    _dir: TempDir,
}

impl ByHand {
    /// Starts all three.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::create(dir.path(), "ca");
        let gateway = RawGateway::listen(&pki, &pki.server(&["localhost"])).await;
        let app = HttpApp::start("blog").await;
        let address = format!("localhost:{}", gateway.address().port());
        let (identity, ca) = (pki.agent(&[HOST]), pki.ca_file("ca"));
        let options = ["--tunnels", "1"];
        let agent = launch_agent(&[], &address, &identity, &ca, app.target(), &options);
        Self {
            gateway,
            agent,
            app,
            _dir: dir,
        }
    }
}
