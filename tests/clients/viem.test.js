// viem as a dapp uses it: every transaction type, ERC-20, logs, subscriptions, proofs, fees.
import { test, before, after } from 'node:test'
import assert from 'node:assert/strict'
import {
  BaseError, ContractFunctionRevertedError, createPublicClient, createWalletClient, defineChain,
  encodeFunctionData, getContractAddress, http, keccak256, parseEther, parseEventLogs, toHex, webSocket, zeroAddress,
} from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { encodeRlp } from 'ethers'
import { BASALT_ONLY, ON_ANVIL, RPC, UNSEALED, WS, artifacts, key, reverts, rpc, sealed, until }
  from './common.js'
import { EMPTY_ROOT, verify } from './proof.js'

const SINK = `0x${'5'.repeat(40)}` // Nobody's address, and not the fee recipient.
const account = privateKeyToAccount(key(0))
const friend = privateKeyToAccount(key(1))
let chain, reader, wallet, live

before(async () => {
  chain = defineChain({
    id: Number(await rpc('eth_chainId')), name: 'Basalt',
    nativeCurrency: { name: 'MEGA', symbol: 'MEGA', decimals: 18 },
    rpcUrls: { default: { http: [RPC], webSocket: [WS] } },
  })
  reader = createPublicClient({ chain, transport: http(), pollingInterval: 20 })
  wallet = createWalletClient({ account, chain, transport: http() })
  live = createPublicClient({ chain, transport: webSocket(WS, { reconnect: false }) })
})

after(async () => (await live.transport.getRpcClient()).close())

/** Waits as a dapp does, then until `latest` shows it. */
async function mined(hash) {
  const receipt = await reader.waitForTransactionReceipt({ hash })
  assert.equal(receipt.status, 'success')
  await sealed(hash)
  return reader.getTransactionReceipt({ hash })
}

async function deploy(artifact, args) {
  const hash = await wallet.deployContract({ ...artifact, args })
  return (await mined(hash)).contractAddress
}

test('chain id, versions, syncing', async () => {
  assert.equal(await reader.getChainId(), chain.id)
  assert.equal(await rpc('net_version'), String(chain.id))
  assert.match(await rpc('web3_clientVersion'), ON_ANVIL ? /anvil/ : /basalt/i)
  assert.equal(await rpc('eth_syncing'), false)
  assert.ok(Array.isArray(await rpc('eth_accounts')))
})

test('sends legacy, access list and fee market transactions', async () => {
  const accessList = [{ address: friend.address, storageKeys: [toHex(1, { size: 32 })] }]
  const gasPrice = await reader.getGasPrice()
  for (const [type, extra] of [
    ['legacy', { gasPrice }], ['eip2930', { gasPrice, accessList }], ['eip1559', {}],
    ['eip1559', { accessList, maxPriorityFeePerGas: 5n }],
  ]) {
    const before = await reader.getBalance({ address: SINK })
    const hash = await wallet.sendTransaction({ type, to: SINK, value: 3n, ...extra })
    const receipt = await mined(hash)
    assert.equal(receipt.type, type)
    assert.equal(receipt.gasUsed, 21_000n + (extra.accessList ? 4_300n : 0n))
    assert.equal(await reader.getBalance({ address: SINK }), before + 3n)
    const transaction = await reader.getTransaction({ hash })
    assert.equal(transaction.type, type)
    assert.equal(transaction.from, account.address.toLowerCase())
    assert.equal(transaction.blockHash, receipt.blockHash)
    const block = await reader.getBlock({ blockHash: receipt.blockHash, includeTransactions: true })
    assert.equal(block.transactions[receipt.transactionIndex].hash, hash)
    const tip = receipt.effectiveGasPrice - block.baseFeePerGas
    assert.ok(tip >= 0n, 'pays the base fee')
  }
})

