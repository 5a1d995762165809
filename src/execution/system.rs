//! What a block does beside its transactions: system calls at its ends, and EIP-7685 requests.

use crate::execution::{
    block::OpenBlock,
    evm::{EngineError, Evm, Fork, Rules},
};
use alloy_eips::{
    eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE},
    eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE},
    eip6110::DEPOSIT_REQUEST_TYPE,
    eip7002::{
        WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_PREDEPLOY_CODE,
        WITHDRAWAL_REQUEST_TYPE,
    },
    eip7251::{
        CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_PREDEPLOY_CODE,
        CONSOLIDATION_REQUEST_TYPE,
    },
};
use alloy_primitives::{Address, B256, Bytes, Log, b256};

/// `DepositEvent(bytes,bytes,bytes,bytes,bytes)`.
const DEPOSIT_EVENT: B256 =
    b256!("0x649bbc62d0e31342afea4e5cd82d4049e7e1ee912fc0889aa790803be39038c5");
/// ABI encoding of a deposit event: five offsets, then each part behind its length, padded.
/// Offset of a part and its bytes: public key, withdrawal credentials, amount, signature, index.
const DEPOSIT_PARTS: [(usize, usize); 5] = [(160, 48), (256, 32), (320, 8), (384, 96), (512, 8)];
/// Bytes of a deposit event's data.
const DEPOSIT_EVENT_BYTES: usize = 576;

/// The contracts that a block's system calls need, for genesis: address, code, nonce.
pub fn genesis_contracts() -> Vec<(Address, Bytes, u64)> {
    vec![
        (HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE.clone(), 1),
        (BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE.clone(), 1),
        (WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_PREDEPLOY_CODE.clone(), 1),
        (CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_PREDEPLOY_CODE.clone(), 1),
    ]
}

/// Opens a block: EIP-4788's write of the parent's beacon block root (which an L2 has not: zero),
/// and from now on the parent's hash is late (EIP-2935 follows in `close`).
///
/// # Errors
/// Where the state cannot be read.
pub fn open(evm: &mut Evm, block: &OpenBlock) -> Result<(), EngineError> {
    resume(evm, block)?;
    if evm.store().has_code(BEACON_ROOTS_ADDRESS)? {
        // EIP-4788: a call that fails changes nothing and does not make the block invalid.
        if let Err(reason) = evm.system_call(BEACON_ROOTS_ADDRESS, B256::ZERO.into())? {
            tracing::warn!(reason, "EIP-4788 call failed");
        }
    }
    Ok(())
}

/// Sets the EVM to a block that was opened before.
///
/// # Errors
/// Where the state cannot be read.
pub fn resume(evm: &mut Evm, block: &OpenBlock) -> Result<(), EngineError> {
    evm.set_block(&block.environment, 0);
    let has_history = evm.rules().fork >= Fork::Prague;
    let parent = block.environment.number.checked_sub(1).filter(|_| has_history);
    let parent = if evm.store().has_code(HISTORY_STORAGE_ADDRESS)? { parent } else { None };
    evm.store().set_late_parent(parent);
    Ok(())
}

/// Closes a block: EIP-2935's write of the parent's hash, then the requests in order of type,
/// each with its type byte, empty ones left out (EIP-6110, 7002, 7251 in EIP-7685's form).
///
/// # Errors
/// Where a contract of EIP-7002 or EIP-7251 is missing or fails: such a block would be invalid.
pub fn close(
    evm: &mut Evm,
    block: &OpenBlock,
    parent_hash: B256,
) -> Result<Vec<Bytes>, EngineError> {
    evm.store().set_late_parent(None);
    if evm.rules().fork < Fork::Prague {
        return Ok(Vec::new());
    }
    if evm.store().has_code(HISTORY_STORAGE_ADDRESS)?
        && let Err(reason) = evm.system_call(HISTORY_STORAGE_ADDRESS, parent_hash.into())?
    {
        tracing::warn!(reason, "EIP-2935 call failed");
    }
    let mut requests = vec![request(DEPOSIT_REQUEST_TYPE, &block.deposits)];
    for (kind, contract) in [
        (WITHDRAWAL_REQUEST_TYPE, WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS),
        (CONSOLIDATION_REQUEST_TYPE, CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS),
    ] {
        if !evm.store().has_code(contract)? {
            return Err(EngineError::SystemCall { contract, reason: "it has no code".to_owned() });
        }
        let output = evm
            .system_call(contract, Bytes::new())?
            .map_err(|reason| EngineError::SystemCall { contract, reason })?;
        requests.push(request(kind, &output));
    }
    requests.retain(|request| request.len() > 1);
    Ok(requests)
}

