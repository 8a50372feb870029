//! A bounded command queue to a thread that sleeps in the kernel, with one wake-up for many posts.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
};

use crate::{error::HandleError, net::host::Wake, util::exclusive::Exclusive};

/// The owner's end. Yields the posts in the order in which they were accepted.
///
/// The owner alternates [`open`](Mailbox::open) and [`take`](Mailbox::take), and does not sleep
/// while [`has_mail`](Mailbox::has_mail).
///
/// No wake-up is lost. A post first enters the queue, then sets the flag `pending`. `open` first
/// clears the flag, then the owner empties the queue. All of these changes of the flag are
/// read-modify-writes, so they have one order, and there are two cases:
///
/// - The post sets the flag before the `open`. Then this `open` sees the change and everything
///   before it, including the queue's entry, and `take` returns the post.
/// - The post sets the flag after the `open`. The first such post finds the flag clear and wakes
///   the owner. A later one finds it set: the wake-up of the first is on its way, and the flag was
///   not cleared in between, so the `open` that follows this wake-up comes after both posts.
#[derive(Debug)]
pub(crate) struct Mailbox<C, W> {
    queue: Exclusive<Receiver<C>>,
    address: Address<C, W>,
    /// The mailbox was opened, and `take` has not returned `None` since.
    left: bool,
}

/// The other threads' end.
pub(crate) struct Address<C, W> {
    queue: SyncSender<C>,
    shared: Arc<Shared<W>>,
}

struct Shared<W> {
    waker: Arc<W>,
    /// A wake-up was or is about to be sent, and the mailbox was not opened since.
    pending: AtomicBool,
    gone: AtomicBool,
}

impl<C, W: Wake> Mailbox<C, W> {
    pub(crate) fn new(capacity: usize, waker: Arc<W>) -> Self {
        let (sender, receiver) = mpsc::sync_channel(capacity);
        let shared = Shared { waker, pending: AtomicBool::new(false), gone: AtomicBool::new(false) };
        let address = Address { queue: sender, shared: Arc::new(shared) };
        Mailbox { queue: Exclusive::new(receiver), address, left: false }
    }

    pub(crate) fn address(&self) -> Address<C, W> {
        self.address.clone()
    }

    /// Call before `take`: posts from now on send a new wake-up. Returns whether there may be
    /// posts.
    pub(crate) fn open(&mut self) -> bool {
        let left = std::mem::replace(&mut self.left, true);
        self.address.shared.pending.swap(false, Ordering::AcqRel) || left
    }

    /// Takes the next post.
    pub(crate) fn take(&mut self) -> Option<C> {
        let post = self.queue.get_mut().try_recv().ok();
        self.left = post.is_some();
        post
    }

    /// Whether posts may be waiting. Also true after a wake-up without a post.
    pub(crate) fn has_mail(&self) -> bool {
        self.left || self.address.shared.pending.load(Ordering::Acquire)
    }
}

impl<C, W> Drop for Mailbox<C, W> {
    fn drop(&mut self) {
        // `post` learns this from the queue; the flag is for `wake`, which does not use the queue.
        self.address.shared.gone.store(true, Ordering::Release);
    }
}

impl<C, W: Wake> Address<C, W> {
    /// Queues a post, and wakes the owner unless a wake-up is pending. Never blocks.
    ///
    /// # Errors
    ///
    /// [`HandleError::Full`], or [`HandleError::ServerGone`].
    pub(crate) fn post(&self, post: C) -> Result<(), HandleError> {
        self.queue.try_send(post).map_err(|error| match error {
            TrySendError::Full(_) => HandleError::Full,
            TrySendError::Disconnected(_) => HandleError::ServerGone,
        })?;
        self.ring();
        Ok(())
    }

    /// Wakes the owner, unless a wake-up is pending.
    ///
    /// # Errors
    ///
    /// [`HandleError::ServerGone`].
    pub(crate) fn wake(&self) -> Result<(), HandleError> {
        if self.is_gone() {
            return Err(HandleError::ServerGone);
        }
        self.ring();
        Ok(())
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.shared.gone.load(Ordering::Acquire)
    }

    fn ring(&self) {
        if self.shared.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = self.shared.waker.wake() {
            // The post stays queued until the owner wakes for another reason. The next post tries
            // to wake it again.
            self.shared.pending.store(false, Ordering::Release);
            log::error!("cannot wake the server: {error}");
        }
    }
}

impl<C, W> Clone for Address<C, W> {
    fn clone(&self) -> Self {
        Address { queue: self.queue.clone(), shared: self.shared.clone() }
    }
}

