//! A server in a simulated network. Only its sockets, its clock and its random numbers differ.

use super::Server;
use crate::{
    config::Config,
    engine::hooks::Hooks,
    net::{host::Host, sim::Shared, sim_host::SimHost},
    record::Recording,
};

impl Server {
    pub(crate) fn simulated(config: Config, hooks: Hooks, network: Shared) -> Server {
        let host = SimHost::new(network);
        let entropy = host.entropy();
        let mut server = Server::on(Host::Simulated(host), config, hooks);
        server.engine.draw_from(entropy);
        server
    }

    /// The state of the [recording](crate::ServerBuilder::record); `None` without one.
    pub fn recording(&self) -> Option<Recording> {
        self.engine.recording()
    }

    /// The number of this server in the network; `None` if it is not part of it.
    pub(crate) fn number_in(&self, network: &Shared) -> Option<usize> {
        match &self.host {
            Host::Simulated(host) => host.number(network),
            Host::Kernel(_) => None,
        }
    }
}
