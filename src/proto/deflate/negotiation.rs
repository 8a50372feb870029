//! Negotiation of permessage-deflate in the opening handshake (RFC 7692 §5, §7.1).

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

use crate::{config::compression::Deflate, util::http_syntax::is_token_byte};

const NAME: &str = "permessage-deflate";
const SERVER_ALONE: &str = "server_no_context_takeover";
const CLIENT_ALONE: &str = "client_no_context_takeover";
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";

/// Bits of the largest window (RFC 7692 §7.1.2).
const MAX_BITS: u8 = 15;

/// The agreed parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) server: Way,
    pub(crate) client: Way,
}

/// Parameters of one direction, that of the messages sent by one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// The sender's window is 2^bits bytes, 8 to 15.
    pub(crate) bits: u8,
    /// Context takeover: a message may refer to those before it (§7.1.1).
    pub(crate) takeover: bool,
}

/// The server's side: takes the first offer that it can accept, and returns the header of the
/// response. All other offers are declined by leaving them out (§5).
pub(crate) fn accept(request: &HeaderMap, config: &Deflate) -> Option<(Agreed, HeaderValue)> {
    let lines = request.get_all(SEC_WEBSOCKET_EXTENSIONS).iter();
    let offers = lines.filter_map(|line| extensions(line.to_str().ok()?)).flatten();
    let params = offers.filter(|offer| offer.name == NAME).find_map(|offer| Params::parse(&offer.params))?;

    // §7.1.1.1: a server accepts this parameter by including it in its response.
    let server_alone = params.server_alone || !config.server_takeover();
    let asked = params.server_bits;
    let server_bits = config.server_bits().min(asked.unwrap_or(MAX_BITS));
    // §7.1.2.2: only if the client's offer has this parameter may the response have it.
    let client_bits = params.client_bits.map(|most| config.client_bits().min(most.unwrap_or(MAX_BITS)));
    // The client's context would be larger than the configuration allows.
    let too_large = client_bits.unwrap_or(MAX_BITS) > config.client_bits();
    let client_alone = params.client_alone || !config.client_takeover() || too_large;

    let mut response = NAME.to_owned();
    let mut add = |param: &str| {
        response.push_str("; ");
        response.push_str(param);
    };
    if server_alone {
        add(SERVER_ALONE);
    }
    if client_alone {
        add(CLIENT_ALONE);
    }
    // §7.1.2.1 lets a server answer with this parameter although it was not offered, but there are
    // clients that refuse the response then. A smaller window needs no announcement.
    if asked.is_some() {
        add(&format!("{SERVER_BITS}={server_bits}"));
    }
    if let Some(bits) = client_bits.filter(|bits| *bits < MAX_BITS) {
        add(&format!("{CLIENT_BITS}={bits}"));
    }
    let agreed = Agreed {
        server: Way { bits: server_bits, takeover: !server_alone },
        client: Way { bits: client_bits.unwrap_or(MAX_BITS), takeover: !client_alone },
    };
    Some((agreed, HeaderValue::from_str(&response).ok()?))
}

/// The client's side: the offer in its request.
pub(crate) fn offer(config: &Deflate) -> String {
    let mut offer = NAME.to_owned();
    if !config.server_takeover() {
        offer += &format!("; {SERVER_ALONE}");
    }
    if !config.client_takeover() {
        offer += &format!("; {CLIENT_ALONE}");
    }
    if config.server_bits() < MAX_BITS {
        offer += &format!("; {SERVER_BITS}={}", config.server_bits());
    }
    offer += &match config.client_bits() {
        MAX_BITS => format!("; {CLIENT_BITS}"),
        bits => format!("; {CLIENT_BITS}={bits}"),
    };
    offer
}

/// The server's response does not fit the offer: the connection has to fail (§5, RFC 6455 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unasked;

