//! A state in memory with real contracts in it (OpenZeppelin's ERC-20, Uniswap v2 and v3, from
//! the packages that `tests/clients/install` brings), and transactions that use them.
//!
//! Nothing is signed: execution begins where the sender is known.
#![allow(dead_code, reason = "each program uses its part")]
#![allow(unreachable_pub, reason = "a module of programs")]

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use alloy_trie::{
    TrieAccount,
    root::{state_root_unhashed, storage_root_unhashed},
};
use basalt::{
    execution::{
        block::OpenBlock,
        evm::{Evm, Rules},
        hashes::BlockHashes,
        serial::{Engine, Serial},
        store::{CacheLimits, Store},
        system::genesis_contracts,
    },
    types::{
        diff::{Account, Diff},
        ids::BlockNumber,
        map::Map,
        mini_block::BlockEnvironment,
        overlay::Overlay,
        transaction::{RecoveredTransaction, SharedTransaction},
        view::{StateView, ViewError},
    },
};
use std::{fs, path::Path, sync::Arc};

pub const CHAIN: u64 = 31_337;
pub const BASE_FEE: u64 = 1_000;
/// Everybody's wei.
pub const FUNDS: u128 = 1_000_000_000_000_000_000_000;
/// Everybody's units of each token.
pub const TOKENS: u128 = 1_000_000_000_000_000_000_000_000;
/// Uniswap v3's fee tier of 0.3 %, and ticks at its spacing that span all prices.
const POOL_FEE: u64 = 3_000;
const TICK_MAX: i64 = 887_220;

/// A state in maps.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub accounts: Map<Address, Account>,
    pub slots: Map<(Address, U256), U256>,
    pub codes: Map<B256, Bytes>,
    pub hashes: Map<BlockNumber, B256>,
}

impl Memory {
    pub fn put(&mut self, address: Address, nonce: u64, balance: U256, code: Bytes) {
        let code_hash = keccak256(&code);
        self.codes.insert(code_hash, code);
        self.accounts.insert(address, Account { nonce, balance, code_hash });
    }

    pub fn apply(&mut self, diff: &Diff) {
        for (address, change) in diff.accounts.iter() {
            match change.account {
                Some(account) => drop(self.accounts.insert(*address, account)),
                None => drop(self.accounts.remove(address)),
            }
            if change.wiped {
                self.slots.retain(|(of, _), _| of != address);
            }
            let slots = change.storage.iter().map(|(slot, value)| ((*address, *slot), *value));
            self.slots.extend(slots);
        }
        self.codes.extend(diff.codes.iter().map(|(hash, code)| (*hash, code.clone())));
    }

    /// The state root, from nothing, by alloy's trie.
    pub fn root(&self) -> B256 {
        let mut storage: Map<Address, Vec<(B256, U256)>> = Map::default();
        for ((address, slot), value) in self.slots.iter().filter(|(_, value)| !value.is_zero()) {
            storage.entry(*address).or_default().push((B256::from(*slot), *value));
        }
        state_root_unhashed(self.accounts.iter().map(|(address, account)| {
            let Account { nonce, balance, code_hash } = *account;
            let slots = storage.remove(address).unwrap_or_default();
            let storage_root = storage_root_unhashed(slots);
            (*address, TrieAccount { nonce, balance, storage_root, code_hash })
        }))
    }
}

