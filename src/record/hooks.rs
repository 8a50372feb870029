//! Closures of the application: what they say is recorded, and a replay says it again.

use tungstenite::{
    Bytes,
    http::{HeaderMap, Response, uri::PathAndQuery},
};

use super::{Tape, entry::Entry, head::Head, player::Shared};
use crate::{
    config::connect::BeforeAttempt,
    engine::hooks::Services,
    error::ConnectError,
    handshake::decision::{Decision, UpgradeResponse},
    http1::{request::HttpRequest, static_files::Site},
};

/// Asks a closure of the application. If that panics, its answer is missing on the tape.
fn ask<T>(tape: &Tape, closure: impl FnOnce() -> T) -> T {
    struct Pending<'t>(Option<&'t Tape>);

    impl Drop for Pending<'_> {
        fn drop(&mut self) {
            if let Some(tape) = self.0 {
                tape.give_up("a closure of the application has panicked, which cannot be recorded");
            }
        }
    }

    let mut pending = Pending(Some(tape));
    let answer = closure();
    pending.0 = None;
    answer
}

pub(super) fn recorded(services: Services, tape: &Tape) -> Services {
    let Services { on_upgrade, on_http, site, .. } = services;
    Services {
        site,
        on_upgrade: on_upgrade.map(|mut decide| {
            let tape = tape.clone();
            Box::new(move |request: &HttpRequest<'_>, response: &mut UpgradeResponse| {
                let decision = ask(&tape, || decide(request, response));
                let coded = match &decision {
                    Decision::Accept => Ok(false),
                    Decision::Defer => Ok(true),
                    Decision::Reject(answer) => Err(answer.clone()),
                };
                tape.note(&Entry::Decided { decision: coded, added: response.added() });
                decision
            }) as _
        }),
        on_http: on_http.map(|mut answer| {
            let tape = tape.clone();
            Box::new(move |request: &HttpRequest<'_>| {
                let response = ask(&tape, || answer(request));
                tape.note(&Entry::Answered { response: response.clone() });
                response
            }) as _
        }),
        ..Services::default()
    }
}

pub(super) fn recorded_attempts(mut before: BeforeAttempt, tape: &Tape) -> BeforeAttempt {
    let tape = tape.clone();
    Box::new(move |attempt| {
        let outcome = ask(&tape, || before(attempt));
        match &outcome {
            Ok(()) => {
                let (path, headers) = (attempt.path.as_str().to_owned(), attempt.headers.clone());
                tape.note(&Entry::Attempted { path, headers });
            }
            Err(_) => tape.give_up("before_attempt has failed, and its error cannot be recorded"),
        }
        outcome
    })
}

pub(super) fn replayed(head: &Head, site: Site, player: &Shared) -> Services {
    let on_upgrade = head.on_upgrade.then(|| {
        let player = player.clone();
        Box::new(move |_: &HttpRequest<'_>, response: &mut UpgradeResponse| decide(&player, response)) as _
    });
    let on_http = head.on_http.then(|| {
        let player = player.clone();
        Box::new(move |_: &HttpRequest<'_>| {
            let what = || "an answer of on_http".to_owned();
            let answered = player.lock().answer(what, |entry| match entry {
                Entry::Answered { response } => Some(response),
                _ => None,
            });
            answered.unwrap_or_else(|| Response::new(Bytes::new()))
        }) as _
    });
    Services { on_upgrade, on_http, site, ..Services::default() }
}

fn decide(player: &Shared, response: &mut UpgradeResponse) -> Decision {
    let what = || "a decision of on_upgrade".to_owned();
    let decided = player.lock().answer(what, |entry| match entry {
        Entry::Decided { decision, added } => response.extend(added).is_ok().then_some(decision),
        _ => None,
    });
    match decided {
        Some(Ok(false)) => Decision::Accept,
        Some(Ok(true)) => Decision::Defer,
        Some(Err(answer)) => Decision::Reject(answer),
        None => Decision::Reject(Response::new(Bytes::new())),
    }
}

pub(super) fn replayed_attempts(player: &Shared) -> BeforeAttempt {
    let player = player.clone();
    Box::new(move |attempt| {
        let attempted = player.lock().answer(
            || "what before_attempt has said".to_owned(),
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
