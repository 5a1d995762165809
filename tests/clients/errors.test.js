// Every refusal, over plain JSON-RPC: the code, and the words that clients look for.
import { test, before } from 'node:test'
import assert from 'node:assert/strict'
import {
  AbiCoder, Interface, Transaction, Wallet, concat, decodeRlp, encodeRlp, keccak256, parseEther,
  toBeHex, toQuantity,
} from 'ethers'
import {
  BASALT_ONLY, ON_ANVIL, UNSEALED, key, post, refused, reverts, rpc, sealed, until,
} from './common.js'

const wallet = new Wallet(key(4))
const other = new Wallet(key(5)).address
let chainId, nonce, fee

before(async () => {
  chainId = Number(await rpc('eth_chainId'))
  nonce = Number(await rpc('eth_getTransactionCount', wallet.address, 'pending'))
  fee = BigInt(await rpc('eth_gasPrice')) * 2n + 2_000_000_000n
})

function sign(fields, by = wallet) {
  return by.signTransaction({
    type: 2, chainId, nonce, to: other, value: 1n, gasLimit: 21_000n, maxFeePerGas: fee,
    maxPriorityFeePerGas: 1n, ...fields,
  })
}

/** A type 2 transaction with `fields` of its RLP list put in place, right or wrong. */
async function signOdd(odd) {
  const list = decodeRlp(`0x${(await sign({})).slice(4)}`).slice(0, 9)
  const fields = Object.assign(list, odd)
  const { r, s, yParity } = wallet.signingKey.sign(keccak256(concat(['0x02', encodeRlp(fields)])))
  return concat(['0x02', encodeRlp([...fields, yParity ? '0x01' : '0x', r, s])])
}

async function refusedSend(fields, words, by) {
  return refusedRaw(await sign(fields, by), words)
}

async function refusedRaw(raw, words) {
  for (const method of ['eth_sendRawTransaction', 'eth_sendRawTransactionSync']) {
    const error = await refused(method, raw)
    assert.match(error.message, words)
    assert.ok(error.code <= -32000 && error.code >= -32768, `code ${error.code}`)
  }
}

test('nonce too low', async () => {
  await sealed(await rpc('eth_sendRawTransaction', await sign({})))
  await refusedSend({ value: 2n }, /nonce too low/i)
  nonce += 1
})

test('nonce out of the window', { skip: BASALT_ONLY }, async () => {
  await refusedSend({ nonce: nonce + 1_000_000 }, /nonce/i)
})

test('insufficient funds', async () => {
  await refusedSend({ value: parseEther('1000000000') }, /insufficient funds/i)
  await refusedSend({ nonce: 0 }, /insufficient funds/i, Wallet.createRandom())
})

test('intrinsic gas too low', async () => {
  await refusedSend({ gasLimit: 20_999n }, /intrinsic gas too low/i)
  if (ON_ANVIL) return
  await refusedSend({ data: '0x00', gasLimit: 21_001n }, /intrinsic gas|floor/i)
  await refusedSend({ data: '0x00', gasLimit: 21_005n }, /intrinsic gas|floor/i)
})

test('underpriced', { skip: BASALT_ONLY }, async () => {
  await refusedSend({ maxFeePerGas: 1n, maxPriorityFeePerGas: 0n },
    /underpriced|less than block base fee|fee cap|floor/i)
})

test('tip above fee cap', { skip: BASALT_ONLY }, async () => {
  const words = /max ?priority ?fee ?per ?gas (is )?higher than/i
  await refusedRaw(await signOdd({ 2: toBeHex(fee + 1n) }), words)
})

test('gas limit above the cap of a transaction', { skip: BASALT_ONLY }, async () => {
  await refusedSend({ gasLimit: 30_000_000n }, /gas limit|gas too high|exceeds/i)
})

test('init code too large', async () => {
  const data = `0x${'00'.repeat(49_153)}`
  await refusedSend({ to: null, data, gasLimit: 16_000_000n }, /init ?code/i)
})

test('transaction too large', { skip: BASALT_ONLY }, async () => {
  const data = `0x${'00'.repeat(129 * 1024)}`
  await refusedSend({ data, gasLimit: 16_000_000n }, /oversized|too large|exceeds/i)
})

test('wrong chain id', async () => {
  await refusedSend({ chainId: chainId + 1 }, /chain ?id/i)
})