/// The client's side: the server's response to `offer(config)`; `None` if it declines.
pub(crate) fn confirm(response: &HeaderMap, config: &Deflate) -> Result<Option<Agreed>, Unasked> {
    let mut accepted = None;
    for line in response.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        let line = line.to_str().ok().and_then(extensions).ok_or(Unasked)?;
        for extension in line {
            if extension.name != NAME || accepted.is_some() {
                return Err(Unasked);
            }
            accepted = Some(Params::parse(&extension.params).ok_or(Unasked)?);
        }
    }
    let Some(params) = accepted else { return Ok(None) };
    // §7.1.1.1, §7.1.2.1: a server that accepts an offer has to repeat what was asked of it.
    let server_bits = params.server_bits.unwrap_or(MAX_BITS);
    if server_bits > config.server_bits() || (!config.server_takeover() && !params.server_alone) {
        return Err(Unasked);
    }
    let client_bits = match params.client_bits {
        None => config.client_bits(),
        // §7.1.2.2: it needs a value, which may not be above the offered one.
        Some(Some(bits)) if bits <= config.client_bits() => bits,
        Some(_) => return Err(Unasked),
    };
    let client_alone = params.client_alone || !config.client_takeover();
    Ok(Some(Agreed {
        server: Way { bits: server_bits, takeover: !params.server_alone },
        client: Way { bits: client_bits, takeover: !client_alone },
    }))
}

/// The parameters of one offer or response.
#[derive(Debug, Default)]
struct Params {
    server_alone: bool,
    client_alone: bool,
    server_bits: Option<u8>,
    /// In an offer it may have no value.
    client_bits: Option<Option<u8>>,
}

impl Params {
    /// Parses the parameters. `None` if one is unknown, comes twice or has an invalid value (§7.1).
    fn parse(params: &[Param<'_>]) -> Option<Params> {
        let mut parsed = Params::default();
        for (name, value) in params {
            let value = value.as_deref();
            let first = match *name {
                SERVER_ALONE if value.is_none() => !std::mem::replace(&mut parsed.server_alone, true),
                CLIENT_ALONE if value.is_none() => !std::mem::replace(&mut parsed.client_alone, true),
                SERVER_BITS => parsed.server_bits.replace(window_bits(value?)?).is_none(),
                CLIENT_BITS => {
                    let bits = match value {
                        None => None,
                        Some(value) => Some(window_bits(value)?),
                    };
                    parsed.client_bits.replace(bits).is_none()
                }
                _ => false,
            };
            if !first {
                return None;
            }
        }
        Some(parsed)
    }
}

/// §7.1.2.1: "a decimal integer value without leading zeroes between 8 to 15, inclusive".
fn window_bits(value: &str) -> Option<u8> {
    let digits = !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|bits| digits && (8..=MAX_BITS).contains(bits))
}

type Param<'h> = (&'h str, Option<Cow<'h, str>>);

/// One element of `Sec-WebSocket-Extensions`.
#[derive(Debug)]
struct Extension<'h> {
    name: &'h str,
    params: Vec<Param<'h>>,
}

/// The elements of one header line (RFC 6455 §9.1); `None`, so no offer, if the line is malformed.
fn extensions(line: &str) -> Option<Vec<Extension<'_>>> {
    let mut rest = Rest(line);
    let mut list = Vec::new();
    loop {
        // RFC 9110 §5.6.1.2: a recipient ignores empty elements.
        while rest.take(',') {}
        if rest.0.is_empty() {
            return Some(list);
        }
        let mut extension = Extension { name: rest.token()?, params: Vec::new() };
        while rest.take(';') {
            let name = rest.token()?;
            let value = if rest.take('=') { Some(rest.value()?) } else { None };
            extension.params.push((name, value));
        }
        list.push(extension);
        if !rest.0.is_empty() && !rest.take(',') {
            return None;
        }
    }
}

/// The part of a header line that is not parsed yet.
struct Rest<'h>(&'h str);

