//! The counters in Prometheus' text format.

use std::fmt::{self, Write};

use super::{CloseCounts, RejectCounts, Stats, tls_stats::TlsFailureCounts};

/// Writes a metric for each field. The struct is destructured without `..`, so that a field without
/// a line here does not compile.
macro_rules! metrics {
    ($text:ident, $stats:expr, { $($field:ident: $kind:ident($name:literal, $help:literal),)* }) => {{
        let Stats { $($field),* } = $stats;
        $($kind($text, concat!("tickws_", $name), $help, $field)?;)*
    }};
}

/// Pairs the fields with their names. A field that is missing here does not compile.
macro_rules! causes {
    ($of:ident { $($field:ident),* $(,)? }, $value:expr) => {{
        let $of { $($field),* } = $value;
        [$((stringify!($field), *$field)),*]
    }};
}

impl Stats {
    /// The counters in Prometheus' text format, version 0.0.4, whose content type is `text/plain;
    /// version=0.0.4; charset=utf-8`. Causes are labels: `tickws_closed_total{cause="peer"}`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// let server = tickws::Server::bind("127.0.0.1:0")?;
    /// let text = server.stats().to_prometheus();
    /// assert!(text.starts_with("# HELP tickws_accepted_total TCP connections accepted.\n"));
    /// assert!(text.contains("\n# TYPE tickws_accepted_total counter\ntickws_accepted_total 0\n"));
    /// assert!(text.contains("tickws_closed_total{cause=\"peer\"} 0\n"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_prometheus(&self) -> String {
        let mut text = String::with_capacity(4096);
        // Writing to a `String` does not fail.
        let _ = self.write_prometheus(&mut text);
        text
    }

    fn write_prometheus(&self, text: &mut String) -> fmt::Result {
        metrics!(text, self, {
            accepted: counter("accepted_total", "TCP connections accepted."),
            rejected: rejections("rejected_total", "Connections that never became a WebSocket, by cause."),
            tls_full: counter("tls_full_total", "TLS handshakes with an exchange of certificates."),
            tls_resumed: counter("tls_resumed_total", "TLS handshakes that resumed a session."),
            tls_failed: failures("tls_failed_total", "TLS handshakes that failed, by cause."),
            tls_micros: counter("tls_micros_total", "Microseconds that TLS handshakes took."),
            http_requests: counter("http_requests_total", "Responses sent to plain HTTP requests."),
            http_only: counter("http_only_total", "Connections that ended after plain HTTP requests."),
            dialed: counter("dialed_total", "Outbound connection attempts."),
            dial_failed: counter("dial_failed_total", "Outbound connection attempts that failed."),
            opened: counter("opened_total", "Opening handshakes completed."),
            open: gauge("open", "WebSocket connections open now."),
            buffered: gauge("buffered_bytes", "Bytes held now for all connections."),
            messages_in: counter("messages_in_total", "Messages received."),
            throttled: counter("throttled_total", "Times that a rate limit paused a client."),
            messages_out: counter("messages_out_total", "Messages queued, counted per client."),
            bytes_in: counter("bytes_in_total", "Bytes read from sockets."),
            bytes_out: counter("bytes_out_total", "Bytes written to sockets."),
            dropped: counter("dropped_total", "Messages dropped because an outbox was full."),
            replaced: counter("replaced_total", "Queued messages replaced by a newer one."),
            expired: counter("expired_total", "Queued messages dropped after they expired."),
            undelivered: counter("undelivered_total", "Commands of handles that failed."),
            pings: counter("pings_total", "Pings sent."),
            closed: closes("closed_total", "WebSocket connections ended, by cause."),
            reading_stops: counter("reading_stops_total", "Times that reading stopped for all clients."),
            budget_cuts: counter("budget_cuts_total", "Calls that ended with output left over because of time_budget."),
            accept_failures: counter("accept_failures_total", "Connections that failed before they were accepted."),
            accept_pauses: counter("accept_pauses_total", "Times that accepting paused."),
            listeners_lost: counter("listeners_lost_total", "Listening sockets lost."),
        });
        Ok(())
    }
}

fn rejections(text: &mut String, name: &str, help: &str, rejected: &RejectCounts) -> fmt::Result {
    let causes = causes!(
        RejectCounts {
            bad_request,
            not_an_upgrade,
            head_too_large,
            origin,
            host,
            path,
            subprotocol,
            application,
            unanswered,
            bad_body,
            at_capacity,
            per_ip,
            overloaded,
            timeout,
            gone,
            tls,
        },
        rejected
    );
    by_cause(text, name, help, &causes)
}

fn failures(text: &mut String, name: &str, help: &str, failed: &TlsFailureCounts) -> fmt::Result {
    let causes = causes!(
        TlsFailureCounts {
            alert,
            no_common_parameters,
            unknown_name,
            peer_certificate,
            malformed,
            plain_text
        },
        failed
    );
    by_cause(text, name, help, &causes)
}