test('blob transactions are refused with a reason', { skip: BASALT_ONLY }, async () => {
  const blob = Transaction.from({
    type: 3, chainId, nonce, to: other, gasLimit: 21_000n, maxFeePerGas: fee,
    maxPriorityFeePerGas: 1n, maxFeePerBlobGas: 1n,
    blobVersionedHashes: [`0x01${'00'.repeat(31)}`],
  })
  blob.signature = wallet.signingKey.sign(blob.unsignedHash)
  const error = await refused('eth_sendRawTransaction', blob.serialized)
  assert.match(error.message, /blob|4844|type not supported/i)
})

test('garbage instead of a transaction', async () => {
  const good = await sign({})
  const broken = ['0x', '0x00', '0xdeadbeef', '0x7f01', '0x02c0', good.slice(0, -2),
    `0x05${good.slice(4)}`]
  if (!ON_ANVIL) broken.push(`${good}00`)
  for (const raw of broken) {
    const error = await refused('eth_sendRawTransaction', raw)
    assert.ok([-32000, -32602, -32003].includes(error.code), `${raw.slice(0, 12)}: ${error.code}`)
  }
  for (const raw of ['0xzz', 'hello', 5, null, {}]) {
    assert.equal((await refused('eth_sendRawTransaction', raw)).code, -32602, String(raw))
  }
})

test('a signature with a high s, and one that recovers nobody', { skip: BASALT_ONLY }, async () => {
  const signed = Transaction.from(await sign({}))
  const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n
  const body = signed.unsignedSerialized
  const fields = decodeRlp(`0x${body.slice(4)}`)
  const { r, s, yParity } = signed.signature
  const flipped = [yParity ? '0x' : '0x01', r, toBeHex(order - BigInt(s))]
  const nobody = ['0x', toBeHex(order - 1n), toBeHex(1n)]
  for (const signature of [flipped, nobody]) {
    const raw = `0x02${encodeRlp([...fields, ...signature]).slice(2)}`
    await assert.rejects(rpc('eth_sendRawTransaction', raw), /signature|sender|invalid/i)
  }
})

test('replacement: same transaction, too little more, enough more', async () => {
  const ahead = { nonce: nonce + 1, maxFeePerGas: fee, maxPriorityFeePerGas: 1_000_000_000n }
  const first = await rpc('eth_sendRawTransaction', await sign(ahead))
  assert.match((await refused('eth_sendRawTransaction', await sign(ahead))).message,
    /already (known|imported)/i)
  const cheap = await sign({ ...ahead, value: 2n })
  assert.match((await refused('eth_sendRawTransaction', cheap)).message,
    /replacement transaction underpriced/i)
  const better = { ...ahead, maxFeePerGas: fee * 2n, maxPriorityFeePerGas: 2_000_000_000n }
  const second = await rpc('eth_sendRawTransaction', await sign({ ...better, value: 3n }))
  const known = await rpc('eth_getTransactionByHash', second)
  assert.equal(known.blockHash, null, 'waits behind the gap')
  await sealed(await rpc('eth_sendRawTransaction', await sign({})))
  await sealed(second)
  assert.equal(await rpc('eth_getTransactionReceipt', first), null, 'was replaced')
  nonce += 2
})

test('reverts: reason, custom error, panic, nothing, out of gas', async () => {
  const { abi, bytecode } = reverts()
  const face = new Interface(abi)
  const data = bytecode + AbiCoder.defaultAbiCoder().encode(['uint256'], [7]).slice(2)
  const hash = await rpc('eth_sendRawTransaction',
    await sign({ to: null, data, value: 0n, gasLimit: 2_000_000n }))
  nonce += 1
  const to = (await sealed(hash)).contractAddress
  const call = async (name, ...args) => {
    const request = { from: wallet.address, to, data: face.encodeFunctionData(name, args) }
    const errors = [await refused('eth_call', request, 'latest')]
    errors.push(await refused('eth_estimateGas', request))
    return errors
  }
  for (const error of await call('withReason')) {
    assert.equal(error.code, 3)
    assert.match(error.message, /execution reverted: .*no such luck/)
    assert.equal(face.parseError(error.data).args[0], 'no such luck')
  }
  for (const error of await call('withCustomError', 9)) {
    assert.equal(error.code, 3)
    const parsed = face.parseError(error.data)
    assert.equal(parsed.name, 'TooMuch')
    assert.deepEqual([...parsed.args], [9n, 7n])
  }
  for (const error of await call('withPanic', 0)) {
    assert.equal(error.code, 3)
    assert.equal(BigInt(`0x${error.data.slice(10)}`), 0x12n, 'division by zero')
  }
  for (const error of await call('withNothing')) {
    assert.equal(error.code, 3)
    assert.match(error.message, /execution reverted/)
  }
  const endless = { from: wallet.address, to, data: face.encodeFunctionData('forEver'),
    gas: toQuantity(100_000) }
  assert.match((await refused('eth_call', endless, 'latest')).message, /out ?of ?gas/i)

  const sent = await sign({ to, value: 0n, data: face.encodeFunctionData('withReason'),
    gasLimit: 100_000n })
  const receipt = await sealed(await rpc('eth_sendRawTransaction', sent))
  nonce += 1
  assert.equal(receipt.status, '0x0', 'a reverted transaction is included')
  assert.deepEqual(receipt.logs, [])
})

