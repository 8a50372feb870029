//! Resolves host names on a separate thread, because the system's resolver may block for many
//! seconds.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
};

use mio::Waker;

use crate::{error::ConnectError, id::ClientId};

type Name = (String, u16);
type Found = (Name, Result<Vec<SocketAddr>, String>);

/// The client that waited for a name, and the addresses found.
pub(crate) type Resolved = (ClientId, Result<Vec<SocketAddr>, ConnectError>);

/// The resolver thread: the only thread that the library starts, and only when the first name has
/// to be resolved. It ends after the server is dropped, once the current look-up returns.
#[derive(Debug)]
pub(crate) struct Resolver {
    names: SyncSender<Name>,
    found: Arc<Mutex<Vec<Found>>>,
    /// The connections that wait for each name. Connections to the same name share one look-up.
    waiting: HashMap<Name, BTreeSet<ClientId>>,
}

impl Resolver {
    /// The maximum number of names that wait for the thread.
    const MAX_NAMES: usize = 64;

    /// The maximum number of connections that wait for one name.
    const MAX_WAITING: usize = 65_536;

    pub(crate) fn new(waker: Arc<Waker>) -> io::Result<Self> {
        let (names, inbox) = mpsc::sync_channel(Self::MAX_NAMES);
        let found = Arc::new(Mutex::new(Vec::new()));
        let results = Arc::clone(&found);
        thread::Builder::new()
            .name("tickws-resolver".into())
            .spawn(move || look_up_all(&inbox, &results, &waker, look_up))?;
        Ok(Resolver { names, found, waiting: HashMap::new() })
    }

    /// Starts to resolve a name; [`take_results`](Self::take_results) returns the result later.
    pub(crate) fn start(&mut self, id: ClientId, host: String, port: u16) -> Result<(), ConnectError> {
        let name = (host, port);
        if let Some(waiting) = self.waiting.get_mut(&name) {
            // Attempts that were given up stay in the set until the name is resolved.
            if waiting.len() >= Self::MAX_WAITING {
                return Err(ConnectError::ResolverBusy);
            }
            waiting.insert(id);
            return Ok(());
        }
        match self.names.try_send(name.clone()) {
            Ok(()) => {
                self.waiting.insert(name, BTreeSet::from([id]));
                Ok(())
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(ConnectError::ResolverBusy),
        }
    }

    /// Takes the results since the last call.
    pub(crate) fn take_results(&mut self) -> Vec<Resolved> {
        let found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        let mut results = Vec::new();
        for (name, outcome) in found {
            let outcome = outcome.map_err(|error| ConnectError::Resolve { host: name.0.clone(), error });
            let waiting = self.waiting.remove(&name).unwrap_or_default();
            results.extend(waiting.into_iter().map(|id| (id, outcome.clone())));
        }
        results
    }
}

fn look_up((host, port): &Name) -> Result<Vec<SocketAddr>, String> {
    match (host.as_str(), *port).to_socket_addrs() {
        Ok(addrs) => Ok(addrs.collect()),
        Err(error) => Err(error.to_string()),
    }
}

/// Resolves names until the resolver is dropped.
fn look_up_all(
    inbox: &Receiver<Name>,
    results: &Mutex<Vec<Found>>,
    waker: &Waker,
    look_up: impl Fn(&Name) -> Result<Vec<SocketAddr>, String>,
) {
    while let Ok(name) = inbox.recv() {
        let outcome = look_up(&name);
        results.lock().unwrap_or_else(PoisonError::into_inner).push((name, outcome));
        if let Err(error) = waker.wake() {
            log::error!("cannot wake the server: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn id(serial: u32) -> ClientId {
        ClientId::new(serial, crate::id::Serial::new(serial.into()))
    }

    fn wait(poll: &mut Poll, resolver: &mut Resolver) -> Vec<Resolved> {
        let mut events = Events::with_capacity(4);
        loop {
            let taken = resolver.take_results();
            if !taken.is_empty() {
                return taken;
            }
            poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert!(!events.is_empty(), "the loop was not woken");
        }
    }

    #[test]
    fn result_of_a_look_up_wakes_the_loop() {
        let mut poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let mut resolver = Resolver::new(waker).unwrap();
        // `localhost` is resolved without a network.
        resolver.start(id(1), "localhost".into(), 7).unwrap();
        let found = wait(&mut poll, &mut resolver);
        assert_eq!(found[0].0, id(1));
        assert!(found[0].1.as_ref().unwrap().iter().all(|addr| addr.ip().is_loopback() && addr.port() == 7));
        // A name with a space never exists.
        resolver.start(id(2), "no name".into(), 7).unwrap();
        let failed = wait(&mut poll, &mut resolver);
        assert!(matches!(&failed[..], [(_, Err(ConnectError::Resolve { host, .. }))] if host == "no name"));
    }

    #[test]
    fn same_name_is_looked_up_once_and_the_queue_is_bounded() {
        // No thread takes names from this queue.
        let (names, inbox) = mpsc::sync_channel(Resolver::MAX_NAMES);
        let found = Arc::default();
        let mut resolver = Resolver { names, found, waiting: HashMap::new() };
        for serial in 0..1000 {
            resolver.start(id(serial), "a.example".into(), 80).unwrap();
            resolver.start(id(serial), "a.example".into(), 80).unwrap();
        }
        for serial in 1..Resolver::MAX_NAMES as u32 {
            resolver.start(id(serial), format!("{serial}.example"), 80).unwrap();
        }
        let busy = resolver.start(id(1), "one.too.many".into(), 80);
        assert_eq!(busy, Err(ConnectError::ResolverBusy));
        assert_eq!(inbox.try_iter().count(), Resolver::MAX_NAMES);
        let addrs = vec![SocketAddr::from(([1, 2, 3, 4], 80))];
        resolver.found.lock().unwrap().push((("a.example".into(), 80), Ok(addrs.clone())));
        let results = resolver.take_results();
        assert_eq!(results.len(), 1000);
        assert!(results.iter().all(|(_, outcome)| outcome.as_ref() == Ok(&addrs)));
    }
}
