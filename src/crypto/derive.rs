//! Accounts from a mnemonic: BIP-39 seed, BIP-32 children of m/44'/60'/0'/0, as wallets do.

use crate::crypto::sign::Signer;
use alloy_primitives::Address;
use bip39::{Language, Mnemonic};
use hmac::{Hmac, Mac as _};
use secp256k1::{PublicKey, SECP256K1, Scalar, SecretKey};
use sha2::Sha512;

/// The mnemonic that every development chain knows.
pub const DEV_MNEMONIC: &str = "test test test test test test test test test test test junk";

const HARDENED: u32 = 1 << 31;
/// Ethereum's account level: m/44'/60'/0'/0.
const PATH: [u32; 4] = [44 | HARDENED, 60 | HARDENED, HARDENED, 0];

/// Why a mnemonic gives no accounts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// Not 12, 15, 18, 21 or 24 words.
    #[error("mnemonic has {0} words; it must have 12, 15, 18, 21 or 24")]
    WordCount(usize),
    /// A word that the English list does not have.
    #[error("mnemonic: word {position} \"{word}\" is not in the English word list of BIP-39")]
    Word {
        /// Which word, from 1.
        position: usize,
        /// The word.
        word: String,
    },
    /// The last word does not fit the others.
    #[error("mnemonic: checksum is wrong; last word \"{0}\" does not fit the words before it")]
    Checksum(String),
    /// The words give an intermediate key that is not on the curve; chance 2^-127.
    #[error("mnemonic gives no valid key at level {0} of m/44'/60'/0'/0; use another mnemonic")]
    Key(usize),
}

/// The parent of all accounts of a mnemonic.
#[derive(Clone)]
pub struct Accounts {
    secret: SecretKey,
    /// HMAC keyed with the chain code; a clone saves two compressions a child.
    mac: Hmac<Sha512>,
    /// Compressed public key, the prefix of what is hashed for a child.
    prefix: [u8; 33],
}

impl Accounts {
    /// Reads an English mnemonic, without a passphrase.
    ///
    /// # Errors
    /// Where a word, the number of words or the checksum is wrong.
    pub fn from_mnemonic(words: &str) -> Result<Self, DeriveError> {
        let mnemonic = Mnemonic::parse_in(Language::English, words);
        let seed = mnemonic.map_err(|error| explain(words, &error))?.to_seed("");
        let (mut secret, mut chain_code) =
            split(&mac(b"Bitcoin seed").chain_update(seed)).ok_or(DeriveError::Key(0))?;
        for (level, index) in PATH.into_iter().enumerate() {
            let parent = PublicKey::from_secret_key(SECP256K1, &secret).serialize();
            let keyed = if index >= HARDENED {
                mac(&chain_code).chain_update([0]).chain_update(secret.secret_bytes())
            } else {
                mac(&chain_code).chain_update(parent)
            };
            let (tweak, next) = split(&keyed.chain_update(index.to_be_bytes()))
                .ok_or(DeriveError::Key(level + 1))?;
            secret =
                secret.add_tweak(&Scalar::from(tweak)).map_err(|_| DeriveError::Key(level + 1))?;
            chain_code = next;
        }
        let public = PublicKey::from_secret_key(SECP256K1, &secret);
        Ok(Self { secret, mac: mac(&chain_code), prefix: public.serialize() })
    }

    /// Address of account `index`: 20 µs. By its key, since multiplying the generator by a known
    /// scalar is twice as fast in libsecp256k1 as adding to a public key.
    ///
    /// # Errors
    /// `Key` where the child does not exist (chance 2^-127).
    pub fn address(&self, index: u32) -> Result<Address, DeriveError> {
        self.signer(index).map(|signer| signer.address())
    }

    /// Addresses of the first `count` accounts.
    ///
    /// # Errors
    /// As [`Self::address`].
    pub fn addresses(&self, count: u32) -> Result<Vec<Address>, DeriveError> {
        (0..count).map(|index| self.address(index)).collect()
    }

    /// Key of account `index`.
    ///
    /// # Errors
    /// As [`Self::address`].
    pub fn signer(&self, index: u32) -> Result<Signer, DeriveError> {
        let tweak = Scalar::from(self.tweak(index)?);
        let child = self.secret.add_tweak(&tweak);
        child.map(Signer::of).map_err(|_| DeriveError::Key(PATH.len() + 1))
    }

    fn tweak(&self, index: u32) -> Result<SecretKey, DeriveError> {
        let hashed = self.mac.clone().chain_update(self.prefix).chain_update(index.to_be_bytes());
        split(&hashed).map(|(tweak, _)| tweak).ok_or(DeriveError::Key(PATH.len() + 1))
    }
}

fn mac(key: &[u8]) -> Hmac<Sha512> {
    // The `Result` is for other algorithms: HMAC takes a key of any length.
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes any key"))
}

/// Left half as a key, right half as a chain code; `None` where the left half is no key.
fn split(hashed: &Hmac<Sha512>) -> Option<(SecretKey, [u8; 32])> {
    let bytes: [u8; 64] = hashed.clone().finalize().into_bytes().into();
    let (left, right) = bytes.split_at(32);
    let secret = SecretKey::from_byte_array(left.try_into().ok()?).ok()?;
    Some((secret, right.try_into().ok()?))
}

fn explain(words: &str, error: &bip39::Error) -> DeriveError {
    let word = |at: usize| words.split_whitespace().nth(at).unwrap_or_default().to_owned();
    let count = words.split_whitespace().count();
    match error {
        bip39::Error::UnknownWord(at) => DeriveError::Word { position: at + 1, word: word(*at) },
        bip39::Error::InvalidChecksum => DeriveError::Checksum(word(count.saturating_sub(1))),
        _ => DeriveError::WordCount(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::recover::address_of;
    use alloy_primitives::{address, b256};

    #[test]
    fn the_well_known_accounts_come_out() {
        let accounts = Accounts::from_mnemonic(DEV_MNEMONIC).unwrap();
        let known = [
            address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"),
            address!("70997970C51812dc3A010C7d01b50e0d17dc79C8"),
            address!("3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"),
        ];
        assert_eq!(accounts.addresses(3).unwrap(), known);
        let first = accounts.signer(0).unwrap();
        let secret = b256!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
        assert_eq!(first.secret(), secret);
    }

    /// What a wallet that only has the parent's public key would show.
    #[test]
    fn public_derivation_agrees() {
        let accounts = Accounts::from_mnemonic(DEV_MNEMONIC).unwrap();
        let parent = PublicKey::from_secret_key(SECP256K1, &accounts.secret);
        for index in [0, 1, 77, 99_999] {
            let tweak = Scalar::from(accounts.tweak(index).unwrap());
            let child = parent.add_exp_tweak(SECP256K1, &tweak).unwrap();
            assert_eq!(accounts.address(index).unwrap(), address_of(&child));
        }
    }

    #[test]
    fn a_wrong_mnemonic_is_explained() {
        let wrong = DEV_MNEMONIC.replace("junk", "junkk");
        let error = Accounts::from_mnemonic(&wrong).err().unwrap();
        assert_eq!(error, DeriveError::Word { position: 12, word: "junkk".into() });
        let wrong = DEV_MNEMONIC.replace("junk", "test");
        let error = Accounts::from_mnemonic(&wrong).err().unwrap();
        assert_eq!(error, DeriveError::Checksum("test".into()));
        let error = Accounts::from_mnemonic("test junk").err().unwrap();
        assert_eq!(error, DeriveError::WordCount(2));
    }
}
