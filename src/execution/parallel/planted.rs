//! Faults that a test can plant, to see that the laws notice them. Outside of tests there is none.

#[cfg(test)]
use std::cell::Cell;

/// What could be wrong with taking over a speculation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing that was read is looked at again.
    NoCheck,
    /// Accounts that were read are not looked at again.
    NoAccountCheck,
    /// Slots that were read are not looked at again.
    NoSlotCheck,
    /// What a lane expected of its own earlier transactions is taken for what happened.
    ExpectationTrusted,
    /// A balance that code has looked at may differ.
    LookedAtBalanceIsFree,
    /// A balance is overwritten where it has to be added to.
    DifferenceDropped,
    /// The fee recipient does not get its tip.
    TipDropped,
    /// A speculation that looked at the fee recipient is checked before the tips are in it.
    TipsLateForCheck,
    /// The EVM looks at the fee recipient before the tips are in it.
    TipsLateInPlace,
    /// What the EVM makes of the fee recipient is not noticed by who holds its account.
    TipsOutdated,
    /// Storage of an account that was made anew is not void.
    VoidDropped,
    /// New code is not kept.
    CodeDropped,
}

#[cfg(not(test))]
pub(super) const fn planted(_: Fault) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    pub(super) static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

#[cfg(test)]
pub(super) fn planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}
