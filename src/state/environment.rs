//! Opens the database: its size, its tables, whose data it is, and that nobody else uses it.

use crate::state::tables::{
    self, ACCOUNT_TRIE, ACCOUNTS, BLOCK_NUMBERS, BLOCKS, BlockRow, CHECKPOINT_KEY, CODE,
    Checkpoint, FORMAT_VERSION, IDENTITY_KEY, META, RowError, STORAGE, STORAGE_TRIE,
};
use crate::types::ids::BlockNumber;
use alloy_consensus::Header;
use alloy_primitives::B256;
use signet_libmdbx::{
    Database, DatabaseFlags, EnvironmentFlags, Geometry, MdbxError, ReadError, TableObject,
    TransactionKind, WriteFlags,
    sys::PageSize,
    tx::{Tx, aliases::RwTxUnsync},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Block hashes that BLOCKHASH can ask for (EIP-2935's window starts there too).
pub const RECENT_HASHES: u64 = 256;
const PAGE_BYTES: usize = 4096;
/// Changed pages that a checkpoint keeps in memory, 64 MiB of them, before it writes some early. By
/// itself mdbx takes up to a 42nd of the machine's memory.
const DIRTY_PAGES_MAX: u64 = 16_384;
/// Linux' EAGAIN and EBUSY, which mdbx's file lock gives where another process holds it.
const LOCKED_ERRNO: [i32; 2] = [libc::EAGAIN, libc::EBUSY];

/// Sizes of the database.
#[derive(Debug, Clone, Copy)]
pub struct EnvironmentConfig {
    /// Bytes of address space, and so of data, at most; nothing is reserved on disk.
    pub size_bytes_max: usize,
    /// The file grows by this much. mdbx likes 256 MiB or more under load; 64 MiB keeps the
    /// folder of a development chain small and still costs one remap in many checkpoints.
    pub growth_bytes: usize,
    /// Read transactions at most, over all snapshots in use.
    pub readers_max: u64,
}

impl Default for EnvironmentConfig {
    fn default() -> Self {
        Self { size_bytes_max: 4 << 40, growth_bytes: 64 << 20, readers_max: 4096 }
    }
}

/// Whose data a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// What tells one genesis from another: keccak of the chain's specification as it was read.
    pub genesis: B256,
}

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another process: stop it, or choose another data folder",
        .0.display())]
    InUse(PathBuf),
    /// Written by another version.
    #[error("{} has format {found}, this program reads {FORMAT_VERSION}: use the program \
        that wrote it, or start with an empty folder", .path.display())]
    Format {
        /// The folder.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Another chain's.
    #[error("{} belongs to chain {} with genesis {}, the configuration says chain {} with \
        genesis {}: start it with the chain id, genesis and accounts that it was made with, or \
        choose another data folder", .path.display(), .found.chain_id, .found.genesis,
        .expected.chain_id, .expected.genesis)]
    OtherChain {
        /// The folder.
        path: PathBuf,
        /// Whose data it holds.
        found: Identity,
        /// Whose data was expected.
        expected: Identity,
    },
    /// The folder cannot be made.
    #[error("{} cannot be created: {error}; check free space and permissions", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// mdbx refuses.
    #[error("{} cannot be opened: {}; check the disk, its free space and permissions, or restore \
        the folder from a copy", .path.display(), spoken(.error))]
    Database {
        /// The folder.
        path: PathBuf,
        /// What mdbx says.
        error: MdbxError,
    },
    /// A row cannot be read.
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// The database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// mdbx says so.
    #[error("database: {}", spoken(.0))]
    Database(#[from] MdbxError),
    /// A row has not its table's layout.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A value could not be decoded.
    #[error("database: {0}")]
    Decode(String),
}

/// An error of the system in the system's words: mdbx gives its number only.
fn spoken(error: &MdbxError) -> String {
    match error {
        MdbxError::Other(errno) => io::Error::from_raw_os_error(*errno).to_string(),
        error => error.to_string(),
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Mdbx(error) => Self::Database(error),
            ReadError::Decoding(error) => Self::Decode(error.to_string()),
        }
    }
}

/// Handles of all tables.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) struct Tables {
    pub(in crate::state) accounts: Database,
    pub(in crate::state) storage: Database,
    pub(in crate::state) code: Database,
    pub(in crate::state) account_trie: Database,
    pub(in crate::state) storage_trie: Database,
    pub(in crate::state) blocks: Database,
    pub(in crate::state) block_numbers: Database,
    pub(in crate::state) meta: Database,
}

