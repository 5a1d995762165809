//! The genesis: from development accounts or from a file in the format that geth and reth share.

use crate::config::schema::Chain;
use alloy_eips::{
    eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE},
    eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE},
    eip7002::{WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_PREDEPLOY_CODE},
    eip7251::{CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_PREDEPLOY_CODE},
};
use alloy_genesis::{Genesis, GenesisAccount};
use alloy_primitives::{Address, Bytes, U256};
use std::{fs, path::Path};

/// Bytes of a genesis file at most.
pub const GENESIS_BYTES_MAX: u64 = 1 << 30;
/// Wei of one MEGA.
pub const WEI_PER_MEGA: u64 = 1_000_000_000_000_000_000;
/// The yellow paper: a gas limit is never lower.
const BLOCK_GAS_MIN: u64 = 5_000;
/// The yellow paper: bytes of a header's extra data at most.
const EXTRA_DATA_BYTES_MAX: usize = 32;

/// The chain's identity and its first state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSpec {
    /// EIP-155.
    pub chain_id: u64,
    /// Complete: gas limit and base fee are set and the system contracts stand in `alloc`. The
    /// gas limit holds for all blocks.
    pub genesis: Genesis,
    /// What the reader of a log should know of how the file was taken.
    pub notes: Vec<String>,
}

/// Why a genesis file is refused.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The file cannot be read.
    #[error(
        "{file}: cannot be read ({error}); name a readable file with --genesis or \
        chain.genesis_file"
    )]
    Unreadable {
        /// As it was given.
        file: String,
        /// The system's reason.
        error: std::io::Error,
    },
    /// The file is larger than any genesis.
    #[error("{file}: {bytes} bytes are more than {GENESIS_BYTES_MAX}; this is no genesis file")]
    TooLarge {
        /// As it was given.
        file: String,
        /// Its size.
        bytes: u64,
    },
    /// The file does not have the format.
    #[error("{file}:{line}: {what}; correct it to the genesis format of geth and reth")]
    Malformed {
        /// As it was given.
        file: String,
        /// From 1.
        line: usize,
        /// The parser's words.
        what: String,
    },
    /// A value cannot start a chain.
    #[error("{file}:{line}: {what}; {remedy}")]
    Unusable {
        /// As it was given.
        file: String,
        /// From 1.
        line: usize,
        /// The field and its value.
        what: String,
        /// What to do.
        remedy: String,
    },
}

impl ChainSpec {
    /// The genesis that a configuration asks for: its file, or `accounts` funded alike.
    ///
    /// # Errors
    /// Where the file cannot start a chain.
    pub fn new(chain: &Chain, accounts: &[Address]) -> Result<Self, GenesisError> {
        match &chain.genesis_file {
            Some(path) => Self::from_file(chain, path),
            None => Ok(Self::from_accounts(chain, accounts)),
        }
    }

    /// A genesis with `dev_balance_mega` for each account. It is the same at each start.
    pub fn from_accounts(chain: &Chain, accounts: &[Address]) -> Self {
        let balance = U256::from(chain.dev_balance_mega) * U256::from(WEI_PER_MEGA);
        let funded = GenesisAccount { balance, ..GenesisAccount::default() };
        let mut genesis = Genesis {
            gas_limit: chain.block_gas_limit,
            base_fee_per_gas: Some(chain.initial_base_fee_wei.into()),
            coinbase: chain.fee_recipient,
            extra_data: Bytes::copy_from_slice(&chain.extra_data),
            alloc: accounts.iter().map(|address| (*address, funded.clone())).collect(),
            ..Genesis::default()
        };
        genesis.config.chain_id = chain.id;
        add_system_contracts(&mut genesis);
        Self { chain_id: chain.id, genesis, notes: Vec::new() }
    }