impl<C, W> fmt::Debug for Address<C, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { pending, gone, .. } = &*self.shared;
        f.debug_struct("Address").field("pending", pending).field("gone", gone).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Condvar, Mutex, atomic::AtomicUsize},
        thread,
        time::Duration,
    };

    use super::*;

    #[derive(Default)]
    struct Counting {
        wakes: AtomicUsize,
        broken: AtomicBool,
    }

    impl Wake for Counting {
        fn wake(&self) -> io::Result<()> {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            if self.broken.load(Ordering::Relaxed) { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
        }
    }

    fn mailbox(capacity: usize) -> (Mailbox<u32, Counting>, Address<u32, Counting>, Arc<Counting>) {
        let waker = Arc::new(Counting::default());
        let mailbox = Mailbox::new(capacity, waker.clone());
        let address = mailbox.address();
        (mailbox, address, waker)
    }

    #[test]
    fn many_posts_send_one_wake_up_until_the_mailbox_is_opened() {
        let (mut mailbox, address, waker) = mailbox(8);
        let wakes = || waker.wakes.load(Ordering::Relaxed);
        assert!(!mailbox.has_mail());
        for post in 0..5 {
            address.post(post).unwrap();
            address.clone().wake().unwrap();
        }
        assert_eq!((wakes(), mailbox.has_mail()), (1, true));
        mailbox.open();
        address.post(5).unwrap();
        assert_eq!(wakes(), 2, "the owner may have seen the end of the queue already");
        assert_eq!(std::iter::from_fn(|| mailbox.take()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert!(mailbox.has_mail(), "a wake-up is under way");
        mailbox.open();
        assert_eq!((mailbox.take(), mailbox.has_mail(), wakes()), (None, false, 2));
        address.wake().unwrap();
        assert_eq!((mailbox.has_mail(), wakes()), (true, 3));
    }

    #[test]
    fn posts_not_taken_after_open_still_count_as_mail() {
        let (mut mailbox, address, _) = mailbox(8);
        for post in 0..3 {
            address.post(post).unwrap();
        }
        mailbox.open();
        assert!(mailbox.has_mail(), "nothing was taken");
        assert_eq!((mailbox.take(), mailbox.has_mail()), (Some(0), true));
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(1), Some(2), None));
        assert!(!mailbox.has_mail());
    }

    #[test]
    fn a_full_queue_or_a_dropped_owner_is_an_error_without_wake_up() {
        let (mut mailbox, address, waker) = mailbox(2);
        address.post(1).unwrap();
        address.post(2).unwrap();
        assert_eq!(address.post(3), Err(HandleError::Full));
        mailbox.open();
        assert_eq!(
            (mailbox.take(), address.post(4), address.post(5)),
            (Some(1), Ok(()), Err(HandleError::Full))
        );
        let wakes = waker.wakes.load(Ordering::Relaxed);
        drop(mailbox);
        assert_eq!(
            (address.post(6), address.wake()),
            (Err(HandleError::ServerGone), Err(HandleError::ServerGone))
        );
        assert_eq!(waker.wakes.load(Ordering::Relaxed), wakes);
    }

    #[test]
    fn after_a_failed_wake_up_the_next_post_tries_again() {
        let (mut mailbox, address, waker) = mailbox(8);
        waker.broken.store(true, Ordering::Relaxed);
        address.post(1).unwrap();
        waker.broken.store(false, Ordering::Relaxed);
        address.post(2).unwrap();
        assert_eq!(waker.wakes.load(Ordering::Relaxed), 2);
        mailbox.open();
        assert_eq!((mailbox.take(), mailbox.take()), (Some(1), Some(2)));
    }

    /// Works like an eventfd: stays raised until a wait consumes it.
    #[derive(Default)]
    struct Raised(Mutex<bool>, Condvar);

    impl Wake for Raised {
        fn wake(&self) -> io::Result<()> {
            *self.0.lock().unwrap() = true;
            self.1.notify_one();
            Ok(())
        }
    }

    /// The thread waits for each post to be taken before the next, so one lost wake-up stops the
    /// test. It spins meanwhile, so that its next post coincides with the owner's last `take`.
    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: usize = 50_000;
        let waker = Arc::new(Raised::default());
        let mut mailbox: Mailbox<usize, Raised> = Mailbox::new(8, waker.clone());
        let (address, answered) = (mailbox.address(), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    for _ in 0..round % 64 {
                        std::hint::spin_loop();
                    }
                    address.post(round).unwrap();
                    let mut spins = 0;
                    while answered.load(Ordering::Acquire) == round {
                        spins += 1;
                        if spins % 1_000 == 0 {
                            thread::yield_now();
                        }
                    }
                }
            });
            let mut lost = None;
            while answered.load(Ordering::Relaxed) < ROUNDS {
                mailbox.open();
                while let Some(round) = mailbox.take() {
                    answered.store(round + 1, Ordering::Release);
                }
                if !mailbox.has_mail() && answered.load(Ordering::Relaxed) < ROUNDS {
                    let raised = waker.0.lock().unwrap();
                    let sleep = Duration::from_secs(10);
                    let (mut raised, slept) =
                        waker.1.wait_timeout_while(raised, sleep, |raised| !*raised).unwrap();
                    // Without mail, the other thread did not run in time.
                    if slept.timed_out()
                        && let Some(round) = mailbox.take()
                    {
                        lost = Some(round);
                        // Lets the thread end.
                        answered.store(usize::MAX, Ordering::Release);
                    }
                    *raised = false;
                }
            }
            assert_eq!(lost, None, "the owner slept while a post was waiting");
        });
    }
}