impl Tables {
    fn create(txn: &RwTxUnsync) -> Result<Self, MdbxError> {
        let plain = |name| txn.create_db(Some(name), DatabaseFlags::empty());
        Ok(Self {
            accounts: plain(ACCOUNTS)?,
            storage: txn.create_db(Some(STORAGE), DatabaseFlags::DUP_SORT)?,
            code: plain(CODE)?,
            account_trie: plain(ACCOUNT_TRIE)?,
            storage_trie: plain(STORAGE_TRIE)?,
            blocks: plain(BLOCKS)?,
            block_numbers: plain(BLOCK_NUMBERS)?,
            meta: plain(META)?,
        })
    }

    /// Tables that genesis fills.
    pub(in crate::state) const fn of_state(&self) -> [Database; 7] {
        [
            self.accounts,
            self.storage,
            self.code,
            self.account_trie,
            self.storage_trie,
            self.blocks,
            self.block_numbers,
        ]
    }
}

/// The open database. Clones share it; it closes with the last clone and the last snapshot.
#[derive(Debug, Clone)]
pub struct Environment {
    pub(in crate::state) mdbx: signet_libmdbx::Environment,
    pub(in crate::state) tables: Tables,
}

/// Where a restart begins.
#[derive(Debug, Clone)]
pub struct Opened {
    /// How far the database has come.
    pub checkpoint: Checkpoint,
    /// Header of the checkpoint's block.
    pub header: Header,
    /// Where that block lies in the archive: the archive is cut off behind it.
    pub position: tables::Position,
    /// Hashes of the last [`RECENT_HASHES`] blocks, oldest first.
    pub recent_hashes: Vec<(BlockNumber, B256)>,
}

impl Environment {
    /// Opens or creates the database in the folder `path`, for this process alone.
    ///
    /// # Errors
    /// Where another process uses it, or it holds another format or another chain's data.
    pub fn open(
        path: &Path,
        config: &EnvironmentConfig,
        identity: Identity,
    ) -> Result<Self, OpenError> {
        fs::create_dir_all(path)
            .map_err(|error| OpenError::Folder { path: path.to_owned(), error })?;
        let failed = |error: MdbxError| match error {
            MdbxError::Busy => OpenError::InUse(path.to_owned()),
            MdbxError::Other(errno) if LOCKED_ERRNO.contains(&errno) => {
                OpenError::InUse(path.to_owned())
            }
            error => OpenError::Database { path: path.to_owned(), error },
        };
        let mdbx = builder(config).open(path).map_err(failed)?;
        let txn = mdbx.begin_rw_unsync().map_err(failed)?;
        let tables = Tables::create(&txn).map_err(failed)?;
        match txn.get::<Vec<u8>>(tables.meta.dbi(), IDENTITY_KEY).map_err(StoreError::from)? {
            Some(row) => check_identity(path, &row, identity)?,
            None => txn
                .put(tables.meta, IDENTITY_KEY, encode_identity(identity), WriteFlags::UPSERT)
                .map_err(failed)?,
        }
        txn.commit().map_err(failed)?;
        Ok(Self { mdbx, tables })
    }

    /// Where to begin, or `None` where genesis was never completed.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn opened(&self) -> Result<Option<Opened>, StoreError> {
        let txn = self.mdbx.begin_ro_unsync()?;
        let Some(checkpoint) = read_checkpoint(&txn, &self.tables)? else { return Ok(None) };
        let row = read_block_row(&txn, &self.tables, checkpoint.block)?
            .ok_or(RowError { table: BLOCKS, bytes: 0 })?;
        let mut recent_hashes = Vec::new();
        let oldest = (checkpoint.block + 1).saturating_sub(RECENT_HASHES);
        for number in oldest..=checkpoint.block {
            if let Some(row) = read_block_row(&txn, &self.tables, number)? {
                recent_hashes.push((number, row.hash));
            }
        }
        let (header, position) = (row.header, row.position);
        Ok(Some(Opened { checkpoint, header, position, recent_hashes }))
    }

    /// Bytes of the database's file that hold data or free pages.
    ///
    /// # Errors
    /// Where mdbx gives no answer.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let pages = u64::try_from(self.mdbx.info()?.last_pgno()).unwrap_or(u64::MAX);
        Ok((pages + 1).saturating_mul(u64::try_from(PAGE_BYTES).unwrap_or(4096)))
    }
}