impl StateView for Memory {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        Ok(self.accounts.get(address).copied())
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError> {
        Ok(self.slots.get(&(*address, *slot)).copied().unwrap_or_default())
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError> {
        Ok(self.codes.get(hash).cloned())
    }

    fn block_hash(&self, number: BlockNumber) -> Result<Option<B256>, ViewError> {
        Ok(self.hashes.get(&number).copied())
    }
}

/// The environment of block 1 with room for everything.
pub fn environment(gas_limit: u64) -> BlockEnvironment {
    BlockEnvironment {
        number: 1,
        timestamp: 1_700_000_000,
        base_fee: BASE_FEE,
        gas_limit,
        fee_recipient: Address::repeat_byte(0xfe),
        prev_randao: B256::ZERO,
    }
}

/// An EVM on a state, in an open block.
pub fn evm(state: &Arc<Memory>, environment: &BlockEnvironment, limits: CacheLimits) -> Evm {
    let hashes = BlockHashes::settled();
    let base = Arc::clone(state) as Arc<dyn StateView>;
    let store = Store::new(base, Overlay::default(), hashes, limits);
    let mut evm = Evm::new(Rules::osaka(CHAIN), store);
    evm.set_block(environment, 0);
    evm
}

/// Somebody, by number.
pub fn who(at: usize) -> Address {
    let mut bytes = [0; 20];
    let number = u64::try_from(at).expect("small").to_be_bytes();
    // Spread as addresses are, which are hashes.
    bytes.copy_from_slice(&keccak256(number)[12..]);
    Address::from(bytes)
}

/// A transaction of type 2 by a sender that nobody asks for a signature.
pub fn transaction(sender: Address, tx: TxEip1559) -> SharedTransaction {
    let signed = tx.into_signed(Signature::new(U256::from(1), U256::from(1), false));
    let envelope = TxEnvelope::from(signed);
    let raw = Bytes::from(envelope.encoded_2718());
    let hash = keccak256([sender.as_slice(), &raw[..]].concat());
    Arc::new(RecoveredTransaction::new(envelope, hash, (sender, Vec::new()), raw))
}

/// A call with generous fees.
pub fn call(sender: Address, nonce: u64, to: Address, input: Bytes, gas: u64) -> SharedTransaction {
    transaction(sender, terms(nonce, TxKind::Call(to), U256::ZERO, input, gas))
}

/// A plain transfer.
pub fn transfer(sender: Address, nonce: u64, to: Address, wei: u64) -> SharedTransaction {
    transaction(sender, terms(nonce, TxKind::Call(to), U256::from(wei), Bytes::new(), 21_000))
}

/// What all transactions here have in common.
pub fn terms(nonce: u64, to: TxKind, value: U256, input: Bytes, gas_limit: u64) -> TxEip1559 {
    TxEip1559 {
        chain_id: CHAIN,
        nonce,
        gas_limit,
        max_fee_per_gas: 10 * u128::from(BASE_FEE),
        max_priority_fee_per_gas: 7,
        to,
        value,
        input,
        ..TxEip1559::default()
    }
}

/// Call data: the selector of a signature, and words.
pub fn abi(signature: &str, words: &[U256]) -> Bytes {
    let mut data = keccak256(signature)[..4].to_vec();
    words.iter().for_each(|word| data.extend(word.to_be_bytes::<32>()));
    data.into()
}

pub fn word(address: Address) -> U256 {
    U256::from_be_slice(address.as_slice())
}

/// A signed number as a word.
fn signed(number: i64) -> U256 {
    let low = U256::from(number.unsigned_abs());
    if number < 0 { U256::ZERO.wrapping_sub(low) } else { low }
}

/// A token's transfer.
pub fn pay_tokens(sender: Address, nonce: u64, token: Address, to: Address) -> SharedTransaction {
    let input = abi("transfer(address,uint256)", &[word(to), U256::from(1)]);
    call(sender, nonce, token, input, 60_000)
}

/// The state under construction, and who constructs it.
pub struct World {
    pub state: Memory,
    builder: Address,
    nonce: u64,
    v3: Option<V3>,
}

/// A pair of tokens and where it is traded.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    pub tokens: [Address; 2],
    /// The pool or pair itself.
    pub address: Address,
    /// Who is called to swap.
    pub router: Address,
}

#[derive(Debug, Clone, Copy)]
struct V3 {
    factory: Address,
    router: Address,
    positions: Address,
}

impl World {
    /// A state with so many rich accounts and the system's contracts.
    pub fn new(accounts: usize) -> Self {
        let mut state = Memory::default();
        for (address, code, nonce) in genesis_contracts() {
            state.put(address, nonce, U256::ZERO, code);
        }
        for at in 0..accounts {
            state.put(who(at), 0, U256::from(FUNDS), Bytes::new());
        }
        let builder = Address::repeat_byte(0xbb);
        state.put(builder, 0, U256::from(FUNDS), Bytes::new());
        Self { state, builder, nonce: 0, v3: None }
    }

