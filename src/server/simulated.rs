//! A server in a simulated network: the same in all but where its sockets and its time come from.

use std::io;

use super::Server;
use crate::{
    config::Config,
    net::seat::Seat,
    network::Shared,
    services::Services,
    tape::{Core, Recording},
};

impl Server {
    pub(crate) fn simulated(config: Config, services: Services, network: Shared) -> io::Result<Server> {
        let seat = Seat::new(network);
        let mut engine = Core::new(config.clone(), services, seat.now());
        engine.draw_from(seat.entropy());
        let server = Server::new(config, Services::default(), Vec::new())?;
        Ok(Server { engine, seat: Some(seat), ..server })
    }

    /// How its [recording](crate::ServerBuilder::record) goes; `None` without one.
    pub fn recording(&self) -> Option<Recording> {
        self.engine.recording()
    }

    /// Its number in this network; `None` if it is not there.
    pub(crate) fn host(&self, network: &Shared) -> Option<usize> {
        self.seat.as_ref().and_then(|seat| seat.host(network))
    }
}
