//! The application's decision on an upgrade, and headers for the 101 response.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::{error::HeaderError, util::http_syntax::is_handshake_field};

/// The decision of [`on_upgrade`](crate::ServerBuilder::on_upgrade).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Decision {
    /// Respond with 101 and the headers that were added. `Event::Open` follows.
    Accept,
    /// Respond with this instead, and close the connection. The status must be 3xx, 4xx or 5xx.
    /// With any other status, or with an invalid header, the client gets a 500 and the log says
    /// why.
    Reject(Response<Bytes>),
    /// Decide later: [`Event::Upgrade`](crate::Event::Upgrade) is reported, and the client waits
    /// for [`accept`](crate::Server::accept) or [`reject`](crate::Server::reject), at most until
    /// its `handshake_timeout`. Headers that were added are kept for the response.
    Defer,
}

/// The headers of a 101 response besides those of the handshake.
#[derive(Debug, Clone, Default)]
pub struct UpgradeResponse {
    headers: HeaderMap,
    /// The offered subprotocols, in the client's order of preference.
    offered: Vec<String>,
    subprotocol: Option<HeaderValue>,
    /// The application picked `subprotocol`, so it is final.
    picked: bool,
}

impl UpgradeResponse {
    /// More than browsers accept.
    const MAX_HEADERS: usize = 1000;

    /// For a client that offers these subprotocols. `preset` is the server's choice unless the
    /// application picks another.
    pub(crate) fn new(offered: Vec<String>, preset: Option<HeaderValue>) -> Self {
        UpgradeResponse { headers: HeaderMap::new(), offered, subprotocol: preset, picked: false }
    }

    /// Adds a header, for instance `Set-Cookie`. One name may be added several times.
    ///
    /// # Errors
    ///
    /// [`HeaderError`]: the name or the value is malformed, or the header is the handshake's own.
    /// `Sec-WebSocket-Protocol` has the effect of [`subprotocol`](UpgradeResponse::subprotocol).
    pub fn header(&mut self, name: &str, value: &str) -> Result<(), HeaderError> {
        let invalid = || HeaderError::Invalid(format!("{name}: {value}"));
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        self.add(header, HeaderValue::from_str(value).map_err(|_| invalid())?)
    }

    /// Picks a subprotocol, in place of the server's choice from
    /// [`subprotocols`](crate::ServerBuilder::subprotocols).
    ///
    /// # Errors
    ///
    /// [`HeaderError`]: the client did not offer it (RFC 6455 §4.2.2), or one is picked already.
    pub fn subprotocol(&mut self, name: &str) -> Result<(), HeaderError> {
        if self.picked {
            return Err(HeaderError::SecondSubprotocol);
        }
        let not_offered = || HeaderError::NotOffered(name.to_owned());
        if !self.offered.iter().any(|offered| offered == name) {
            return Err(not_offered());
        }
        self.subprotocol = Some(HeaderValue::from_str(name).map_err(|_| not_offered())?);
        self.picked = true;
        Ok(())
    }

    /// The subprotocols that the client offered, in its order of preference.
    pub fn offered(&self) -> impl Iterator<Item = &str> {
        self.offered.iter().map(String::as_str)
    }

    /// Adds all of `headers`, or none of them.
    pub(crate) fn extend(&mut self, headers: HeaderMap) -> Result<(), HeaderError> {
        let mut extended = self.clone();
        let mut name = None;
        for (next, value) in headers {
            name = next.or(name);
            if let Some(name) = &name {
                extended.add(name.clone(), value)?;
            }
        }
        *self = extended;
        Ok(())
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), HeaderError> {
        let text = value.to_str().map_err(|_| HeaderError::Invalid(format!("{name}: {value:?}")))?;
        if name == header::SEC_WEBSOCKET_PROTOCOL {
            return self.subprotocol(text);
        }
        if is_handshake_field(&name) {
            return Err(HeaderError::Reserved(name));
        }
        if self.headers.len() >= Self::MAX_HEADERS {
            return Err(HeaderError::TooMany(Self::MAX_HEADERS));
        }
        self.headers.append(name, value);
        Ok(())
    }

