// ethers on Uniswap v2 and on the wire: deploy, liquidity, swap, filters, WebSocket streams.
import { test, before, after } from 'node:test'
import assert from 'node:assert/strict'
import {
  Contract, ContractFactory, JsonRpcProvider, MaxUint256, NonceManager, Wallet, WebSocketProvider,
  ZeroAddress, isError, keccak256, parseEther,
} from 'ethers'
import { WebSocket } from 'ws'
import {
  BASALT_ONLY, RPC, Socket, UNSEALED, WS, artifacts, key, reverts, rpc, sealed, until,
} from './common.js'

const SINK = `0x${'6'.repeat(40)}` // Nobody's address, and not the fee recipient.
let provider, wallet, signer, stream

before(async () => {
  provider = new JsonRpcProvider(RPC, undefined, { pollingInterval: 50, cacheTimeout: -1 })
  wallet = new Wallet(key(2), provider)
  signer = new NonceManager(wallet)
  stream = new WebSocketProvider(new WebSocket(WS))
})

after(async () => {
  provider.destroy()
  await stream.destroy()
})

/** Waits for the receipt and until `latest` shows it. */
async function mined(sending) {
  const transaction = await sending
  await sealed(transaction.hash)
  const receipt = await transaction.wait()
  assert.equal(receipt.status, 1)
  return receipt
}

async function deploy({ abi, bytecode }, ...args) {
  const contract = await new ContractFactory(abi, bytecode, signer).deploy(...args)
  await sealed(contract.deploymentTransaction().hash)
  await contract.waitForDeployment()
  return contract
}

test('sends each transaction type', async () => {
  const accessList = [{ address: ZeroAddress, storageKeys: [`0x${'00'.repeat(32)}`] }]
  for (const fields of [{ type: 0 }, { type: 1, accessList }, { type: 2 }, { type: 2, accessList }]) {
    const receipt = await mined(signer.sendTransaction({ to: SINK, value: 1n, ...fields }))
    assert.equal(receipt.type, fields.type)
  }
  const target = await deploy(reverts(), 3n)
  const nonce = await signer.getNonce()
  const authorization = await wallet.authorize({ address: await target.getAddress(),
    nonce: nonce + 1 })
  const receipt = await mined(signer.sendTransaction({
    type: 4, to: wallet.address, authorizationList: [authorization], gasLimit: 200_000n,
    data: target.interface.encodeFunctionData('set', [1n, 2n]) }))
  assert.equal(receipt.type, 4)
  assert.equal(await provider.getCode(wallet.address),
    `0xef0100${(await target.getAddress()).slice(2).toLowerCase()}`)
  signer.reset()
  const back = await wallet.authorize({ address: ZeroAddress, nonce: nonce + 3 })
  await mined(signer.sendTransaction({
    type: 4, to: wallet.address, authorizationList: [back], gasLimit: 100_000n }))
  assert.equal(await provider.getCode(wallet.address), '0x')
  signer.reset()
})