test('delegates by EIP-7702, calls through it, and takes it back', async () => {
  const code = await deploy(reverts(), [4n])
  const authorization = await wallet.signAuthorization({ contractAddress: code, executor: 'self' })
  const set = { abi: reverts().abi, functionName: 'set', args: [1n, 9n] }
  const hash = await wallet.sendTransaction({
    authorizationList: [authorization], to: account.address, data: encodeFunctionData(set),
    gas: 200_000n,
  })
  const receipt = await mined(hash)
  assert.equal(receipt.type, 'eip7702')
  assert.equal(receipt.logs.length, 1)
  assert.equal(await reader.getCode({ address: account.address }), `0xef0100${code.slice(2)}`)
  assert.equal((await reader.getTransaction({ hash })).authorizationList.length, 1)
  const value = await reader.readContract({ address: account.address, abi: reverts().abi,
    functionName: 'values', args: [1n] })
  assert.equal(value, 9n)

  const back = await wallet.signAuthorization({ contractAddress: zeroAddress, executor: 'self' })
  await mined(await wallet.sendTransaction({ authorizationList: [back], to: account.address,
    gas: 100_000n }))
  assert.equal(await reader.getCode({ address: account.address }), undefined)
})

test('synchronous send', async () => {
  const request = await wallet.prepareTransactionRequest({ to: friend.address, value: 1n })
  const serializedTransaction = await wallet.signTransaction(request)
  const start = performance.now()
  const receipt = await wallet.sendRawTransactionSync({ serializedTransaction })
  console.log(`# receipt after ${(performance.now() - start).toFixed(1)} ms`)
  assert.equal(receipt.status, 'success')
  if (!ON_ANVIL) assert.equal(receipt.blockHash, UNSEALED)
  await sealed(receipt.transactionHash)
})

test('ERC-20: deploy, transfer, allowance, logs by topic, receipts of the block', async () => {
  const erc20 = artifacts.erc20
  const supply = parseEther('1000')
  const address = await deploy(erc20, ['Basalt Dollar', 'BUSD', supply, account.address])
  const read = (functionName, args = []) =>
    reader.readContract({ address, abi: erc20.abi, functionName, args })
  assert.equal(await read('name'), 'Basalt Dollar')
  assert.equal(await read('balanceOf', [account.address]), supply)

  const transfer = { address, abi: erc20.abi, functionName: 'transfer' }
  const { request } = await reader.simulateContract(
    { ...transfer, args: [friend.address, 5n], account, blockTag: 'latest' })
  const first = await mined(await wallet.writeContract(request))
  const second = await mined(await wallet.writeContract({ ...transfer, args: [SINK, 6n] }))
  assert.equal(await read('balanceOf', [friend.address]), 5n)
  const [event] = parseEventLogs({ abi: erc20.abi, logs: first.logs, eventName: 'Transfer' })
  assert.equal(event.args.value, 5n)

  const range = { address, abi: erc20.abi, eventName: 'Transfer', fromBlock: 0n, strict: true }
  const all = await reader.getContractEvents(range)
  assert.deepEqual(all.map((log) => log.args.value), [supply, 5n, 6n])
  const some = await reader.getContractEvents({ ...range, args: { to: friend.address } })
  assert.deepEqual(some.map((log) => log.transactionHash), [first.transactionHash])
  const either = await reader.getContractEvents(
    { ...range, args: { to: [friend.address, account.address] } })
  assert.equal(either.length, 2)
  const none = await reader.getContractEvents({ ...range, args: { from: friend.address } })
  assert.equal(none.length, 0)
  const inBlock = await reader.getLogs({ address, blockHash: second.blockHash })
  assert.ok(inBlock.some((log) => log.transactionHash === second.transactionHash))

  const receipts = await rpc('eth_getBlockReceipts', toHex(second.blockNumber))
  const ours = receipts.find((receipt) => receipt.transactionHash === second.transactionHash)
  assert.equal(BigInt(ours.cumulativeGasUsed), second.cumulativeGasUsed)
  assert.deepEqual(receipts.map((receipt) => Number(receipt.transactionIndex)),
    receipts.map((_, index) => index))
})