test('unknown method and wrong parameters', async () => {
  assert.equal((await refused('eth_makeCoffee')).code, -32601)
  const wrong = [
    ['eth_getBalance', '0x12'], ['eth_getBalance', 7], ['eth_getBalance'],
    ['eth_getBlockByNumber', 'yesterday', false], ['eth_getBlockByNumber', '0xgg', false],
    ['eth_getTransactionReceipt', '0x1234'], ['eth_getTransactionByHash'],
    ['eth_call', 'x', 'latest'], ['eth_getStorageAt', other], ['eth_getLogs', 5],
  ]
  for (const [method, ...params] of wrong) {
    const error = await refused(method, ...params)
    assert.equal(error.code, -32602, `${method} ${JSON.stringify(params)}: ${error.message}`)
  }
})

test('blocks that are not there', async () => {
  assert.equal(await rpc('eth_getBlockByNumber', '0xfffffff', false), null)
  assert.equal(await rpc('eth_getBlockByHash', `0x${'12'.repeat(32)}`, false), null)
  assert.equal(await rpc('eth_getTransactionByHash', `0x${'12'.repeat(32)}`), null)
  assert.equal(await rpc('eth_getTransactionReceipt', `0x${'12'.repeat(32)}`), null)
  await refused('eth_getBalance', other, '0xfffffff')
})

test('getLogs refuses a range that runs backwards', { skip: BASALT_ONLY }, async () => {
  await refused('eth_getLogs', { fromBlock: '0x2', toBlock: '0x1' })
  const range = { blockHash: `0x${'12'.repeat(32)}`, fromBlock: '0x1' }
  await refused('eth_getLogs', range)
})

test('parse error, invalid request', async () => {
  for (const body of ['{', 'no json', '{"jsonrpc":"2.0","id":1,"method":']) {
    const { json, status } = await post(body)
    if (json && !ON_ANVIL) assert.equal(json.error.code, -32700)
    else if (json) assert.ok(json.error)
    else assert.ok(status >= 400, `status ${status}`)
  }
  for (const body of ['{}', '5', '"x"', '{"jsonrpc":"2.0","id":1}']) {
    const { json, status } = await post(body)
    if (json) assert.ok([-32600, -32700].includes(json.error.code), body)
    else assert.ok(status >= 400, `status ${status}`)
  }
})

test('batches: answers by id, one bad call spoils none, empty and oversized refused', async () => {
  const call = (id, method, params = []) => ({ jsonrpc: '2.0', id, method, params })
  const batch = [call('a', 'eth_chainId'), call(2, 'eth_makeCoffee'), call(3, 'eth_blockNumber')]
  const { json } = await post(JSON.stringify(batch))
  const byId = new Map(json.map((answer) => [answer.id, answer]))
  assert.equal(Number(byId.get('a').result), chainId)
  assert.equal(byId.get(2).error.code, -32601)
  assert.ok(byId.get(3).result)

  const empty = await post('[]')
  if (!ON_ANVIL) assert.equal(empty.json.error.code, -32600)

  const many = Array.from({ length: 100 }, (_, id) => call(id, 'eth_chainId'))
  assert.equal((await post(JSON.stringify(many))).json.length, 100)
  if (ON_ANVIL) return
  const tooMany = Array.from({ length: 20_000 }, (_, id) => call(id, 'eth_chainId'))
  const answer = await post(JSON.stringify(tooMany))
  assert.ok(!Array.isArray(answer.json), 'one error for the whole batch')
  assert.ok(answer.json?.error || answer.status >= 400)
})