fn builder(config: &EnvironmentConfig) -> signet_libmdbx::EnvironmentBuilder {
    let mut builder = signet_libmdbx::Environment::builder();
    builder
        .set_max_dbs(16)
        .set_max_readers(config.readers_max)
        .set_txn_dp_limit(DIRTY_PAGES_MAX)
        .set_geometry(Geometry {
            size: Some(0..config.size_bytes_max),
            growth_step: isize::try_from(config.growth_bytes).ok(),
            shrink_threshold: None,
            page_size: Some(PageSize::Set(PAGE_BYTES)),
        })
        .set_flags(EnvironmentFlags {
            // One process owns the data: a second one would publish states of its own.
            exclusive: true,
            // Keys are hashes, so what lies beside a page is no hint of what comes next.
            no_rdahead: true,
            ..EnvironmentFlags::default()
        });
    builder
}

fn encode_identity(identity: Identity) -> Vec<u8> {
    let mut row = FORMAT_VERSION.to_be_bytes().to_vec();
    row.extend_from_slice(&identity.chain_id.to_be_bytes());
    row.extend_from_slice(identity.genesis.as_slice());
    row
}

fn check_identity(path: &Path, row: &[u8], expected: Identity) -> Result<(), OpenError> {
    let damaged = || StoreError::Row(RowError { table: META, bytes: row.len() });
    let mut rest = row;
    let version = u32::from_be_bytes(tables::take(&mut rest).ok_or_else(damaged)?);
    if version != FORMAT_VERSION {
        return Err(OpenError::Format { path: path.to_owned(), found: version });
    }
    let found = Identity {
        chain_id: u64::from_be_bytes(tables::take(&mut rest).ok_or_else(damaged)?),
        genesis: B256::from(tables::take::<32>(&mut rest).ok_or_else(damaged)?),
    };
    if found != expected {
        return Err(OpenError::OtherChain { path: path.to_owned(), found, expected });
    }
    Ok(())
}

/// The checkpoint that a transaction sees.
pub(in crate::state) fn read_checkpoint<K: TransactionKind>(
    txn: &Tx<K>,
    tables: &Tables,
) -> Result<Option<Checkpoint>, StoreError> {
    let row: Option<Vec<u8>> = get(txn, tables.meta, CHECKPOINT_KEY)?;
    Ok(row.map(|row| Checkpoint::decode(&row)).transpose()?)
}

/// A block's row, `None` where the checkpoint has no such block.
pub(in crate::state) fn read_block_row<K: TransactionKind>(
    txn: &Tx<K>,
    tables: &Tables,
    number: BlockNumber,
) -> Result<Option<BlockRow>, StoreError> {
    let row: Option<Vec<u8>> = get(txn, tables.blocks, &number.to_be_bytes())?;
    Ok(row.map(|row| BlockRow::decode(&row)).transpose()?)
}

/// The value at a key.
pub(in crate::state) fn get<'t, K: TransactionKind, V: TableObject<'t>>(
    txn: &'t Tx<K>,
    table: Database,
    key: &[u8],
) -> Result<Option<V>, StoreError> {
    Ok(txn.get(table.dbi(), key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { chain_id: 31_337, genesis: B256::repeat_byte(1) };

    #[test]
    fn a_folder_of_another_chain_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = EnvironmentConfig::default();
        drop(Environment::open(folder.path(), &config, IDENTITY).unwrap());
        let again = Environment::open(folder.path(), &config, IDENTITY).unwrap();
        assert!(again.opened().unwrap().is_none());
        assert!(again.used_bytes().unwrap() > 0);
        drop(again);
        let other = Identity { chain_id: 1, ..IDENTITY };
        let refused = Environment::open(folder.path(), &config, other).unwrap_err();
        assert!(matches!(refused, OpenError::OtherChain { .. }), "{refused}");
        assert!(refused.to_string().contains("chain 31337"), "{refused}");
    }

    #[test]
    fn a_second_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = EnvironmentConfig::default();
        let first = Environment::open(folder.path(), &config, IDENTITY).unwrap();
        let refused = Environment::open(folder.path(), &config, IDENTITY).unwrap_err();
        assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
        drop(first);
    }
}
