//! Closures for a replay: they return what the application's closures returned.

use bytes::Bytes;
use http::{HeaderMap, Response, uri::PathAndQuery};

use super::reader::SharedReader;
use crate::{
    config::{OriginPolicy, connect::BeforeAttempt},
    engine::hooks::Hooks,
    error::ConnectError,
    handshake::decision::{Decision, UpgradeResponse},
    http1::{request::Request, static_files::StaticFiles},
    record::format::{entry::Entry, header::Header},
};

/// Closures in place of those that the recorded server had.
pub(super) fn replayed(header: &Header, static_files: StaticFiles, reader: &SharedReader) -> Hooks {
    let on_upgrade = header.on_upgrade.then(|| {
        let reader = reader.clone();
        Box::new(move |_: &Request<'_>, response: &mut UpgradeResponse| decide(&reader, response)) as _
    });
    let check_origin = (header.config.origins == OriginPolicy::Custom).then(|| {
        let reader = reader.clone();
        Box::new(move |_: &Request<'_>| {
            let found = || "a call of check_origin".to_owned();
            let allowed = reader.lock().result(found, |entry| match entry {
                Entry::OriginChecked { allowed } => Some(allowed),
                _ => None,
            });
            allowed.unwrap_or(false)
        }) as _
    });
    let on_http = header.on_http.then(|| {
        let reader = reader.clone();
        Box::new(move |_: &Request<'_>| {
            let found = || "a call of on_http".to_owned();
            let response = reader.lock().result(found, |entry| match entry {
                Entry::Responded { response } => Some(response),
                _ => None,
            });
            response.unwrap_or_else(|| Response::new(Bytes::new()))
        }) as _
    });
    let wall_clock = {
        let reader = reader.clone();
        Box::new(move || {
            let found = || "a look at the wall clock".to_owned();
            let elapsed = reader.lock().result(found, |entry| match entry {
                Entry::Dated { elapsed } => Some(elapsed),
                _ => None,
            });
            elapsed.unwrap_or_default()
        }) as _
    };
    Hooks {
        check_origin,
        on_upgrade,
        on_http,
        static_files,
        wall_clock: Some(wall_clock),
        ..Hooks::default()
    }
}

fn decide(reader: &SharedReader, response: &mut UpgradeResponse) -> Decision {
    let found = || "a call of on_upgrade".to_owned();
    let decision = reader.lock().result(found, |entry| match entry {
        Entry::Decided { decision, added } => response.extend(added).is_ok().then_some(decision),
        _ => None,
    });
    match decision {
        Some(Ok(false)) => Decision::Accept,
        Some(Ok(true)) => Decision::Defer,
        Some(Err(rejection)) => Decision::Reject(rejection),
        None => Decision::Reject(Response::new(Bytes::new())),
    }
}

/// A closure in place of the recorded `before_attempt`.
pub(super) fn replayed_attempts(reader: &SharedReader) -> BeforeAttempt {
    let reader = reader.clone();
    Box::new(move |attempt| {
        let attempted = reader.lock().result(
            || "a call of before_attempt".to_owned(),
            |entry| -> Option<(PathAndQuery, HeaderMap)> {
                match entry {
                    Entry::Attempted { path, headers } => Some((path.parse().ok()?, headers)),
                    _ => None,
                }
            },
        );
        (attempt.path, attempt.headers) = attempted.ok_or(ConnectError::Cancelled)?;
        Ok(())
    })
}