fn closes(text: &mut String, name: &str, help: &str, closed: &CloseCounts) -> fmt::Result {
    let causes = causes!(
        CloseCounts {
            peer,
            local,
            disconnected,
            shutdown,
            silence,
            write_timeout,
            close_timeout,
            lifetime,
            overflow,
            shed,
            rate_limited,
            protocol,
            eof,
            truncated,
            io,
        },
        closed
    );
    by_cause(text, name, help, &causes)
}

fn counter(text: &mut String, name: &str, help: &str, value: &u64) -> fmt::Result {
    head(text, name, help, "counter")?;
    writeln!(text, "{name} {value}")
}

fn gauge(text: &mut String, name: &str, help: &str, value: &u64) -> fmt::Result {
    head(text, name, help, "gauge")?;
    writeln!(text, "{name} {value}")
}

fn by_cause(text: &mut String, name: &str, help: &str, causes: &[(&str, u64)]) -> fmt::Result {
    head(text, name, help, "counter")?;
    causes.iter().try_for_each(|(cause, value)| writeln!(text, "{name}{{cause=\"{cause}\"}} {value}"))
}

/// Writes the head of a metric. `help` has no backslashes or line ends, so it needs no escapes.
fn head(text: &mut String, name: &str, help: &str, kind: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// Parses name and cause → value. Panics on all that Prometheus rejects or warns of: each
    /// metric has its help and type first, then its samples together, each once.
    fn parse(text: &str) -> BTreeMap<(String, String), u64> {
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
        let (mut family, mut kind) = (String::new(), String::new());
        assert!(text.ends_with('\n') && !text.contains(['\r', '\t']));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(is_name(name) && help.ends_with('.') && !help.contains('\\'), "{line}");
                assert!(families.insert(name.to_string()), "{line}");
                (family, kind) = (name.to_string(), String::new());
            } else if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, typed) = typed.split_once(' ').unwrap();
                assert!(name == family && kind.is_empty(), "{line}");
                assert!(matches!(typed, "counter" | "gauge"), "{line}");
                assert_eq!(typed == "counter", name.ends_with("_total"), "{line}");
                kind = typed.to_string();
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                assert!(name == family && !kind.is_empty(), "{line}");
                let cause = if labels.is_empty() {
                    ""
                } else {
                    let (label, value) = labels.strip_suffix("\"}").unwrap().split_once("=\"").unwrap();
                    assert!(label == "cause" && is_name(value), "{line}");
                    value
                };
                let sample = (name.to_string(), cause.to_string());
                assert!(samples.insert(sample, value.parse().unwrap()).is_none(), "{line}");
            }
        }
        samples
    }

    /// Collects the fields from the `Debug` output. A nested field is a cause.
    fn fields(stats: &Stats) -> BTreeMap<(String, String), u64> {
        let mut found = BTreeMap::new();
        let mut outer = String::new();
        for line in format!("{stats:#?}").lines() {
            let Some((field, value)) = line.trim().trim_end_matches(',').split_once(": ") else { continue };
            let nested = line.starts_with("        ");
            let Ok(value) = value.parse() else {
                outer = field.to_string();
                continue;
            };
            let name = match field {
                _ if nested => format!("tickws_{outer}_total"),
                "open" => "tickws_open".into(),
                "buffered" => "tickws_buffered_bytes".into(),
                _ => format!("tickws_{field}_total"),
            };
            found.insert((name, if nested { field.to_string() } else { String::new() }), value);
        }
        found
    }

    #[test]
    fn every_field_is_exported_under_its_name() {
        let mut stats = Stats { accepted: 1, opened: 2, open: u64::MAX, buffered: 4, ..Stats::default() };
        (stats.messages_in, stats.throttled, stats.messages_out, stats.bytes_in) = (5, 6, 7, 8);
        (stats.bytes_out, stats.dropped, stats.replaced, stats.expired) = (9, 10, 11, 12);
        (stats.undelivered, stats.pings, stats.reading_stops, stats.accept_pauses) = (13, 14, 15, 16);
        stats.listeners_lost = 17;
        stats.rejected = RejectCounts { bad_request: 20, timeout: 21, gone: 22, ..RejectCounts::default() };
        stats.closed =
            CloseCounts { peer: 30, write_timeout: 31, close_timeout: 32, io: 33, ..CloseCounts::default() };
        let samples = parse(&stats.to_prometheus());
        assert_eq!(samples, fields(&stats));
        assert!(samples.len() > 35, "{}", samples.len());
        let sample = |name: &str, cause: &str| samples.get(&(name.to_string(), cause.to_string())).copied();
        assert_eq!(sample("tickws_open", ""), Some(u64::MAX));
        assert_eq!(sample("tickws_buffered_bytes", ""), Some(4));
        assert_eq!(sample("tickws_messages_in_total", ""), Some(5));
        assert_eq!(sample("tickws_rejected_total", "bad_request"), Some(20));
        assert_eq!(sample("tickws_closed_total", "peer"), Some(30));
    }

    #[test]
    fn unused_counters_are_exported_as_zero() {
        let samples = parse(&Stats::default().to_prometheus());
        assert!(!samples.is_empty() && samples.values().all(|value| *value == 0));
    }
}
