//! A server in a simulated network: the same in all but where its sockets and its time come from.

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

    /// How its [recording](crate::ServerBuilder::record) goes; `None` without one.
    pub fn recording(&self) -> Option<Recording> {
        self.engine.recording()
    }

    /// Its number in this network; `None` if it is not there.
    pub(crate) fn number_in(&self, network: &Shared) -> Option<usize> {
        match &self.host {
            Host::Simulated(host) => host.number(network),
            Host::Kernel(_) => None,
        }
    }
}
