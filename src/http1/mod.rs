//! Plain HTTP/1.1 (RFC 9110, RFC 9112), as far as a WebSocket server needs it: heads, bodies,
//! responses and static files. Uses no socket. The module is not called `http`, because the public
//! `tickws::http` is the crate of that name.

pub(crate) mod date;
pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod head_machine;
pub(crate) mod proxy_protocol;
pub(crate) mod rejection;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod static_files;
