//! Recipients' accounts are read when their transactions are admitted, as senders' are. Execution
//! will read them on the thread that all wait for: what lies on a disk still is waited for here.

use crate::types::view::StateView;
use alloy_primitives::Address;

/// Recipients that are remembered as read: 512 KiB of them.
const LATELY: usize = 1 << 16;

/// Those of one seat's transactions.
pub(super) struct Recipients {
    due: Vec<Address>,
    /// The last bytes of those read lately, each at the place that they name: who is paid often
    /// is not read every time. Only time depends on it.
    lately: Box<[u64]>,
}

impl Recipients {
    /// Nobody yet.
    pub(super) fn new() -> Self {
        Self { due: Vec::new(), lately: vec![0; LATELY].into_boxed_slice() }
    }

    /// Notes one that execution will read.
    pub(super) fn note(&mut self, address: Address) {
        let [.., a, b, c, d, e, f, g, h] = address.0.0;
        let tag = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let place = usize::try_from(tag).unwrap_or_default() % LATELY;
        if std::mem::replace(&mut self.lately[place], tag) != tag {
            self.due.push(address);
        }
    }

    /// Reads those noted since the last time. An error is for those who need the value.
    pub(super) fn read(&mut self, state: &dyn StateView) {
        for address in self.due.drain(..) {
            drop(state.account(&address));
        }
    }
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
        let mut other = one;
        other.0[19] ^= 1;
        for address in [other, one] {
            recipients.note(address);
        }
        recipients.read(&state);
        assert_eq!(state.looked_at.lock().unwrap()[2..], [other, one]);
    }
}