    /// Executes the builder's transactions, all of which must succeed.
    fn build(&mut self, steps: Vec<TxEip1559>) {
        let list: Vec<_> = steps.into_iter().map(|tx| transaction(self.builder, tx)).collect();
        let environment = environment(1 << 40);
        let state = Arc::new(std::mem::take(&mut self.state));
        let mut serial = Serial { evm: evm(&state, &environment, CacheLimits::default()) };
        let mut block = OpenBlock::new(environment);
        let outcome = serial.execute(&mut block, list.clone(), &mut || false).expect("readable");
        assert_eq!(outcome.receipts.len(), list.len(), "dropped: {:?}", outcome.dropped);
        for (at, receipt) in outcome.receipts.iter().enumerate() {
            assert!(receipt.success, "step {at} of {} failed", list.len());
        }
        drop(serial);
        self.state = Arc::into_inner(state).expect("nobody else reads it");
        self.state.apply(&outcome.diff);
    }

    fn step(&mut self, to: TxKind, input: Bytes) -> TxEip1559 {
        self.nonce += 1;
        terms(self.nonce - 1, to, U256::ZERO, input, 16_000_000)
    }

    /// Deploys a contract of a package.
    fn deploy(&mut self, path: &str, arguments: &[U256]) -> Address {
        let mut input = creation_code(path);
        arguments.iter().for_each(|word| input.extend(word.to_be_bytes::<32>()));
        let address = self.builder.create(self.nonce);
        let step = self.step(TxKind::Create, input.into());
        self.build(vec![step]);
        address
    }

    /// Deploys a token of which each of the first `holders` accounts has some.
    pub fn token(&mut self, holders: std::ops::Range<usize>) -> Address {
        // Name and symbol (both empty) lie behind the four words of the head.
        let head = [U256::from(128), U256::from(160), U256::from(TOKENS) << 40, word(self.builder)];
        let path = "@openzeppelin/contracts/build/contracts/ERC20PresetFixedSupply.json";
        let token = self.deploy(path, &[&head[..], &[U256::ZERO; 2]].concat());
        for at in holders {
            self.give(token, who(at));
        }
        token
    }

    /// Writes a balance into OpenZeppelin's ERC-20: its mapping is slot 0.
    pub fn give(&mut self, token: Address, to: Address) {
        let slot = keccak256([word(to).to_be_bytes::<32>(), [0; 32]].concat());
        self.state.slots.insert((token, slot.into()), U256::from(TOKENS));
    }

    /// Writes an allowance into it: the mapping of mappings is slot 1.
    pub fn allow(&mut self, token: Address, owner: Address, spender: Address) {
        let of_owner = keccak256(
            [word(owner).to_be_bytes::<32>(), U256::from(1).to_be_bytes::<32>()].concat(),
        );
        let slot = keccak256([word(spender).to_be_bytes::<32>(), of_owner.0].concat());
        self.state.slots.insert((token, slot.into()), U256::MAX);
    }

    fn v3(&mut self) -> V3 {
        if let Some(v3) = self.v3 {
            return v3;
        }
        let factory = self.deploy(
            "@uniswap/v3-core/artifacts/contracts/UniswapV3Factory.sol/UniswapV3Factory.json",
            &[],
        );
        let periphery = "@uniswap/v3-periphery/artifacts/contracts";
        // No pool here holds wrapped wei.
        let wrapped = U256::from(1);
        let router = self.deploy(
            &format!("{periphery}/SwapRouter.sol/SwapRouter.json"),
            &[word(factory), wrapped],
        );
        let positions = self.deploy(
            &format!("{periphery}/NonfungiblePositionManager.sol/NonfungiblePositionManager.json"),
            &[word(factory), wrapped, U256::from(2)],
        );
        *self.v3.insert(V3 { factory, router, positions })
    }

