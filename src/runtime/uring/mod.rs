//! Durable writes through io_uring: when `write_durable` returns, a power cut takes nothing back.
//!
//! Input: a file opened by `direct`, an offset and an aligned buffer. Output: the bytes on the
//! device's lasting medium. Limit: one write in flight, one ring a writer, one thread a ring.
//! Failure: the error of the write or the flush; what the file then holds is unknown, so the
//! caller must stop (a flush that failed once may succeed later without having written).
//!
//! Which form of write and flush is fastest depends on kernel and device, so `probe` times each.
//! No submission by a kernel thread (SQPOLL): on shared cores it stalls for up to two seconds.

pub mod direct;
pub mod writer;
pub mod probe;