impl<'h> Rest<'h> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn take(&mut self, sign: char) -> bool {
        self.skip_space();
        let rest = self.0.strip_prefix(sign);
        self.0 = rest.unwrap_or(self.0);
        self.skip_space();
        rest.is_some()
    }

    /// Takes a token (RFC 9110 §5.6.2).
    fn token(&mut self) -> Option<&'h str> {
        let is_token_char = |c: char| u8::try_from(c).is_ok_and(is_token_byte);
        let end = self.0.find(|c| !is_token_char(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(token).filter(|token| !token.is_empty())
    }

    /// Takes a token, or a quoted string that is a token after unescaping (RFC 6455 §9.1).
    fn value(&mut self) -> Option<Cow<'h, str>> {
        let Some(quoted) = self.0.strip_prefix('"') else { return self.token().map(Cow::Borrowed) };
        let mut value = String::new();
        let mut signs = quoted.chars();
        while let Some(sign) = signs.next() {
            match sign {
                '"' => {
                    self.0 = signs.as_str();
                    let mut whole = Rest(&value);
                    return (whole.token().is_some() && whole.0.is_empty()).then_some(Cow::Owned(value));
                }
                '\\' => value.push(signs.next()?),
                _ => value.push(sign),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::compression::DeflateMode::*;

    fn lines(lines: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(line));
        }
        headers
    }

    /// The response to these header lines, without the name of the extension.
    fn response(config: &Deflate, offers: &[&'static str]) -> Option<String> {
        let (_, response) = accept(&lines(offers), config)?;
        Some(response.to_str().unwrap().strip_prefix(NAME).unwrap().trim_start_matches("; ").to_owned())
    }

    fn full() -> Deflate {
        Deflate::new(Dedicated).server_max_window_bits(15).client_max_window_bits(15)
    }

    #[test]
    fn valid_offers_are_accepted() {
        for (offer, expected) in [
            // The examples of §7.1.3.
            ("permessage-deflate", ""),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
                "server_max_window_bits=10",
            ),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10, \
                 permessage-deflate; client_max_window_bits",
                "server_max_window_bits=10",
            ),
            ("permessage-deflate; server_no_context_takeover", "server_no_context_takeover"),
            ("permessage-deflate; client_no_context_takeover", "client_no_context_takeover"),
            ("permessage-deflate; client_max_window_bits=15", ""),
            ("permessage-deflate; client_max_window_bits=8", "client_max_window_bits=8"),
            ("permessage-deflate; server_max_window_bits=8", "server_max_window_bits=8"),
            ("permessage-deflate; server_max_window_bits=15", "server_max_window_bits=15"),
            // Spaces, quotes, escapes and empty elements.
            ("\tpermessage-deflate ;server_max_window_bits = \"10\" ", "server_max_window_bits=10"),
            ("permessage-deflate; server_max_window_bits=\"1\\0\"", "server_max_window_bits=10"),
            (", ,permessage-deflate,", ""),
            // Other extensions, and a quoted parameter.
            ("x-webkit-deflate-frame, permessage-deflate", ""),
            ("permessage-bzip2; a=\"b\", permessage-deflate", ""),
        ] {
            assert_eq!(response(&full(), &[offer]).as_deref(), Some(expected), "{offer}");
        }
    }

    #[test]
    fn invalid_offers_are_declined() {
        for offer in [
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=\"\"",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=9.0",
            "permessage-deflate; server_max_window_bits=265",
            "permessage-deflate; server_max_window_bits=\"\"",
            "permessage-deflate; server_max_window_bits=\" 9\"",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; server_max_window_bits=\"9\"9",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=ten",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate;",
            "permessage-deflate; ;server_no_context_takeover",
            "permessage-deflate=1",
            "permessage-deflate server_no_context_takeover",
            "Permessage-Deflate",
            "permessage-deflat",
            "x; y=\"permessage-deflate",
            "",
        ] {
            assert_eq!(response(&full(), &[offer]), None, "{offer}");
            // The next line is parsed too, and so is the next offer of a line that is well-formed.
            assert_eq!(response(&full(), &[offer, NAME]).as_deref(), Some(""), "{offer}");
        }
        assert_eq!(response(&full(), &[]), None);
        let two =
            "permessage-deflate; server_max_window_bits=99, permessage-deflate; server_max_window_bits=9";
        assert_eq!(response(&full(), &[two]).as_deref(), Some("server_max_window_bits=9"));
    }

    #[test]
    fn the_first_acceptable_offer_wins_over_several_lines() {
        let offers = [
            "foo",
            "permessage-deflate; no",
            "permessage-deflate; server_max_window_bits=11, permessage-deflate",
        ];
        assert_eq!(response(&full(), &offers).as_deref(), Some("server_max_window_bits=11"));
    }

    #[test]
    fn the_configuration_limits_windows_and_contexts() {
        let offer = "permessage-deflate; client_max_window_bits";
        let both = "server_no_context_takeover; client_no_context_takeover";
        assert_eq!(response(&Deflate::default(), &[offer]).as_deref(), Some(both));
        let dedicated = Deflate::new(Dedicated);
        let small = "client_max_window_bits=13";
        assert_eq!(response(&dedicated, &[offer]).as_deref(), Some(small));
        // A client that did not offer `client_max_window_bits` is asked to do without a context.
        let alone = "client_no_context_takeover";
        assert_eq!(response(&dedicated, &[NAME]).as_deref(), Some(alone));
        let less = "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9";
        let smaller = "server_max_window_bits=10; client_max_window_bits=9";
        assert_eq!(response(&dedicated, &[less]).as_deref(), Some(smaller));

        let (agreed, _) = accept(&lines(&[less]), &dedicated).unwrap();
        let expected =
            Agreed { server: Way { bits: 10, takeover: true }, client: Way { bits: 9, takeover: true } };
        assert_eq!(agreed, expected);
        let (agreed, _) = accept(&lines(&[NAME]), &dedicated).unwrap();
        assert_eq!(agreed.client, Way { bits: 15, takeover: false });
    }

    #[test]
    fn a_client_accepts_only_what_it_offered() {
        let confirm = |config: &Deflate, responses: &[&'static str]| confirm(&lines(responses), config);
        assert_eq!(offer(&full()), "permessage-deflate; client_max_window_bits");
        let small = Deflate::default().server_max_window_bits(11).client_max_window_bits(12);
        assert_eq!(
            offer(&small),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=11; client_max_window_bits=12"
        );
        assert_eq!(confirm(&full(), &[]), Ok(None));
        assert_eq!(confirm(&full(), &[""]), Ok(None));
        let way = |bits, takeover| Way { bits, takeover };
        for (response, server, client) in [
            (NAME, way(15, true), way(15, true)),
            ("permessage-deflate; server_max_window_bits=10", way(10, true), way(15, true)),
            ("permessage-deflate; client_max_window_bits=10", way(15, true), way(10, true)),
            ("permessage-deflate; server_no_context_takeover", way(15, false), way(15, true)),
            ("permessage-deflate; client_no_context_takeover", way(15, true), way(15, false)),
        ] {
            assert_eq!(confirm(&full(), &[response]), Ok(Some(Agreed { server, client })), "{response}");
        }
        for responses in [
            &["foo"][..],
            &["permessage-deflate, permessage-deflate"],
            &[NAME, NAME],
            &["permessage-deflate; foo"],
            &["permessage-deflate; client_max_window_bits"],
            &["permessage-deflate; server_max_window_bits=7"],
            &["permessage-deflate; server_max_window_bits"],
            &["permessage-deflate;"],
        ] {
            assert_eq!(confirm(&full(), responses), Err(Unasked), "{responses:?}");
        }
        // Responses in which a required parameter is missing or has another value.
        for response in [
            NAME,
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=11",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=12",
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=11; client_max_window_bits=13",
        ] {
            assert_eq!(confirm(&small, &[response]), Err(Unasked), "{response}");
        }
        let response = "permessage-deflate; server_no_context_takeover; server_max_window_bits=11";
        let agreed = Agreed { server: way(11, false), client: way(12, false) };
        assert_eq!(confirm(&small, &[response]), Ok(Some(agreed)));
    }

    #[test]
    fn our_client_and_our_server_agree() {
        for mode in [Shared, Dedicated] {
            for bits in Deflate::WINDOW_BITS {
                for other in Deflate::WINDOW_BITS {
                    let client =
                        Deflate::new(mode).server_max_window_bits(bits).client_max_window_bits(other);
                    let server =
                        Deflate::new(Dedicated).server_max_window_bits(other).client_max_window_bits(12);
                    let mut headers = HeaderMap::new();
                    headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(&offer(&client)).unwrap());
                    let (agreed, response) = accept(&headers, &server).unwrap();
                    headers.insert(SEC_WEBSOCKET_EXTENSIONS, response);
                    let confirmed = confirm(&headers, &client).unwrap().unwrap();
                    assert_eq!(confirmed.client, agreed.client, "{client:?}");
                    // The client's window for inflating may be larger than needed.
                    assert!(confirmed.server.bits >= agreed.server.bits, "{client:?}");
                    assert_eq!(confirmed.server.takeover, agreed.server.takeover, "{client:?}");
                    assert_eq!(agreed.server.bits, bits.min(other));
                    assert_eq!(agreed.client.bits, other.min(12));
                }
            }
        }
    }
}
