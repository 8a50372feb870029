//! Hooks of the application: upgrade decisions, plain HTTP responses, static files.

use std::fmt;

use bytes::Bytes;
use http::Response;

use crate::{
    handshake::decision::{Decision, UpgradeResponse},
    http1::{request::HttpRequest, static_files::StaticFiles},
};

pub(crate) type OnUpgrade = Box<dyn FnMut(&HttpRequest<'_>, &mut UpgradeResponse) -> Decision + Send>;
pub(crate) type OnHttp = Box<dyn FnMut(&HttpRequest<'_>) -> Response<Bytes> + Send>;

/// The application's closures and content. Plain settings are in the
/// [`Config`](crate::config::Config).
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) on_upgrade: Option<OnUpgrade>,
    pub(crate) on_http: Option<OnHttp>,
    pub(crate) static_files: StaticFiles,
    /// The destination of the recording.
    #[cfg(feature = "sim")]
    pub(crate) record: Option<Sink>,
}

#[cfg(feature = "sim")]
pub(crate) struct Sink(pub(crate) Box<dyn std::io::Write + Send>);

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("on_upgrade", &self.on_upgrade.is_some())
            .field("on_http", &self.on_http.is_some())
            .field("static_files", &self.static_files)
            .finish()
    }
}
