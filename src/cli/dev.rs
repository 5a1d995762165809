//! `basalt dev`: the embedded defaults, funded accounts, and a banner that says where to connect.

use crate::cli::{Kind, Start};
use crate::config::overlay::{Flag, Sources, effective};
use alloy_primitives::{Address, B256};
use clap::Args;
use std::net::SocketAddr;

/// Accounts that the banner lists before it only counts.
const ACCOUNTS_SHOWN_MAX: usize = 10;

const EXAMPLES: &str = "\
Examples:
  basalt dev
  basalt dev --fresh --accounts 1000 --rpc 127.0.0.1:9000
  basalt dev --data /tmp/chain --mini-block-ms 5 --block-ms 500
  basalt dev --genesis genesis.json --chain-id 4242

The chain is kept: started again, it continues where it stopped. --fresh forgets it.";

/// Arguments of `basalt dev`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Dev {
    /// Folder of the chain [default: basalt/dev in the user's state folder]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Forget the chain in the data folder and start from genesis
    #[arg(long)]
    fresh: bool,
    /// Where HTTP and WebSocket JSON-RPC are served [default: 127.0.0.1:8545]
    #[arg(long, value_name = "ADDR:PORT")]
    rpc: Option<String>,
    /// Where Prometheus metrics are served, or "off" [default: 127.0.0.1:9545]
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<String>,
    /// Milliseconds between mini-blocks, 1 to 1000 [default: 10]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    mini_block_ms: Option<String>,
    /// Milliseconds between blocks, 100 to 60000 [default: 1000]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    block_ms: Option<String>,
    /// Funded accounts, up to 100000 [default: 10]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    accounts: Option<String>,
    /// Phrase that the accounts are derived from [default: test test … junk]
    #[arg(long, value_name = "PHRASE")]
    mnemonic: Option<String>,
    /// Genesis in the format of geth and reth, instead of funded accounts
    #[arg(long, value_name = "FILE")]
    genesis: Option<String>,
    /// EIP-155 chain id [default: 31337, or the genesis file's]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    chain_id: Option<String>,
}

impl Dev {
    /// The settings in force.
    ///
    /// # Errors
    /// Where a value is refused.
    pub fn start(self, mut sources: Sources) -> Result<Start, String> {
        let flags = [
            ("--data", "data.directory", self.data),
            ("--rpc", "rpc.address", self.rpc),
            ("--metrics", "metrics.address", self.metrics),
            ("--mini-block-ms", "sequencing.mini_block_interval_ms", self.mini_block_ms),
            ("--block-ms", "sequencing.block_interval_ms", self.block_ms),
            ("--accounts", "chain.dev_accounts", self.accounts),
            ("--mnemonic", "chain.dev_mnemonic", self.mnemonic),
            ("--genesis", "chain.genesis_file", self.genesis),
            ("--chain-id", "chain.id", self.chain_id),
        ];
        for (flag, key, value) in flags {
            let Some(value) = value else { continue };
            // An unset variable in a script must not mean the default chain, least of all to
            // --fresh.
            if value.is_empty() {
                return Err(format!(
                    "flag {flag}: {key} = \"\" is empty; give a value, or leave the flag out for \
                     the default"
                ));
            }
            sources.flags.push(Flag { flag, key, value });
        }
        sources.dev = true;
        let effective = effective(&sources).map_err(|error| error.to_string())?;
        Ok(Start { kind: Kind::Dev, effective, fresh: self.fresh })
    }
}

/// What a newcomer needs to connect: endpoints, chain id, and accounts with their keys.
pub fn banner(
    rpc: SocketAddr,
    metrics: Option<SocketAddr>,
    chain_id: u64,
    accounts: &[(Address, B256)],
    funded: usize,
) -> String {
    let mut text = format!("JSON-RPC   http://{rpc}   ws://{rpc}\n");
    if let Some(metrics) = metrics {
        text.push_str(&format!("metrics    http://{metrics}/metrics\n"));
    }
    text.push_str(&format!("chain id   {chain_id}\n"));
    if accounts.is_empty() {
        return text;
    }
    text.push_str("accounts   with private keys; known to everybody, for development only\n");
    for (index, (address, key)) in accounts.iter().take(ACCOUNTS_SHOWN_MAX).enumerate() {
        text.push_str(&format!("  {index:>3}  {address}  {key}\n"));
    }
    if let Some(more @ 1..) = funded.checked_sub(accounts.len()) {
        text.push_str(&format!("       and {more} more\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_lists_ten_accounts_and_counts_the_rest() {
        let address = "127.0.0.1:8545".parse().unwrap();
        let accounts = vec![(Address::ZERO, B256::ZERO); 12];
        let text = banner(address, None, 31_337, &accounts[..10], 12);
        assert!(text.contains("http://127.0.0.1:8545"), "{text}");
        assert!(text.contains("and 2 more"), "{text}");
        assert_eq!(text.matches("0x0000000000000000000000000000000000000000 ").count(), 10);
    }
}
