//! Stub of `deflate` for builds without that Cargo feature: compression is never negotiated.

use http::header::{HeaderMap, HeaderValue};

use crate::{config::Config, error::ProtocolError};

#[derive(Debug)]
pub(crate) struct Codec;

#[derive(Debug)]
pub(crate) enum PerMessage {}

/// Stands for the error of the real module: the server accepted something that was not offered.
#[derive(Debug)]
pub(crate) enum Unasked {}

impl Codec {
    pub(crate) fn new(_: &Config) -> Self {
        Codec
    }

    pub(crate) fn wants(&self, _: usize) -> bool {
        false
    }

    pub(crate) fn negotiate(&mut self, _: &HeaderMap) -> Option<(PerMessage, HeaderValue)> {
        None
    }

    pub(crate) fn offer(&self) -> Option<HeaderValue> {
        None
    }

    pub(crate) fn confirm(&mut self, _: &HeaderMap) -> Result<Option<PerMessage>, Unasked> {
        Ok(None)
    }
}

impl PerMessage {
    pub(crate) fn bits(&self) -> u8 {
        match *self {}
    }

    pub(crate) fn note(&mut self, _: &mut Codec, _: &[u8]) {
        match *self {}
    }

    pub(crate) fn compress<'c>(&mut self, _: &'c mut Codec, _: &[u8], _: bool) -> Option<&'c [u8]> {
        match *self {}
    }

    pub(crate) fn inflate(
        &mut self,
        _: &mut Codec,
        _: &[u8],
        _: &mut Vec<u8>,
        _: u64,
    ) -> Result<(), ProtocolError> {
        match *self {}
    }

    pub(crate) fn rest(&mut self) {
        match *self {}
    }
}