test('Uniswap v2: factory, router, pair, liquidity, swaps, price', async () => {
  const supply = parseEther('1000000')
  const gold = await deploy(artifacts.erc20, 'Gold', 'AU', supply, wallet.address)
  const salt = await deploy(artifacts.erc20Minter, 'Salt', 'NA')
  await mined(salt.mint(wallet.address, supply))
  const weth = await deploy(artifacts.weth)
  const factory = await deploy(artifacts.factory, wallet.address)
  const router = await deploy(artifacts.router, await factory.getAddress(),
    await weth.getAddress())
  const [a, b, r] = await Promise.all([gold, salt, router].map((it) => it.getAddress()))
  await mined(gold.approve(r, MaxUint256))
  await mined(salt.approve(r, MaxUint256))

  const forever = MaxUint256
  // A pair's price sums cost gas only where time has passed since its last use, which an estimate
  // on the newest block cannot know: liquidity and swaps get a limit of their own.
  const gasLimit = 5_000_000n
  await mined(router.addLiquidity(a, b, parseEther('1000'), parseEther('4000'), 0n, 0n,
    wallet.address, forever, { gasLimit }))
  const pair = new Contract(await factory.getPair(a, b), artifacts.pair.abi, signer)
  const [low] = [a, b].sort((x, y) => (BigInt(x) < BigInt(y) ? -1 : 1))
  const reserves = await pair.getReserves()
  assert.equal(low === a ? reserves[0] : reserves[1], parseEther('1000'))
  assert.equal(await pair.balanceOf(wallet.address), parseEther('2000') - 1000n)

  const amountIn = parseEther('10')
  const [, expected] = await router.getAmountsOut(amountIn, [a, b])
  const had = await salt.balanceOf(wallet.address)
  const receipt = await mined(router.swapExactTokensForTokens(amountIn, expected, [a, b],
    wallet.address, forever, { gasLimit }))
  assert.equal(await salt.balanceOf(wallet.address) - had, expected)
  const withFee = amountIn * 997n
  assert.equal(expected,
    withFee * parseEther('4000') / (parseEther('1000') * 1000n + withFee), 'x * y = k, less 0.3 %')
  const events = receipt.logs.map((log) => pair.interface.parseLog(log)?.name)
  assert.deepEqual(events.slice(-2), ['Sync', 'Swap'])
  const swaps = await pair.queryFilter(pair.filters.Swap(r), 0)
  assert.deepEqual(swaps.map((swap) => swap.transactionHash), [receipt.hash])

  await mined(router.addLiquidityETH(a, parseEther('500'), 0n, 0n, wallet.address, forever,
    { value: parseEther('5'), gasLimit }))
  const w = await weth.getAddress()
  await mined(router.swapExactETHForTokens(1n, [w, a, b], wallet.address, forever,
    { value: parseEther('1'), gasLimit }))
  const goldPair = new Contract(await factory.getPair(a, w), artifacts.pair.abi, provider)
  assert.equal((await goldPair.queryFilter('Swap', 0)).length, 1)
  assert.equal(await provider.getBalance(w), parseEther('6'))

  await assert.rejects(
    router.swapExactTokensForTokens.staticCall(amountIn, MaxUint256, [a, b], wallet.address,
      forever),
    (error) => isError(error, 'CALL_EXCEPTION') && /INSUFFICIENT_OUTPUT_AMOUNT/.test(error.reason))
  await assert.rejects(
    router.swapExactTokensForTokens.estimateGas(amountIn, 0n, [a, b], wallet.address, 1n),
    (error) => isError(error, 'CALL_EXCEPTION') && /EXPIRED/.test(error.reason))
})

test('errors come out under the names that ethers gives them', async () => {
  const poor = Wallet.createRandom(provider)
  const transfer = { to: SINK, value: 1n, gasLimit: 21_000n }
  await assert.rejects(poor.sendTransaction(transfer), (e) => isError(e, 'INSUFFICIENT_FUNDS'))
  await assert.rejects(wallet.sendTransaction({ ...transfer, nonce: 0 }),
    (e) => isError(e, 'NONCE_EXPIRED'))
  const contract = await deploy(reverts(), 7n)
  await assert.rejects(contract.withCustomError(8n), (error) => isError(error, 'CALL_EXCEPTION')
    && error.revert.name === 'TooMuch' && error.revert.args[1] === 7n)
  await assert.rejects(contract.withReason(), (error) => error.reason === 'no such luck')
  await assert.rejects(provider.send('eth_makeCoffee', []),
    (error) => isError(error, 'UNSUPPORTED_OPERATION') || error.error?.code === -32601)
})

test('storage, code and deployment receipts', async () => {
  const contract = await deploy(reverts(), 7n)
  await mined(contract.set(1n, 42n))
  const address = await contract.getAddress()
  const slot = keccak256(`0x${'1'.padStart(64, '0')}${'0'.repeat(64)}`)
  assert.equal(BigInt(await provider.getStorage(address, slot)), 42n)
  assert.equal(BigInt(await provider.getStorage(address, 5n)), 0n)
  assert.notEqual(await provider.getCode(address), '0x')
  assert.equal(await contract.values(1n), 42n)
  const block = await provider.getBlock('latest', true)
  assert.equal(block.prefetchedTransactions.length, block.transactions.length)
})

test('WebSocketProvider: blocks, pending, logs', async () => {
  const token = await deploy(artifacts.erc20, 'T', 'T', 1_000n, wallet.address)
  const watched = token.connect(stream)
  const blocks = []
  const pending = []
  const transfers = []
  await stream.on('block', (number) => blocks.push(number))
  await stream.on('pending', (hash) => pending.push(hash))
  await watched.on('Transfer', (from, to, value, payload) =>
    transfers.push([value, payload.log.transactionHash]))
  await new Promise((done) => setTimeout(done, 300))
  const receipt = await mined(token.transfer(SINK, 9n))
  await until(() => blocks.includes(receipt.blockNumber), 'the block')
  await until(() => pending.includes(receipt.hash), 'the pending transaction')
  await until(() => transfers.length, 'the event')
  assert.deepEqual(transfers, [[9n, receipt.hash]])
  await stream.removeAllListeners()
  await watched.removeAllListeners()
})

