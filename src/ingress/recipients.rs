//! Recipients' accounts are read when their transactions are admitted, as senders' are. Execution
//! will read them on the thread that all wait for: what lies on a disk still is waited for here.

use crate::types::view::StateView;
use alloy_primitives::Address;

/// Recipients that are remembered as read, in 1 MiB: about as many as execution has in its cache.
const LATELY: usize = 1 << 18;
/// Spreads addresses that differ in few bits (Fibonacci hashing: Knuth, vol. 3, 6.4).
const MIXER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Those of one seat's transactions.
pub(super) struct Recipients {
    due: Vec<Address>,
    /// The last bytes of those read lately, each at its place: who is paid often is not read every
    /// time. Only time depends on it.
    lately: Box<[u32]>,
}

impl Recipients {
    /// Nobody yet.
    pub(super) fn new() -> Self {
        Self { due: Vec::new(), lately: vec![0; LATELY].into_boxed_slice() }
    }

    /// Notes one that execution will read.
    pub(super) fn note(&mut self, address: Address) {
        let (place, tag) = place_and_tag(&address);
        if std::mem::replace(&mut self.lately[place], tag) != tag {
            self.due.push(address);
        }
    }

    /// Reads those noted since the last time.
    pub(super) fn read(&mut self, state: &dyn StateView) {
        if !self.due.is_empty() {
            state.bring(&self.due);
            self.due.clear();
        }
    }
}

/// Where a recipient is remembered, and as what.
fn place_and_tag(address: &Address) -> (usize, u32) {
    let [.., a, b, c, d, e, f, g, h] = address.0.0;
    let mixed = u64::from_be_bytes([a, b, c, d, e, f, g, h]).wrapping_mul(MIXER);
    let place = usize::try_from(mixed >> 32).unwrap_or_default() % LATELY;
    (place, u32::from_be_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::fixture::Fixed;

    #[test]
    fn who_is_paid_often_is_read_once() {
        let state = Fixed::default();
        let mut recipients = Recipients::new();
        let [one, two] = [1, 2].map(Address::repeat_byte);
        for address in [one, two, one] {
            recipients.note(address);
        }
        recipients.read(&state);
        assert_eq!(*state.looked_at.lock().unwrap(), [one, two]);
        recipients.note(one);
        recipients.read(&state);
        assert_eq!(state.looked_at.lock().unwrap().len(), 2, "lately");
        // One that takes the same place as another is forgotten with it, and read again.
        let (taken, _) = place_and_tag(&one);
        let mut others = (1u64..).map(|n| Address::left_padding_from(&n.to_be_bytes()));
        let other = others.find(|it| place_and_tag(it).0 == taken).unwrap();
        for address in [other, one] {
            recipients.note(address);
        }
        recipients.read(&state);
        assert_eq!(state.looked_at.lock().unwrap()[2..], [other, one]);
    }
}
