//! Access to the server from other threads: they queue commands, which the server's thread carries
//! out in a poll.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::Server;
use crate::{
    close_code::CloseCode,
    config::{
        audience::{Audience, OwnedAudience},
        send_options::{LatestKey, SendOptions},
    },
    error::HandleError,
    id::{ClientId, Room},
    net::host::Waker,
    outbox::{outgoing::AsMessage, prepared::Prepared},
    proto::close,
    server::mailbox::{Address, Mailbox},
};

/// A call of a [`Handle`], queued for the server.
pub(super) enum Command {
    Send(ClientId, Prepared),
    Deliver(OwnedAudience, Prepared, SendOptions),
    Close(ClientId, CloseCode, Box<str>),
    Disconnect(ClientId),
    Call(Box<dyn FnOnce(&mut Server) + Send>),
    Shutdown(CloseCode, Box<str>, Duration),
}

/// Sends commands to a [`Server`] from any thread. Made by [`Server::handle`], and cheap to clone.
///
/// Each call queues one command and wakes the server; no call blocks. `Ok` means *accepted*: the
/// server carries the command out in its next poll, or in the one in which it sleeps, and messages
/// leave in that poll. Commands are carried out in the order of acceptance, so those of one thread
/// keep their order. Messages are framed on the calling thread; prepare one that goes to several
/// [`send`](Handle::send)s as a [`Prepared`].
///
/// A message or a close that can no longer be queued, because the client is gone, closing or full
/// by then, returns no error: it is counted in [`Stats::undelivered`](crate::Stats::undelivered),
/// and logged. Use [`call`](Handle::call) where the outcome matters. Commands that still wait when
/// the server is dropped are dropped with it.
///
/// # Errors
///
/// All calls: [`HandleError::Full`] while [`handle_queue`](crate::ServerBuilder::handle_queue)
/// commands wait (nothing was queued; try again later, or drop the command), and
/// [`HandleError::ServerGone`] once the server is dropped.
///
/// # Examples
///
/// ```
/// use std::{thread, time::Duration};
/// use tickws::{CloseCode, HandleError, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind("127.0.0.1:0")?;
/// let handle = server.handle();
/// let worker = thread::spawn(move || -> Result<(), HandleError> {
///     handle.broadcast("the result is 42")?;
///     handle.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(5))
/// });
/// server.run(|_, event| println!("{event:?}"))?; // until the worker's shutdown is complete
/// worker.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle(Address<Command, Waker>);