test('raw subscriptions: headers in order without gaps, logs, and the end of one', async () => {
  const socket = await Socket.open()
  const token = await deploy(artifacts.erc20, 'T', 'T', 1_000n, wallet.address)
  const heads = await socket.subscribe('newHeads')
  const logs = await socket.subscribe('logs', { address: await token.getAddress() })
  const hashes = []
  for (let count = 0; count < 3; count += 1) {
    hashes.push((await mined(token.transfer(SINK, 1n))).hash)
  }
  await until(() => socket.seen(heads).length >= 2, 'two headers')
  await until(() => socket.seen(logs).length >= 3, 'three logs')
  const headers = socket.seen(heads)
  for (let at = 1; at < headers.length; at += 1) {
    assert.equal(headers[at].parentHash, headers[at - 1].hash)
    assert.equal(Number(headers[at].number), Number(headers[at - 1].number) + 1)
  }
  assert.deepEqual(socket.seen(logs).map((log) => log.transactionHash), hashes)
  assert.equal(await socket.call('eth_unsubscribe', logs), true)
  await mined(token.transfer(SINK, 1n))
  assert.equal(socket.seen(logs).length, 3, 'nothing after unsubscribe')
  await assert.rejects(socket.subscribe('coffee'), (error) => error.code === -32602
    || error.code === -32601)
  socket.close()
})

test('miniBlocks: shape, sequence, and transactions before they are sealed', { skip: BASALT_ONLY },
  async () => {
    const socket = await Socket.open()
    const stream = await socket.subscribe('miniBlocks')
    const receipts = []
    for (let count = 0; count < 3; count += 1) {
      const raw = await wallet.signTransaction(await wallet.populateTransaction({
        to: SINK, value: 1n, nonce: await wallet.getNonce('pending') }))
      receipts.push(await rpc('eth_sendRawTransactionSync', raw))
    }
    const hashOf = (entry) => (typeof entry === 'string' ? entry : entry.hash)
    const mini = () => socket.seen(stream).filter((item) => item.transactions?.length)
    const inMini = (hash) => mini().find((item) => item.transactions.some(
      (entry) => hashOf(entry) === hash))
    for (const receipt of receipts) {
      const item = await until(() => inMini(receipt.transactionHash), 'the mini-block', 500)
      assert.equal(receipt.blockHash, UNSEALED)
      assert.equal(BigInt(item.block_number), BigInt(receipt.blockNumber))
      for (const field of ['block_timestamp', 'index', 'mini_block_number',
        'mini_block_timestamp', 'gas_used', 'receipts', 'transaction_root', 'receipt_root',
        'signature']) {
        assert.ok(field in item, `${field} is missing`)
      }
      assert.equal(item.receipts.length, item.transactions.length)
      assert.match(item.transaction_root, /^0x[0-9a-f]{64}$/)
    }
    const numbers = mini().map((item) => Number(item.mini_block_number))
    for (let at = 1; at < numbers.length; at += 1) assert.equal(numbers[at], numbers[at - 1] + 1)
    socket.close()
    signer.reset()
    await sealed(receipts.at(-1).transactionHash)
  })

test('stateChanges: the account that was asked for', { skip: BASALT_ONLY }, async () => {
  const socket = await Socket.open()
  const to = Wallet.createRandom().address
  const stream = await socket.subscribe('stateChanges', [to])
  const receipt = await mined(signer.sendTransaction({ to, value: 5n }))
  const change = await until(() => socket.seen(stream).flat().find((item) => item.address),
    `the state change of ${receipt.hash}`)
  assert.equal(change.address.toLowerCase(), to.toLowerCase())
  assert.equal(BigInt(change.balance), 5n)
  assert.equal(BigInt(change.nonce), 0n)
  assert.equal(typeof change.storage, 'object')
  socket.close()
})

test('logs stream carries events as soon as they are durable', { skip: BASALT_ONLY }, async () => {
  const token = await deploy(artifacts.erc20, 'T', 'T', 1_000n, wallet.address)
  const socket = await Socket.open()
  const address = await token.getAddress()
  const stream = await socket.subscribe('logs', { address })
  const start = performance.now()
  const { hash } = await token.transfer(SINK, 1n)
  await until(() => socket.seen(stream).some((log) => log.transactionHash === hash), 'the log')
  console.log(`# log after ${(performance.now() - start).toFixed(1)} ms`)
  await sealed(hash)
  socket.close()
})
