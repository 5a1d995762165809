//! Settings: the manual, the schema that it obeys, the layers over it, and the genesis.
//!
//! Input: a file, the environment, flags. Output: an `Effective` configuration in which every
//! value is within its range and knows where it came from. Failure: a `ConfigError` that lists all
//! faults at once, each with file, line, value and remedy. Nothing here opens a socket or starts
//! a thread; stages get their values as small structs of their own, never this schema.

pub mod fault;
pub mod keys;
pub mod schema;
pub mod overlay;
pub mod appliance;
pub mod chain_spec;
