//! Runs a node: data folder, log, plan, banner, a line a block; until it ends.
#![expect(clippy::print_stderr, reason = "a command line complains on standard error")]

use crate::cli::appliance::in_force;
use crate::cli::{EXIT_DONE, EXIT_FAILED, Kind, Start, data::DataDirectory, dev, log, preflight};
use crate::config::schema::Chain;
use crate::crypto::derive::Accounts;
use crate::node::{Node, NodeError, Settings, Watch, format};
use crate::topology::{
    hardware::Machine,
    plan::{Wants, plan},
};
use crate::types::{block::Block, flow::ChainEvent};
use alloy_primitives::{Address, B256};
use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Accounts whose keys the banner shows.
const ACCOUNTS_SHOWN_MAX: usize = 10;

/// Runs the node to its end and gives the exit code.
pub fn run(start: Start) -> u8 {
    let runtime = runtime_directory();
    let failure = runtime.as_ref().map(|folder| folder.join(in_force::FAILURE));
    match run_node(start, runtime.as_deref()) {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(path) = failure
                && let Err(error) = in_force::put(&path, format!("{error}\n").as_bytes())
            {
                eprintln!("error: {error}");
            }
            EXIT_FAILED
        }
    }
}

/// Where a service leaves the reason of its end, and serves its numbers: for `maintenance`,
/// `console` and the health gate.
fn runtime_directory() -> Option<PathBuf> {
    let folders = std::env::var_os("RUNTIME_DIRECTORY")?;
    std::env::split_paths(&folders).next()
}

fn run_node(start: Start, runtime: Option<&Path>) -> Result<(), NodeError> {
    let Start { kind, effective, fresh } = start;
    preflight::check(&effective)?;
    let config = effective.config;
    log::start(&config.log);
    for warning in &effective.warnings {
        tracing::warn!("{warning}");
    }
    let held = DataDirectory::open(&config.data_directory, fresh).map_err(NodeError::of)?;
    format::claim(&held.path)?;
    let machine = Machine::read().map_err(NodeError::of)?;
    let plan = plan(&machine, &Wants::from(&config.topology));
    for note in &plan.notes {
        tracing::info!("{note}");
    }
    let accounts = shown_accounts(&config.chain, kind)?;
    let total = if accounts.is_empty() { 0 } else { config.chain.dev_accounts };
    let watch: Watch = Arc::new(|event| {
        if let ChainEvent::Block(block) = event {
            tell(block);
        }
    });
    let metrics_socket = runtime.map(|folder| folder.join(in_force::METRICS));
    let metrics_more = runtime.and_then(|folder| Some(folder.parent()?.join(in_force::UPDATES)));
    let folder = held.path.clone();
    let settings = Settings { config, folder, plan, watch, metrics_socket, metrics_more };
    let Some(node) = Node::start(settings)? else {
        tracing::info!("ended by a signal before the start was complete; nothing is lost");
        return Ok(());
    };
    if let Some(folder) = runtime {
        // What was wrong before is mended.
        in_force::remove(&folder.join(in_force::FAILURE)).map_err(NodeError)?;
    }
    let addresses = (node.rpc_address(), node.metrics_address());
    let banner = dev::banner(addresses.0, addresses.1, node.chain_id(), &accounts, total);
    print_line(&format!(
        "{banner}sequencer  {}\ndata       {}\n",
        node.sequencer(),
        held.path.display()
    ));
    node.wait()
}

fn shown_accounts(chain: &Chain, kind: Kind) -> Result<Vec<(Address, B256)>, NodeError> {
    if kind == Kind::Node || chain.genesis_file.is_some() {
        return Ok(Vec::new());
    }
    let derived = Accounts::from_mnemonic(&chain.dev_mnemonic).map_err(NodeError::of)?;
    let count = u32::try_from(chain.dev_accounts.min(ACCOUNTS_SHOWN_MAX)).unwrap_or(0);
    let signers = (0..count).map(|index| derived.signer(index).map_err(NodeError::of));
    signers.map(|signer| signer.map(|signer| (signer.address(), signer.secret()))).collect()
}

fn tell(block: &Block) {
    let count = block.transactions.len();
    if count > 0 {
        print_line(&format!(
            "block {} {}  {count} transactions in {} mini-blocks, {} gas",
            block.header.number, block.hash, block.mini_block_count, block.header.gas_used
        ));
    }
}

/// A reader that went away is no failure of the node.
fn print_line(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        tracing::debug!(%error, "nobody reads standard output");
    }
}