fn request(kind: u8, data: &[u8]) -> Bytes {
    [&[kind], data].concat().into()
}

/// EIP-6110: appends the deposits among `logs` as request data.
///
/// # Errors
/// Where the deposit contract logged a deposit event of another layout: such a block is invalid.
pub fn append_deposits(
    deposits: &mut Vec<u8>,
    logs: &[Log],
    rules: &Rules,
) -> Result<(), EngineError> {
    if rules.fork < Fork::Prague {
        return Ok(());
    }
    for log in logs.iter().filter(|log| log.address == rules.deposit_contract) {
        if log.topics().first() == Some(&DEPOSIT_EVENT) {
            append_deposit(deposits, &log.data.data)
                .ok_or(EngineError::DepositLayout(rules.deposit_contract))?;
        }
    }
    Ok(())
}

fn append_deposit(deposits: &mut Vec<u8>, data: &[u8]) -> Option<()> {
    if data.len() != DEPOSIT_EVENT_BYTES {
        return None;
    }
    for (at, (offset, bytes)) in DEPOSIT_PARTS.into_iter().enumerate() {
        let as_usize = |start: usize| {
            let (high, low) = data.get(start..start + 32)?.split_at(24);
            let low = u64::from_be_bytes(low.try_into().ok()?);
            (high.iter().all(|byte| *byte == 0)).then(|| usize::try_from(low).ok())?
        };
        if as_usize(at * 32)? != offset || as_usize(offset)? != bytes {
            return None;
        }
        deposits.extend_from_slice(data.get(offset + 32..offset + 32 + bytes)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::LogData;

    fn event() -> Vec<u8> {
        let mut data = vec![0u8; DEPOSIT_EVENT_BYTES];
        for (at, (offset, bytes)) in DEPOSIT_PARTS.into_iter().enumerate() {
            data[at * 32 + 24..at * 32 + 32].copy_from_slice(&(offset as u64).to_be_bytes());
            data[offset + 24..offset + 32].copy_from_slice(&(bytes as u64).to_be_bytes());
            data[offset + 32..offset + 32 + bytes].fill(u8::try_from(at).unwrap() + 1);
        }
        data
    }

    #[test]
    fn deposits_come_out_of_logs_in_order() {
        let rules = Rules::osaka(1);
        let log = |address, data: Vec<u8>| Log {
            address,
            data: LogData::new_unchecked(vec![DEPOSIT_EVENT], data.into()),
        };
        let mut deposits = Vec::new();
        let logs = [log(Address::ZERO, event()), log(rules.deposit_contract, event())];
        append_deposits(&mut deposits, &logs, &rules).unwrap();
        let parts: [(u8, usize); 5] = [(1, 48), (2, 32), (3, 8), (4, 96), (5, 8)];
        let expected: Vec<u8> = parts.iter().flat_map(|(byte, n)| vec![*byte; *n]).collect();
        assert_eq!(deposits, expected);

        let mut bent = event();
        bent[31] = 0xa1;
        let refused = append_deposits(&mut deposits, &[log(rules.deposit_contract, bent)], &rules);
        assert!(matches!(refused, Err(EngineError::DepositLayout(_))));
    }
}
