//! Records what the application's closures return.

use super::{format::entry::Entry, recorder::Recorder};
use crate::{
    config::connect::BeforeAttempt,
    engine::hooks::Hooks,
    handshake::decision::{Decision, UpgradeResponse},
    http1::request::Request,
};

/// Calls a closure of the application. If it panics, its result is missing and the recording stops.
fn call<T>(recorder: &Recorder, closure: impl FnOnce() -> T) -> T {
    struct Pending<'r>(Option<&'r Recorder>);

    impl Drop for Pending<'_> {
        fn drop(&mut self) {
            if let Some(recorder) = self.0 {
                recorder.stop("a closure of the application panicked, which cannot be recorded");
            }
        }
    }

    let mut pending = Pending(Some(recorder));
    let result = closure();
    pending.0 = None;
    result
}

/// Wraps the closures so that each result is recorded.
pub(super) fn recorded(hooks: Hooks, recorder: &Recorder) -> Hooks {
    let Hooks { check_origin, on_upgrade, on_http, static_files, wall_clock, .. } = hooks;
    Hooks {
        static_files,
        wall_clock: wall_clock.map(|mut wall_clock| {
            let recorder = recorder.clone();
            Box::new(move || {
                let elapsed = wall_clock();
                recorder.append(&Entry::Dated { elapsed });
                elapsed
            }) as _
        }),
        check_origin: check_origin.map(|mut check| {
            let recorder = recorder.clone();
            Box::new(move |request: &Request<'_>| {
                let allowed = call(&recorder, || check(request));
                recorder.append(&Entry::OriginChecked { allowed });
                allowed
            }) as _
        }),
        on_upgrade: on_upgrade.map(|mut decide| {
            let recorder = recorder.clone();
            Box::new(move |request: &Request<'_>, response: &mut UpgradeResponse| {
                let decision = call(&recorder, || decide(request, response));
                let copy = match &decision {
                    Decision::Accept => Ok(false),
                    Decision::Defer => Ok(true),
                    Decision::Reject(rejection) => Err(rejection.clone()),
                };
                recorder.append(&Entry::Decided { decision: copy, added: response.added() });
                decision
            }) as _
        }),
        on_http: on_http.map(|mut respond| {
            let recorder = recorder.clone();
            Box::new(move |request: &Request<'_>| {
                let response = call(&recorder, || respond(request));
                recorder.append(&Entry::Responded { response: response.clone() });
                response
            }) as _
        }),
        ..Hooks::default()
    }
}

/// Wraps `before_attempt` so that the changed request is recorded.
pub(super) fn recorded_attempts(mut before: BeforeAttempt, recorder: &Recorder) -> BeforeAttempt {
    let recorder = recorder.clone();
    Box::new(move |attempt| {
        let outcome = call(&recorder, || before(attempt));
        match &outcome {
            Ok(()) => {
                let (path, headers) = (attempt.path.as_str().to_owned(), attempt.headers.clone());
                recorder.append(&Entry::Attempted { path, headers });
            }
            Err(_) => recorder.stop("before_attempt failed, and its error cannot be recorded"),
        }
        outcome
    })
}