impl Handle {
    /// Queues a message for one client.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn send(&self, client: ClientId, message: impl AsMessage) -> Result<(), HandleError> {
        self.0.post(Command::Send(client, message.as_message().prepare()))
    }

    /// Queues a message for an audience, with options, as [`Server::deliver`] does. The audience is
    /// resolved and an expiry counts from when the command is carried out.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{Audience, Handle, HandleError, SendOptions};
    ///
    /// fn score(handle: &Handle, score: u32) -> Result<(), HandleError> {
    ///     let options = SendOptions::new().latest("score");
    ///     handle.deliver(Audience::Room("lobby".into()), score.to_string(), &options)
    /// }
    /// ```
    pub fn deliver(
        &self,
        audience: impl Into<OwnedAudience>,
        message: impl AsMessage,
        options: &SendOptions,
    ) -> Result<(), HandleError> {
        let (message, options) = (message.as_message().prepare(), options.clone());
        self.0.post(Command::Deliver(audience.into(), message, options))
    }

    /// Queues a message for every client that is open when the command is carried out.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn broadcast(&self, message: impl AsMessage) -> Result<(), HandleError> {
        self.deliver(OwnedAudience::Everyone, message, &SendOptions::new())
    }

    /// As [`broadcast`](Handle::broadcast), for all clients but one.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn broadcast_except(&self, except: ClientId, message: impl AsMessage) -> Result<(), HandleError> {
        self.deliver(OwnedAudience::Everyone, message, &SendOptions::new().except(except))
    }

    /// As [`Server::broadcast_latest`], for the clients that are open when the command is carried
    /// out.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn broadcast_latest(
        &self,
        key: impl Into<LatestKey>,
        message: impl AsMessage,
    ) -> Result<(), HandleError> {
        self.deliver(OwnedAudience::Everyone, message, &SendOptions::new().latest(key))
    }

    /// Queues a message for every client that is in the room when the command is carried out.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn publish<'r>(&self, room: impl Into<Room<'r>>, message: impl AsMessage) -> Result<(), HandleError> {
        self.deliver(Audience::Room(room.into()), message, &SendOptions::new())
    }

    /// As [`publish`](Handle::publish), for all members but one.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn publish_except<'r>(
        &self,
        room: impl Into<Room<'r>>,
        except: ClientId,
        message: impl AsMessage,
    ) -> Result<(), HandleError> {
        self.deliver(Audience::Room(room.into()), message, &SendOptions::new().except(except))
    }

    /// As [`Server::publish_latest`], for the members when the command is carried out.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn publish_latest<'r>(
        &self,
        room: impl Into<Room<'r>>,
        key: impl Into<LatestKey>,
        message: impl AsMessage,
    ) -> Result<(), HandleError> {
        self.deliver(Audience::Room(room.into()), message, &SendOptions::new().latest(key))
    }

    /// Queues a message for every connection that the user has when the command is carried out.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn send_to_user(&self, key: impl AsRef<str>, message: impl AsMessage) -> Result<(), HandleError> {
        self.deliver(Audience::User(key.as_ref()), message, &SendOptions::new())
    }

    /// Begins the close handshake, as [`Server::close`] does.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors), and [`HandleError::Close`] at once for a code or a reason
    /// that cannot be sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use tickws::{ClientId, Handle, HandleError};
    ///
    /// fn kick(handle: &Handle, client: ClientId) -> Result<(), HandleError> {
    ///     handle.close(client, 4001, "kicked")
    /// }
    /// ```
    pub fn close(
        &self,
        client: ClientId,
        code: impl Into<CloseCode>,
        reason: &str,
    ) -> Result<(), HandleError> {
        let code = code.into();
        close::check(code.into(), reason)?;
        self.0.post(Command::Close(client, code, reason.into()))
    }

    /// Drops the connection without a close frame, as [`Server::disconnect`] does.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn disconnect(&self, client: ClientId) -> Result<(), HandleError> {
        self.0.post(Command::Disconnect(client))
    }

    /// Runs a closure on the server's thread, inside a poll: for operations that have no call of
    /// their own, and for results. The poll takes as long as the closure does. The closure may do
    /// everything with the server but poll, which is an error inside of it. A panic of the closure
    /// passes through `poll_*`. If the closure puts another server in the place of this one, for
    /// instance with `std::mem::replace`, the poll goes on with that one; the server that was taken
    /// out keeps its clients and events, and can be polled by its new owner.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors); the closure is dropped then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::{sync::mpsc, thread, time::Duration};
    /// use tickws::{CloseCode, Server};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut server = Server::bind("127.0.0.1:0")?;
    /// let handle = server.handle();
    /// let worker = thread::spawn(move || {
    ///     let (answer, count) = mpsc::channel();
    ///     handle.call(move |server| {
    ///         let _ = answer.send(server.client_count());
    ///         server.shutdown(CloseCode::GOING_AWAY, "", Duration::ZERO);
    ///     })?;
    ///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(count.recv()?)
    /// });
    /// server.run(|_, _| {})?;
    /// assert_eq!(worker.join().unwrap().unwrap(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn call(&self, call: impl FnOnce(&mut Server) + Send + 'static) -> Result<(), HandleError> {
        self.0.post(Command::Call(Box::new(call)))
    }

    /// Ends the server's sleep, or the next one if it is awake: that poll returns, perhaps with an
    /// empty tick. A wake takes no place in the queue, and many wakes before a poll count as one.
    ///
    /// # Errors
    ///
    /// [`HandleError::ServerGone`].
    pub fn wake(&self) -> Result<(), HandleError> {
        self.0.wake()
    }

    /// Begins a shutdown, as [`Server::shutdown`] does; [`Server::run`] returns when it is
    /// complete.
    ///
    /// # Errors
    ///
    /// As [all calls](Handle#errors).
    pub fn shutdown(
        &self,
        code: impl Into<CloseCode>,
        reason: &str,
        deadline: Duration,
    ) -> Result<(), HandleError> {
        self.0.post(Command::Shutdown(code.into(), reason.into(), deadline))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("server_gone", &self.0.is_gone()).finish_non_exhaustive()
    }
}