    /// The headers that the application added and the subprotocol that it picked, in the form that
    /// `extend` takes.
    #[cfg(feature = "sim")]
    pub(crate) fn added(&self) -> HeaderMap {
        let picked = UpgradeResponse { subprotocol: None, ..self.clone() };
        let picked = if self.picked { self.clone() } else { picked };
        picked.into_parts().0
    }

    /// The headers of the response, including the subprotocol, and the subprotocol itself.
    pub(crate) fn into_parts(self) -> (HeaderMap, Option<HeaderValue>) {
        let UpgradeResponse { mut headers, subprotocol, .. } = self;
        if let Some(subprotocol) = &subprotocol {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
        }
        (headers, subprotocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> UpgradeResponse {
        let offered = vec!["chat.v2".to_owned(), "chat.v1".to_owned()];
        UpgradeResponse::new(offered, Some(HeaderValue::from_static("chat.v1")))
    }

    fn lines(response: UpgradeResponse) -> Vec<String> {
        let (headers, _) = response.into_parts();
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn a_header_name_may_be_added_twice() {
        let mut response = response();
        response.header("Set-Cookie", "a=1; HttpOnly").unwrap();
        response.header("set-cookie", "b=2").unwrap();
        assert_eq!(
            lines(response),
            ["set-cookie: a=1; HttpOnly", "set-cookie: b=2", "sec-websocket-protocol: chat.v1"]
        );
    }

    #[test]
    fn invalid_and_reserved_headers_are_errors() {
        let mut response = response();
        for value in ["a\r\nb", "a\nb", "a\rb", "a\0b", "\r\n\r\nHTTP/1.1 200 OK"] {
            assert!(matches!(response.header("x-a", value), Err(HeaderError::Invalid(_))), "{value:?}");
        }
        for name in ["", "x a", "x:a", "x\r\na", "ä"] {
            assert!(matches!(response.header(name, "v"), Err(HeaderError::Invalid(_))), "{name:?}");
        }
        for name in
            ["Connection", "upgrade", "Sec-WebSocket-Accept", "SEC-WEBSOCKET-EXTENSIONS", "content-length"]
        {
            assert!(matches!(response.header(name, "v"), Err(HeaderError::Reserved(_))), "{name:?}");
        }
        assert_eq!(lines(response), ["sec-websocket-protocol: chat.v1"]);
    }

    #[test]
    fn the_number_of_added_headers_is_limited() {
        let mut response = response();
        (0..1000).for_each(|number| response.header(&format!("x-{number}"), "v").unwrap());
        assert_eq!(response.header("x-more", "v"), Err(HeaderError::TooMany(1000)));
    }

    #[test]
    fn only_an_offered_subprotocol_can_be_picked_and_only_once() {
        let mut response = response();
        assert_eq!(response.subprotocol("mqtt"), Err(HeaderError::NotOffered("mqtt".into())));
        assert_eq!(response.header("Sec-WebSocket-Protocol", "chat.v2"), Ok(()));
        assert_eq!(response.subprotocol("chat.v1"), Err(HeaderError::SecondSubprotocol));
        assert_eq!(response.offered().collect::<Vec<_>>(), ["chat.v2", "chat.v1"]);
        assert_eq!(lines(response), ["sec-websocket-protocol: chat.v2"]);
    }

    #[test]
    fn extend_adds_all_headers_or_none() {
        let mut response = response();
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        response.extend(headers.clone()).unwrap();
        headers.append(header::UPGRADE, HeaderValue::from_static("h2c"));
        assert_eq!(response.extend(headers), Err(HeaderError::Reserved(header::UPGRADE)));
        assert_eq!(lines(response), ["x-a: 1", "x-a: 2", "sec-websocket-protocol: chat.v1"]);
    }
}
