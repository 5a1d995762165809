//! Many EVMs at work ahead of the one that commits.
//!
//! 1. `plan`, made by the first lane, gives each transaction of a cut that needs the EVM to a lane,
//!    so that those that will conflict, as far as experience tells, stand on one.
//! 2. Each `lane` executes its own in order, ahead of time, on what it can see (`view`): the
//!    newest committed values and its own newer ones. It keeps what it read and what it would
//!    write (`speculation`).
//! 3. `engine` goes through the cut in order as the serial engine does. Where a lane has been,
//!    it looks whether what was read is still so, and takes over what would be written; where it
//!    is not so, or nobody has been, it executes in place, with everything before it committed
//!    (`commit`).
//!
//! So the result never depends on the plan, the lanes or their speed; only the time does. Values
//! that are only added to (the fee recipient's tips, wei that an account gets without anybody
//! looking at its balance, `watch`) are taken over as differences.

mod commit;
pub mod counts;
pub mod engine;
pub mod lane;
pub mod pace;
mod plan;
mod planted;
mod speculation;
mod view;
mod watch;

#[cfg(test)]
mod baton;
#[cfg(test)]
mod laws;