test('decodes custom errors and reasons of contracts', async () => {
  const address = await deploy(reverts(), [7n])
  const attempt = (functionName, args = []) => reader.readContract(
    { address, abi: reverts().abi, functionName, args }).then(() => assert.fail(), (error) => {
    assert.ok(error instanceof BaseError)
    return error.walk((cause) => cause instanceof ContractFunctionRevertedError)
  })
  const custom = await attempt('withCustomError', [9n])
  assert.equal(custom.data.errorName, 'TooMuch')
  assert.deepEqual(custom.data.args, [9n, 7n])
  assert.equal((await attempt('withReason')).reason, 'no such luck')
  assert.match((await attempt('withPanic', [0n])).reason, /[Dd]ivi/)
})

test('estimates gas as it is used, and fees as they are paid', async () => {
  assert.equal(await reader.estimateGas({ account, to: friend.address, value: 1n }), 21_000n)
  const address = await deploy(reverts(), [1n])
  const call = { account, address, abi: reverts().abi, functionName: 'set', args: [5n, 6n] }
  const gas = await reader.estimateContractGas(call)
  const receipt = await mined(await wallet.writeContract({ ...call, gas }))
  assert.ok(gas >= receipt.gasUsed && gas < receipt.gasUsed * 12n / 10n, `${gas}`)

  const history = await reader.getFeeHistory({ blockCount: 3, rewardPercentiles: [10, 50, 90] })
  const blocks = history.gasUsedRatio.length
  assert.ok(blocks >= 1 && blocks <= 3)
  assert.equal(history.baseFeePerGas.length, blocks + 1, 'with the next block')
  assert.equal(history.reward.length, blocks)
  for (const row of history.reward) assert.ok(row.length === 3 && row[0] <= row[1])
  const block = await reader.getBlock({ blockNumber: history.oldestBlock })
  assert.equal(block.baseFeePerGas, history.baseFeePerGas[0])
  const fees = await reader.estimateFeesPerGas()
  assert.ok(fees.maxFeePerGas >= history.baseFeePerGas.at(-1))
})

test('proofs of accounts and slots verify against the state root of a header', async () => {
  const address = await deploy(reverts(), [1n])
  const set = { address, abi: reverts().abi, functionName: 'set' }
  for (const slot of [1n, 2n, 3n]) {
    await mined(await wallet.writeContract({ ...set, args: [slot, slot * 1_000n] }))
  }
  const slotOf = (slot) => keccak256(`0x${toHex(slot, { size: 32 }).slice(2)}${'0'.repeat(64)}`)
  const keys = [1n, 2n, 3n, 4n].map(slotOf)
  const checked = await until(async () => {
    const { number, stateRoot } = await rpc('eth_getBlockByNumber', 'latest', false)
    const proofs = []
    for (const [who, slots] of [[address, keys], [account.address, []],
      [`0x${'ab'.repeat(20)}`, [toHex(0, { size: 32 })]]]) {
      proofs.push(await rpc('eth_getProof', who, slots, number).catch(() => null))
    }
    return proofs.every((proof) => proof !== null) && { stateRoot, proofs }
  }, 'proofs of the latest block')
  const [contract, sender, nobody] = checked.proofs
  assert.equal(verify(checked.stateRoot, contract), true)
  assert.deepEqual(contract.storageProof.map((slot) => BigInt(slot.value)), [1000n, 2000n, 3000n, 0n])
  assert.equal(contract.codeHash, keccak256(await reader.getCode({ address })))
  assert.equal(verify(checked.stateRoot, sender), true)
  assert.equal(verify(checked.stateRoot, nobody), false)
  assert.equal(nobody.storageHash, EMPTY_ROOT)

  const lie = { ...contract, balance: '0x1' }
  assert.throws(() => verify(checked.stateRoot, lie))
  const typed = await reader.getProof({ address, storageKeys: keys.slice(0, 1) })
  assert.equal(typed.storageProof[0].value, 1000n)
})

