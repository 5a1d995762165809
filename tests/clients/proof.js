// An own verifier for EIP-1186 proofs: RLP nodes from the root down, each under its parent's hash.
import { decodeRlp, encodeRlp, getBytes, hexlify, keccak256, toBeHex, zeroPadValue } from 'ethers'

/** Nibbles of a byte string. */
function nibbles(bytes) {
  return Array.from(getBytes(bytes)).flatMap((byte) => [byte >> 4, byte & 15])
}

/** Value at `key` (already hashed) under `root`; null where the proof shows that there is none. */
export function proven(root, key, nodes) {
  const path = nibbles(key)
  let want = root
  let at = 0
  const left = [...nodes]
  for (;;) {
    let node
    if (Array.isArray(want)) {
      node = want // A node under 32 bytes stands in its parent.
    } else {
      const raw = left.shift()
      if (raw === undefined) throw new Error(`proof ends before ${want}`)
      if (keccak256(raw) !== want) throw new Error(`proof node ${keccak256(raw)} is not ${want}`)
      node = decodeRlp(raw)
    }
    if (!Array.isArray(node)) {
      if (node === '0x' && left.length === 0) return null // The empty trie.
      throw new Error('proof node is no list')
    }
    if (node.length === 17) {
      const child = at === path.length ? node[16] : node[path[at++]]
      if (child === '0x') return end(null, left)
      if (at > path.length) throw new Error('path too long')
      want = child
      continue
    }
    const encoded = nibbles(node[0])
    const leaf = encoded[0] >= 2
    const part = encoded.slice(encoded[0] & 1 ? 1 : 2)
    if (part.some((nibble, index) => nibble !== path[at + index])) return end(null, left)
    at += part.length
    if (!leaf) {
      want = node[1]
      continue
    }
    return end(at === path.length ? node[1] : null, left)
  }
}

function end(value, left) {
  if (left.length) throw new Error(`${left.length} proof nodes too many`)
  return value
}

/** Checks an eth_getProof answer against a state root: account fields and every slot. */
export function verify(stateRoot, proof) {
  const leaf = proven(stateRoot, keccak256(proof.address), proof.accountProof)
  const claimed = encodeRlp(
    [quantity(proof.nonce), quantity(proof.balance), proof.storageHash, proof.codeHash])
  if (leaf === null) {
    if (BigInt(proof.nonce) || BigInt(proof.balance)) throw new Error('absent, yet not empty')
  } else if (leaf !== claimed) {
    throw new Error(`account leaf ${leaf} is not ${claimed}`)
  }
  for (const slot of proof.storageProof) {
    const key = keccak256(zeroPadValue(toBeHex(BigInt(slot.key)), 32))
    const emptyTrie = slot.proof.length === 0 && proof.storageHash === EMPTY_ROOT
    const value = emptyTrie ? null : proven(proof.storageHash, key, slot.proof)
    const expected = BigInt(slot.value) === 0n ? null : encodeRlp(quantity(slot.value))
    if (value !== expected) throw new Error(`slot ${slot.key}: ${value} is not ${expected}`)
  }
  return leaf !== null
}

/** Root of the trie without entries. */
export const EMPTY_ROOT = keccak256('0x80')

function quantity(value) {
  return BigInt(value) === 0n ? '0x' : hexlify(toBeHex(BigInt(value)))
}