impl Server {
    /// Returns a handle to this server for other threads. The first call allocates the queue; a
    /// server without handles has none.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut server = tickws::Server::bind("127.0.0.1:0")?;
    /// let handle = server.handle();
    /// std::thread::spawn(move || handle.wake());
    /// assert!(server.poll_wait(None)?.is_empty()); // woken
    /// # Ok(())
    /// # }
    /// ```
    pub fn handle(&mut self) -> Handle {
        let capacity = self.engine.config().handle_queue;
        let waker = || Arc::new(self.host.waker());
        let mailbox = self.mailbox.get_or_insert_with(|| Mailbox::new(capacity, waker()));
        Handle(mailbox.address())
    }

    /// An error if a closure of [`Handle::call`] is running, and therefore a poll.
    pub(super) fn check_may_poll(&self) -> io::Result<()> {
        if self.in_call.load(Ordering::Relaxed) {
            let text = "a closure given to Handle::call must not poll: it runs inside a poll";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        Ok(())
    }

    /// The most commands that a poll carries out: the capacity of the queue, so that busy threads
    /// cannot keep the server from its clients. One more shows that a full queue is empty then.
    pub(super) fn command_budget(&self) -> usize {
        self.engine.config().handle_queue + 1
    }

    /// Whether commands may wait for a poll.
    pub(super) fn has_commands(&self) -> bool {
        self.mailbox.as_ref().is_some_and(Mailbox::has_mail)
    }

    /// Carries out waiting commands, within the budget. Returns whether a handle has called. Then
    /// this poll must not sleep, because an earlier poll may have consumed the wake-up.
    pub(super) fn carry_out(&mut self, budget: &mut usize) -> bool {
        let called = self.open_mailbox();
        let before = *budget;
        while self.carry_out_next(budget) {}
        called || *budget < before
    }

    /// Takes the wake-up of the handles. Returns whether there was one.
    #[inline]
    pub(super) fn open_mailbox(&mut self) -> bool {
        self.mailbox.as_mut().is_some_and(Mailbox::open)
    }

    /// Carries out one command, within the budget. `false`: none waits, or the budget is used up.
    #[inline]
    pub(super) fn carry_out_next(&mut self, budget: &mut usize) -> bool {
        let Some(left) = budget.checked_sub(1) else { return false };
        let Some(command) = self.mailbox.as_mut().and_then(Mailbox::take) else { return false };
        *budget = left;
        self.execute(command);
        true
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Send(client, message) => {
                let sent = self.send(client, message);
                self.note("a message", sent);
            }
            Command::Deliver(audience, message, options) => {
                let delivery = self.deliver(&audience, message, &options);
                if delivery.not_open > 0 {
                    self.note(
                        "a message",
                        Err(format!("{} of its recipients are not open", delivery.not_open)),
                    );
                }
            }
            Command::Close(client, code, reason) => {
                let closed = self.close(client, code, &reason);
                self.note("a close", closed);
            }
            Command::Disconnect(client) => {
                let dropped = self.disconnect(client);
                self.note("a disconnect", dropped);
            }
            Command::Call(call) => {
                let flag = Arc::clone(&self.in_call);
                flag.store(true, Ordering::Relaxed);
                // The guard's drop marks the end of the call, even after a panic.
                let guard = InCall(flag);
                call(self);
                // The closure may have put another server in the place of this one.
                self.swapped_in = !Arc::ptr_eq(&guard.0, &self.in_call);
            }
            Command::Shutdown(code, reason, deadline) => self.shutdown(code, &reason, deadline),
        }
    }

    /// Counts and logs a failed command, whose caller can no longer get the error.
    fn note<E: fmt::Display>(&mut self, what: &str, outcome: Result<(), E>) {
        if let Err(error) = outcome {
            self.engine.count_undelivered();
            log::debug!("{what} of a handle was not queued: {error}");
        }
    }
}

/// Marks a server as inside a closure of [`Handle::call`] while it lives, wherever the closure
/// moves the server.
struct InCall(Arc<AtomicBool>);

impl Drop for InCall {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