test('headers chain by hash and hash to what they say', async () => {
  const latest = await reader.getBlockNumber()
  let child
  for (let number = latest; number >= 0n && number > latest - 5n; number -= 1n) {
    const block = await rpc('eth_getBlockByNumber', toHex(number), false)
    const quantity = (value) => (BigInt(value) === 0n ? '0x' : toEven(BigInt(value)))
    const fields = [block.parentHash, block.sha3Uncles, block.miner, block.stateRoot,
      block.transactionsRoot, block.receiptsRoot, block.logsBloom, quantity(block.difficulty),
      quantity(block.number), quantity(block.gasLimit), quantity(block.gasUsed),
      quantity(block.timestamp), block.extraData, block.mixHash, block.nonce,
      quantity(block.baseFeePerGas), block.withdrawalsRoot, quantity(block.blobGasUsed),
      quantity(block.excessBlobGas), block.parentBeaconBlockRoot, block.requestsHash]
      .filter((field) => field !== undefined)
    assert.equal(keccak256(encodeRlp(fields)), block.hash, `header ${number}`)
    if (child) assert.equal(child.parentHash, block.hash)
    child = block
  }
})

function toEven(value) {
  const digits = value.toString(16)
  return `0x${digits.length % 2 ? '0' : ''}${digits}`
}

test('contract addresses by CREATE are what the client expects', async () => {
  const nonce = await reader.getTransactionCount({ address: account.address, blockTag: 'pending' })
  const expected = getContractAddress({ from: account.address, nonce: BigInt(nonce) })
  assert.equal((await deploy(reverts(), [1n])).toLowerCase(), expected.toLowerCase())
})

test('watches blocks, pending transactions and events by WebSocket', async () => {
  const address = await deploy(artifacts.erc20, ['N', 'N', 1_000n, account.address])
  const blocks = []
  const hashes = []
  const events = []
  const stops = [
    live.watchBlocks({ onBlock: (block) => blocks.push(block) }),
    live.watchPendingTransactions({ onTransactions: (some) => hashes.push(...some) }),
    live.watchContractEvent({ address, abi: artifacts.erc20.abi, eventName: 'Transfer',
      args: { to: friend.address }, onLogs: (logs) => events.push(...logs) }),
  ]
  await new Promise((done) => setTimeout(done, 300))
  const transfer = { address, abi: artifacts.erc20.abi, functionName: 'transfer' }
  const hash = await wallet.writeContract({ ...transfer, args: [friend.address, 5n] })
  const receipt = await mined(hash)
  await mined(await wallet.writeContract({ ...transfer, args: [SINK, 5n] }))
  await until(() => blocks.some((block) => block.number === receipt.blockNumber), 'the block')
  await until(() => hashes.includes(hash), 'the pending transaction')
  await until(() => events.length > 0, 'the event')
  assert.deepEqual(events.map((log) => [log.transactionHash, log.args.value]), [[hash, 5n]])
  for (const stop of stops) stop()
})

test('pending shows a durable mini-block before the block is sealed', { skip: BASALT_ONLY },
  async () => {
    const to = privateKeyToAccount(keccak256(toHex(`fresh ${Date.now()}`))).address
    const request = await wallet.prepareTransactionRequest({ to, value: 77n })
    const serializedTransaction = await wallet.signTransaction(request)
    const receipt = await wallet.sendRawTransactionSync({ serializedTransaction })
    assert.equal(await reader.getBalance({ address: to, blockTag: 'pending' }), 77n)
    const found = await reader.getTransaction({ hash: receipt.transactionHash })
    assert.equal(found.value, 77n)
    await sealed(receipt.transactionHash)
    assert.equal(await reader.getBalance({ address: to }), 77n)
  })