    /// Deploys two tokens and a Uniswap v3 pool of them, with liquidity over all prices. The
    /// traders hold both and let the router take them.
    pub fn v3_pool(&mut self, traders: std::ops::Range<usize>) -> Pool {
        let V3 { factory, router, positions } = self.v3();
        let mut tokens = [self.token(traders.clone()), self.token(traders.clone())];
        tokens.sort_unstable();
        let [first, second] = tokens.map(word);
        let fee = U256::from(POOL_FEE);
        let everything = U256::from(TOKENS) << 20;
        let mut steps = Vec::new();
        for token in tokens {
            let input = abi("approve(address,uint256)", &[word(positions), U256::MAX]);
            steps.push(self.step(TxKind::Call(token), input));
        }
        // A price of one.
        let words = [first, second, fee, U256::from(1) << 96];
        let made = "createAndInitializePoolIfNecessary(address,address,uint24,uint160)";
        steps.push(self.step(TxKind::Call(positions), abi(made, &words)));
        let words = [
            first,
            second,
            fee,
            signed(-TICK_MAX),
            signed(TICK_MAX),
            everything,
            everything,
            U256::ZERO,
            U256::ZERO,
            word(self.builder),
            U256::MAX,
        ];
        let mint = "mint((address,address,uint24,int24,int24,uint256,uint256,uint256,uint256,\
                    address,uint256))";
        steps.push(self.step(TxKind::Call(positions), abi(mint, &words)));
        self.build(steps);
        for token in tokens {
            for at in traders.clone() {
                self.allow(token, who(at), router);
            }
        }
        let salt = keccak256([first, second, fee].map(|it| it.to_be_bytes::<32>()).concat());
        let code = creation_code(
            "@uniswap/v3-core/artifacts/contracts/UniswapV3Pool.sol/UniswapV3Pool.json",
        );
        Pool { tokens, address: factory.create2(salt, keccak256(code)), router }
    }

    /// Deploys two tokens and a Uniswap v2 pair of them, with liquidity.
    pub fn v2_pair(&mut self, traders: std::ops::Range<usize>) -> Pool {
        let factory = self.deploy("@uniswap/v2-core/build/UniswapV2Factory.json", &[U256::from(1)]);
        let router = self.deploy(
            "@uniswap/v2-periphery/build/UniswapV2Router02.json",
            &[word(factory), U256::from(1)],
        );
        let mut tokens = [self.token(traders.clone()), self.token(traders.clone())];
        tokens.sort_unstable();
        let made = abi("createPair(address,address)", &tokens.map(word));
        let step = self.step(TxKind::Call(factory), made);
        self.build(vec![step]);
        let salt = keccak256(tokens.map(Address::into_array).concat());
        let code = creation_code("@uniswap/v2-core/build/UniswapV2Pair.json");
        let pair = factory.create2(salt, keccak256(code));
        for token in tokens {
            self.give(token, pair);
            traders.clone().for_each(|at| self.allow(token, who(at), router));
        }
        let step = self.step(TxKind::Call(pair), abi("mint(address)", &[word(self.builder)]));
        self.build(vec![step]);
        Pool { tokens, address: pair, router }
    }
}

impl Pool {
    /// Sells a little of one token through Uniswap v3's router.
    pub fn swap(&self, trader: Address, nonce: u64, sell_first: bool) -> SharedTransaction {
        let [first, second] = self.tokens.map(word);
        let (from, to) = if sell_first { (first, second) } else { (second, first) };
        let words = [
            from,
            to,
            U256::from(POOL_FEE),
            word(trader),
            U256::MAX,
            U256::from(1_000_000),
            U256::ZERO,
            U256::ZERO,
        ];
        let name = "exactInputSingle((address,address,uint24,address,uint256,uint256,uint256,\
                    uint160))";
        call(trader, nonce, self.router, abi(name, &words), 300_000)
    }

    /// Sells a little of one token through Uniswap v2's router.
    pub fn swap_v2(&self, trader: Address, nonce: u64, sell_first: bool) -> SharedTransaction {
        let [first, second] = self.tokens.map(word);
        let (from, to) = if sell_first { (first, second) } else { (second, first) };
        // The path lies behind the five words of the head.
        let amount = U256::from(1_000_000);
        let head = [amount, U256::ZERO, U256::from(160), word(trader), U256::MAX];
        let name = "swapExactTokensForTokens(uint256,uint256,address[],address,uint256)";
        let words = [&head[..], &[U256::from(2), from, to]].concat();
        call(trader, nonce, self.router, abi(name, &words), 300_000)
    }
}

/// The creation code in an artefact of a package.
fn creation_code(path: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/node_modules");
    let file = root.join(path);
    let text = fs::read_to_string(&file).unwrap_or_else(|error| {
        panic!("{}: {error}; run tests/clients/install, which brings it", file.display())
    });
    let artefact: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let code = artefact["bytecode"].as_str().expect("bytecode");
    hex::decode(code).expect("hexadecimal digits")
}