test('an oversized request is refused and the node lives', { skip: BASALT_ONLY }, async () => {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'eth_sendRawTransaction',
    params: [`0x${'00'.repeat(20_000_000)}`] })
  const answer = await post(body).catch((error) => ({ status: 413, error }))
  assert.ok(answer.status >= 400 || answer.json?.error)
  assert.equal(Number(await rpc('eth_chainId')), chainId)
})

test('deep and odd JSON leaves the node alive', async () => {
  for (const body of [`${'['.repeat(50_000)}${']'.repeat(50_000)}`, '\u0000', '[1,2,3]',
    '{"jsonrpc":"2.0","id":1,"method":"eth_call","params":[{"data":"0x6","to":"0x"}]}',
    '{"jsonrpc":"1.0","id":{},"method":5,"params":"x"}']) {
    await post(body).catch(() => undefined)
    assert.equal(Number(await rpc('eth_chainId')), chainId)
  }
})

test('synchronous send: receipt at once, hash of the block later', async () => {
  const raw = await sign({})
  nonce += 1
  const receipt = await rpc('eth_sendRawTransactionSync', raw)
  assert.equal(receipt.status, '0x1')
  assert.equal(receipt.transactionHash, Transaction.from(raw).hash)
  if (!ON_ANVIL) assert.equal(receipt.blockHash, UNSEALED)
  const later = await sealed(receipt.transactionHash)
  assert.notEqual(later.blockHash, UNSEALED)
  assert.deepEqual({ ...later, blockHash: 0, logs: 0 }, { ...receipt, blockHash: 0, logs: 0 })
  const block = await rpc('eth_getBlockByHash', later.blockHash, false)
  assert.ok(block.transactions.includes(receipt.transactionHash))
  assert.equal(block.number, receipt.blockNumber)
})

test('synchronous send over a nonce gap', { skip: BASALT_ONLY }, async () => {
  const raw = await sign({ nonce: nonce + 1 })
  const error = await refused('eth_sendRawTransactionSync', raw, 100)
  // EIP-7966: code 6 at once, with the nonce that is expected; the transaction stays in the pool.
  assert.equal(error.code, 6, error.message)
  assert.equal(Number(error.data), nonce)
  const hash = Transaction.from(raw).hash
  await sealed(await rpc('eth_sendRawTransactionSync', await sign({})).then((r) => r.transactionHash))
  await sealed(hash)
  nonce += 2
})

test('synchronous send that times out', { skip: BASALT_ONLY }, async () => {
  // One millisecond is less than a mini-block takes, but now and then one ends just then.
  for (let attempt = 0; ; attempt += 1) {
    assert.ok(attempt < 50, 'never timed out')
    const raw = await sign({})
    const hash = Transaction.from(raw).hash
    const error = await rpc('eth_sendRawTransactionSync', raw, 1).then(() => null, (e) => e)
    await sealed(hash)
    nonce += 1
    if (error === null) continue
    assert.equal(error.code, 4, error.message)
    assert.equal(error.data, hash)
    return
  }
})

test('realtime_sendRawTransaction answers like the synchronous send', { skip: BASALT_ONLY }, async () => {
  const receipt = await rpc('realtime_sendRawTransaction', await sign({}))
  nonce += 1
  assert.equal(receipt.status, '0x1')
  await sealed(receipt.transactionHash)
})

test('block tags', async () => {
  const number = async (tag) => {
    const block = await rpc('eth_getBlockByNumber', tag, false)
    assert.ok(block, tag)
    return block.number === null ? Infinity : Number(block.number)
  }
  const hash = await rpc('eth_sendRawTransaction', await sign({}))
  nonce += 1
  const { blockNumber } = await sealed(hash)
  assert.equal(await number('earliest'), 0)
  if (ON_ANVIL) return
  await until(async () => await number('finalized') >= Number(blockNumber),
    'the finalized block to reach the transaction')
  const [finalized, safe] = [await number('finalized'), await number('safe')]
  assert.ok(finalized <= safe && safe <= await number('latest'))
  assert.ok(await number('latest') <= await number('pending'))
  for (const tag of ['pending', 'latest', 'safe', 'finalized']) {
    assert.equal(Number(await rpc('eth_getTransactionCount', wallet.address, tag)), nonce, tag)
  }
})
