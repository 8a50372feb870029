//! How-to pages, one for each task. Each has a program that compiles.

#[doc = include_str!("game_loop.md")]
pub mod game_loop {}
#[doc = include_str!("other_loops.md")]
pub mod other_loops {}
#[doc = include_str!("bevy.md")]
pub mod bevy {}
#[doc = include_str!("threads.md")]
pub mod threads {}
#[doc = include_str!("rooms.md")]
pub mod rooms {}
#[doc = include_str!("json.md")]
pub mod json {}
#[doc = include_str!("upgrades.md")]
pub mod upgrades {}
#[doc = include_str!("authentication.md")]
pub mod authentication {}
#[cfg(feature = "tls")]
#[doc = include_str!("tls.md")]
pub mod tls {}
#[doc = include_str!("proxies.md")]
pub mod proxies {}
#[doc = include_str!("other_ways_in.md")]
pub mod other_ways_in {}
#[doc = include_str!("memory.md")]
pub mod memory {}
#[doc = include_str!("http.md")]
pub mod http {}
#[doc = include_str!("outbound.md")]
pub mod outbound {}
#[doc = include_str!("compression.md")]
pub mod compression {}
#[doc = include_str!("simulation.md")]
pub mod simulation {}
#[doc = include_str!("replay.md")]
pub mod replay {}