    /// The genesis of a file.
    ///
    /// # Errors
    /// Where it cannot be read or cannot start a chain.
    pub fn from_file(chain: &Chain, path: &Path) -> Result<Self, GenesisError> {
        let file = path.display().to_string();
        let unreadable = |error| GenesisError::Unreadable { file: file.clone(), error };
        let bytes = fs::metadata(path).map_err(unreadable)?.len();
        if bytes > GENESIS_BYTES_MAX {
            return Err(GenesisError::TooLarge { file, bytes });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Self::from_text(chain, &file, &text)
    }

    /// The genesis that `text` says; `file` names it in messages.
    ///
    /// # Errors
    /// Where it cannot start a chain.
    pub fn from_text(chain: &Chain, file: &str, text: &str) -> Result<Self, GenesisError> {
        let mut genesis: Genesis = serde_json::from_str(text).map_err(|error| {
            let what = error.to_string();
            GenesisError::Malformed { file: file.to_owned(), line: error.line(), what }
        })?;
        check(&genesis, file, text)?;
        let mut notes = Vec::new();
        let chain_id = chosen_chain_id(chain, &genesis, text, &mut notes);
        genesis.config.chain_id = chain_id;
        if genesis.gas_limit != chain.block_gas_limit {
            notes.push(format!("the block gas limit is {}, as in {file}", genesis.gas_limit));
        }
        let base_fee = genesis.base_fee_per_gas.unwrap_or(chain.initial_base_fee_wei.into());
        genesis.base_fee_per_gas = Some(base_fee.max(chain.base_fee_floor_wei.into()));
        if genesis.config.osaka_time != Some(0) {
            notes.push(format!("{file} asks for other rules; Osaka holds from the first block"));
        }
        let added = add_system_contracts(&mut genesis);
        if !added.is_empty() {
            notes.push(format!("added to the accounts of {file}: {}", added.join(", ")));
        }
        Ok(Self { chain_id, genesis, notes })
    }
}

fn chosen_chain_id(chain: &Chain, genesis: &Genesis, text: &str, notes: &mut Vec<String>) -> u64 {
    // Without the field the parser says 1, which nobody asked for.
    let given = line_of_field(text, "chainId").is_some().then_some(genesis.config.chain_id);
    match given {
        Some(given) if chain.id_is_default => given,
        Some(given) if given != chain.id => {
            notes.push(format!("chain id {} is taken, not the genesis file's {given}", chain.id));
            chain.id
        }
        _ => chain.id,
    }
}

fn check(genesis: &Genesis, file: &str, text: &str) -> Result<(), GenesisError> {
    let refuse = |field: &str, what: String, remedy: &str| {
        let line = line_of_field(text, field).unwrap_or(1);
        let (file, remedy) = (file.to_owned(), remedy.to_owned());
        Err(GenesisError::Unusable { file, line, what, remedy })
    };
    let gas_limit = genesis.gas_limit;
    if gas_limit < BLOCK_GAS_MIN {
        let remedy = "set it to the gas of a block, such as \"0x77359400\"";
        return refuse("gasLimit", format!("gasLimit {gas_limit} is too low"), remedy);
    }
    if genesis.config.chain_id == 0 || genesis.config.chain_id > u64::MAX / 2 - 36 {
        let what = format!("chainId {} is outside of EIP-2294", genesis.config.chain_id);
        return refuse("chainId", what, "use 1 to 9223372036854775771");
    }
    if let Some(number @ 1..) = genesis.number {
        let what = format!("number {number} is not 0");
        return refuse("number", what, "remove it: a chain starts with block 0");
    }
    if genesis.extra_data.len() > EXTRA_DATA_BYTES_MAX {
        let what = format!("extraData has {} bytes", genesis.extra_data.len());
        return refuse("extraData", what, "use at most 32");
    }
    if genesis.base_fee_per_gas.is_some_and(|fee| u64::try_from(fee).is_err()) {
        let what = "baseFeePerGas is above 64 bits".to_owned();
        return refuse("baseFeePerGas", what, "use a fee in wei per gas");
    }
    // EIP-7610: creation there would have to fail. No transaction can make such an account, so
    // none is ever on this chain if none begins it.
    let hollow = genesis.alloc.iter().find(|(_, account)| is_storage_alone(account));
    if let Some((address, _)) = hollow {
        let what = format!("account {address} has storage, but neither nonce nor code (EIP-7610)");
        let digits = format!("{address:x}");
        let line = line_of_account(text, &digits).unwrap_or(1);
        let (file, remedy) =
            (file.to_owned(), "give it its code or a nonce, or remove its storage");
        return Err(GenesisError::Unusable { file, line, what, remedy: remedy.to_owned() });
    }
    Ok(())
}

fn is_storage_alone(account: &GenesisAccount) -> bool {
    let mut values = account.storage.iter().flatten().map(|(_, value)| value);
    account.nonce.unwrap_or_default() == 0
        && account.code.as_ref().is_none_or(|code| code.is_empty())
        && values.any(|value| !value.is_zero())
}

/// The line on which an account's address first stands, in any case and with or without `0x`.
fn line_of_account(text: &str, digits: &str) -> Option<usize> {
    let found = |line: &str| line.to_ascii_lowercase().contains(digits);
    text.lines().position(found).map(|index| index + 1)
}

/// The line on which a field of that name first stands, from 1.
fn line_of_field(text: &str, field: &str) -> Option<usize> {
    let quoted = format!("\"{field}\"");
    text.lines().position(|line| line.contains(&quoted)).map(|index| index + 1)
}

/// Puts the contracts that Osaka's system calls need where they are missing; names those added.
fn add_system_contracts(genesis: &mut Genesis) -> Vec<String> {
    let contracts: [(&str, Address, &Bytes); 4] = [
        ("EIP-4788", BEACON_ROOTS_ADDRESS, &BEACON_ROOTS_CODE),
        ("EIP-2935", HISTORY_STORAGE_ADDRESS, &HISTORY_STORAGE_CODE),
        ("EIP-7002", WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, &WITHDRAWAL_REQUEST_PREDEPLOY_CODE),
        (
            "EIP-7251",
            CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS,
            &CONSOLIDATION_REQUEST_PREDEPLOY_CODE,
        ),
    ];
    let mut added = Vec::new();
    for (name, address, code) in contracts {
        let account = genesis.alloc.entry(address).or_default();
        if account.code.as_ref().is_none_or(|code| code.is_empty()) {
            account.code = Some(code.clone());
            account.nonce = Some(1); // EIP-161: or it would count as empty without code.
            added.push(format!("{name} at {address}"));
        }
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overlay::{Sources, effective};

    fn chain() -> Chain {
        let environment = vec![("HOME".to_owned(), "/h".to_owned())];
        effective(&Sources { environment, ..Sources::default() }).unwrap().config.chain
    }

    fn refusal(text: &str) -> String {
        ChainSpec::from_text(&chain(), "g.json", text).unwrap_err().to_string()
    }

    #[test]
    fn development_accounts_are_funded_and_system_contracts_stand() {
        let address = Address::repeat_byte(7);
        let spec = ChainSpec::new(&chain(), &[address]).unwrap();
        assert_eq!(spec.chain_id, 31_337);
        assert_eq!(spec.genesis.alloc.len(), 5);
        let balance = spec.genesis.alloc[&address].balance;
        assert_eq!(balance.to_string(), "10000000000000000000000");
        for address in [BEACON_ROOTS_ADDRESS, HISTORY_STORAGE_ADDRESS] {
            let account = &spec.genesis.alloc[&address];
            assert!(account.code.as_ref().is_some_and(|code| !code.is_empty()));
            assert_eq!(account.nonce, Some(1));
        }
    }

    #[test]
    fn a_file_gives_chain_id_gas_limit_and_accounts() {
        let text = r#"{
            "config": { "chainId": 777, "osakaTime": 0 },
            "gasLimit": "0x1c9c380",
            "difficulty": "0x0",
            "alloc": { "0x00000000000000000000000000000000000000aa": { "balance": "0x5" } }
        }"#;
        let spec = ChainSpec::from_text(&chain(), "g.json", text).unwrap();
        assert_eq!((spec.chain_id, spec.genesis.gas_limit), (777, 30_000_000));
        assert_eq!(spec.genesis.alloc.len(), 5);
        assert!(spec.notes.iter().any(|note| note.contains("EIP-7002")), "{:?}", spec.notes);
        let mut set = chain();
        (set.id, set.id_is_default) = (5, false);
        let spec = ChainSpec::from_text(&set, "g.json", text).unwrap();
        assert_eq!((spec.chain_id, spec.genesis.config.chain_id), (5, 5));
        assert!(spec.notes.iter().any(|note| note.contains("777")), "{:?}", spec.notes);
    }

    #[test]
    fn a_file_that_starts_no_chain_is_refused_with_its_line() {
        assert!(refusal("{\n\"gasLimit\": oops}").starts_with("g.json:2: "));
        assert!(refusal("{\n\n\"gasLimit\": \"0x1\"}").starts_with("g.json:3: gasLimit 1 is"));
        let numbered = "{\"gasLimit\": \"0x1c9c380\",\n\"number\": \"0x2\"}";
        assert!(refusal(numbered).starts_with("g.json:2: number 2 is not 0"));
        let missing = ChainSpec::from_file(&chain(), Path::new("/nowhere/g.json")).unwrap_err();
        assert!(missing.to_string().contains("--genesis"), "{missing}");
    }

    /// EIP-7610: nothing but a genesis could bring such an account onto the chain.
    #[test]
    fn an_account_with_storage_alone_is_refused() {
        let text = |fields: &str| {
            format!(
                "{{ \"gasLimit\": \"0x1c9c380\", \"difficulty\": \"0x0\", \"alloc\": {{\n\
                 \"0x00000000000000000000000000000000000000Aa\": {{ \"balance\": \"0x5\" }},\n\
                 \"0x00000000000000000000000000000000000000Bb\": {{ {fields},\n\
                 \"balance\": \"0x5\" }}\n\
                 }} }}"
            )
        };
        let (slot, zero) = (r#""storage": {"0x01": "0x02"}"#, r#""storage": {"0x01": "0x00"}"#);
        let sound = [format!(r#"{slot}, "nonce": "0x1""#), format!(r#"{slot}, "code": "0x00""#)];
        for fields in sound.iter().map(String::as_str).chain([zero]) {
            ChainSpec::from_text(&chain(), "g.json", &text(fields)).unwrap();
        }
        for fields in [slot.to_owned(), format!(r#"{slot}, "nonce": "0x0", "code": "0x""#)] {
            let refused = refusal(&text(&fields));
            assert!(refused.starts_with("g.json:3: account 0x0"), "{refused}");
            assert!(refused.contains("bb has storage, but neither nonce nor code"), "{refused}");
            assert!(refused.ends_with("or remove its storage"), "{refused}");
        }
    }
}
