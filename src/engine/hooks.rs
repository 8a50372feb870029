//! Hooks of the application: upgrade decisions, plain HTTP responses, static files.

#[cfg(feature = "sim")]
use std::io::Write;
use std::{fmt, time::Duration};

use bytes::Bytes;
use http::Response;

#[cfg(feature = "sim")]
use crate::util::exclusive::Exclusive;
use crate::{
    handshake::decision::{Decision, UpgradeResponse},
    http1::{request::Request, static_files::StaticFiles},
};

pub(crate) type CheckOrigin = Box<dyn FnMut(&Request<'_>) -> bool + Send + Sync>;
pub(crate) type OnUpgrade = Box<dyn FnMut(&Request<'_>, &mut UpgradeResponse) -> Decision + Send + Sync>;
/// Returns the time since 1970-01-01 UTC.
pub(crate) type WallClock = Box<dyn FnMut() -> Duration + Send + Sync>;
pub(crate) type OnHttp = Box<dyn FnMut(&Request<'_>) -> Response<Bytes> + Send + Sync>;

/// The application's closures and content. Plain settings are in the
/// [`Config`](crate::config::Config).
#[derive(Default)]
pub(crate) struct Hooks {
    /// Decides about the origin of a page, with [`OriginPolicy::Custom`].
    ///
    /// [`OriginPolicy::Custom`]: crate::config::OriginPolicy::Custom
    pub(crate) check_origin: Option<CheckOrigin>,
    pub(crate) on_upgrade: Option<OnUpgrade>,
    pub(crate) on_http: Option<OnHttp>,
    pub(crate) static_files: StaticFiles,
    /// The host's clock; `None` if it has none.
    pub(crate) wall_clock: Option<WallClock>,
    /// The destination of the recording.
    #[cfg(feature = "sim")]
    pub(crate) record: Option<Sink>,
}

#[cfg(feature = "sim")]
pub(crate) struct Sink(Exclusive<Box<dyn Write + Send>>);

#[cfg(feature = "sim")]
impl Sink {
    pub(crate) fn new(out: impl Write + Send + 'static) -> Self {
        Sink(Exclusive::new(Box::new(out)))
    }

    pub(crate) fn into_writer(self) -> Box<dyn Write + Send> {
        self.0.into_inner()
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("check_origin", &self.check_origin.is_some())
            .field("on_upgrade", &self.on_upgrade.is_some())
            .field("on_http", &self.on_http.is_some())
            .field("static_files", &self.static_files)
            .finish()
    }
}
