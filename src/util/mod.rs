//! Small parts that know nothing of the server: buffers, timers, clocks' arithmetic, random
//! numbers.

pub(crate) mod authority;
pub(crate) mod buffer_pool;
pub(crate) mod entropy;
pub(crate) mod exclusive;
#[cfg(any(feature = "sim", test, fuzzing))]
#[cfg_attr(not(feature = "sim"), allow(dead_code))]
pub(crate) mod fnv;
pub(crate) mod http_syntax;
pub(crate) mod packed_duration;
pub(crate) mod rearm;
pub(crate) mod split_mix;
#[cfg(any(test, fuzzing))]
pub(crate) mod test_dir;
#[cfg(any(test, fuzzing))]
pub(crate) mod test_rng;
pub(crate) mod time;
pub(crate) mod timer_wheel;
