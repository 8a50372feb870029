//! How the outcomes of TLS handshakes become bytes.

use std::{io::ErrorKind, sync::Arc};

use bytes::Bytes;

use super::codec::{Decode, Encode, codec_fieldless, codec_struct};
use crate::{
    engine::{HandshakePart, HandshakeState, HandshakeStep},
    tls::info::{TlsFailure, TlsInfo, TlsVersion},
};

codec_struct!(HandshakeStep { state, spent, was_costly, is_congested });
codec_fieldless!(HandshakePart { 0 Costly, 1 Cheap });
codec_fieldless!(TlsVersion { 0 V1_2, 1 V1_3 });
codec_fieldless!(TlsFailure { 0 Alert, 1 NoCommonParameters, 2 UnknownName, 3 PeerCertificate, 4 Malformed });

impl Encode for HandshakeState {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            HandshakeState::Waiting => out.push(0),
            HandshakeState::Complete(info) => {
                out.push(1);
                info.put(out);
            }
            HandshakeState::PlainText => out.push(2),
            HandshakeState::Gone(kind) => {
                out.push(3);
                kind.put(out);
            }
            HandshakeState::Failed { cause, error } => {
                out.push(4);
                cause.put(out);
                error.put(out);
            }
        }
    }
}

impl Decode for HandshakeState {
    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(match u8::get(input)? {
            0 => HandshakeState::Waiting,
            1 => HandshakeState::Complete(Arc::new(TlsInfo::get(input)?)),
            2 => HandshakeState::PlainText,
            3 => HandshakeState::Gone(ErrorKind::get(input)?),
            4 => HandshakeState::Failed { cause: TlsFailure::get(input)?, error: String::get(input)? },
            _ => return None,
        })
    }
}

impl Encode for TlsInfo {
    fn put(&self, out: &mut Vec<u8>) {
        let TlsInfo { version, cipher, server_name, alpn, is_resumed, peer_certificates } = self;
        version.put(out);
        cipher.as_ref().put(out);
        server_name.as_deref().put(out);
        alpn.as_deref().put(out);
        is_resumed.put(out);
        peer_certificates.to_vec().put(out);
    }
}

impl Decode for TlsInfo {
    fn get(input: &mut &[u8]) -> Option<Self> {
        Some(TlsInfo {
            version: Decode::get(input)?,
            cipher: String::get(input)?.into(),
            server_name: Option::<String>::get(input)?.map(Into::into),
            alpn: Option::<String>::get(input)?.map(Into::into),
            is_resumed: Decode::get(input)?,
            peer_certificates: Vec::<Bytes>::get(input)?.into(),
        })
    }
}
