// cast and forge as a shell user runs them; forge compiles with the npm solc (contracts/solc).
import { test, before, after } from 'node:test'
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, existsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Wallet } from 'ethers'
import { ON_ANVIL, RPC, artifacts, key, rpc, sealed } from './common.js'
import { verify } from './proof.js'

const here = new URL('.', import.meta.url).pathname
/** The program itself: the package's wrapper script loses the exit status. */
const bin = (name) => {
  const system = { linux: 'linux', darwin: 'darwin' }[process.platform]
  const processor = { x64: 'amd64', arm64: 'arm64' }[process.arch]
  return join(here, 'node_modules', '@foundry-rs', `${name}-${system}-${processor}`, 'bin', name)
}
const sender = new Wallet(key(6))
const script = new Wallet(key(7))
const SINK = `0x${'7'.repeat(40)}`
let work

before(() => {
  work = mkdtempSync(join(tmpdir(), 'basalt-forge-'))
  cpSync(join(here, 'contracts'), join(work, 'src'), { recursive: true })
})

after(() => rmSync(work, { recursive: true, force: true }))

async function run(program, args, env = {}) {
  const options = { cwd: work, maxBuffer: 1 << 26, timeout: 120_000,
    env: { ...process.env, FOUNDRY_DISABLE_NIGHTLY_WARNING: '1', ETH_RPC_URL: RPC,
      NO_COLOR: '1', ...env } }
  const { stdout } = await promisify(execFile)(bin(program), args, options)
  return stdout.trim()
}

const cast = (...args) => run('cast', args)
const signed = ['--private-key', sender.privateKey]

async function send(...args) {
  const receipt = JSON.parse(await cast('send', '--json', ...signed, ...args))
  await sealed(receipt.transactionHash)
  return receipt
}

test('cast: chain, balance, nonce, blocks, prices', async () => {
  assert.equal(Number(await cast('chain-id')), Number(await rpc('eth_chainId')))
  assert.match(await cast('client'), ON_ANVIL ? /anvil/ : /basalt/i)
  assert.ok(BigInt(await cast('balance', sender.address)) > 10n ** 18n)
  assert.match(await cast('nonce', sender.address), /^\d+$/)
  assert.match(await cast('gas-price'), /^\d+$/)
  assert.match(await cast('base-fee'), /^\d+$/)
  const block = JSON.parse(await cast('block', 'latest', '--json'))
  assert.match(block.stateRoot, /^0x[0-9a-f]{64}$/)
  for (const tag of ['earliest', 'latest', 'pending', 'safe', 'finalized']) {
    await cast('block', tag, '--json')
  }
  assert.match(await cast('age', 'latest'), /20\d\d/)
})

test('cast: sends legacy, access list, fee market and delegating transactions', async () => {
  const before = BigInt(await cast('balance', SINK))
  assert.equal(Number((await send('--legacy', '--value', '1', SINK)).type), 0)
  assert.equal(Number((await send('--value', '1', SINK)).type), 2)
  const list = JSON.stringify([{ address: SINK, storageKeys: [] }])
  await send('--access-list', list, '--value', '1', SINK)
  assert.equal(BigInt(await cast('balance', SINK)), before + 3n)
  const code = (await send('--create', artifacts.weth.bytecode)).contractAddress
  const receipt = await send('--auth', code, sender.address, 'deposit()')
  assert.equal(Number(receipt.type), 4)
  assert.match(await cast('code', sender.address), new RegExp(`^0xef0100${code.slice(2)}`, 'i'))
  await send('--auth', `0x${'0'.repeat(40)}`, sender.address)
  assert.equal(await cast('code', sender.address), '0x')
})

test('cast: deploys WETH, calls, estimates, reads logs and storage, proves', async () => {
  const { contractAddress: weth } = await send('--create', artifacts.weth.bytecode)
  assert.match(await cast('call', weth, 'symbol()(string)'), /WETH/)
  const gas = BigInt(await cast('estimate', '--from', sender.address, weth, 'deposit()', '--value',
    '5'))
  const receipt = await send(weth, 'deposit()', '--value', '5')
  assert.ok(gas >= BigInt(receipt.gasUsed))
  assert.equal(await cast('call', weth, 'balanceOf(address)(uint256)', sender.address), '5')
  const logs = JSON.parse(await cast('logs', '--json', '--from-block', '0', '--address', weth,
    'Deposit(address indexed,uint256)', sender.address))
  assert.equal(logs.length, 1)
  assert.equal(logs[0].transactionHash, receipt.transactionHash)
  const slot = await cast('index', 'address', sender.address, '3')
  assert.equal(BigInt(await cast('storage', weth, slot)), 5n)
  const number = (await sealed(receipt.transactionHash)).blockNumber
  const { stateRoot } = await rpc('eth_getBlockByNumber', number, false)
  const proof = JSON.parse(await cast('proof', weth, slot, '--block', String(Number(number))))
  assert.equal(verify(stateRoot, proof), true)
  assert.equal(BigInt(proof.storageProof[0].value), 5n)
  await assert.rejects(cast('call', weth, 'withdraw(uint256)', '6', '--from', sender.address),
    /revert/)
})

test('cast: signs apart from sending, looks up, refuses', async () => {
  const raw = await cast('mktx', ...signed, '--value', '1', SINK)
  const hash = JSON.parse(await cast('publish', '--json', raw).catch(() => 'null'))
    ?.transactionHash ?? (await import('ethers')).Transaction.from(raw).hash
  await sealed(hash)
  assert.equal(JSON.parse(await cast('tx', hash, '--json')).from.toLowerCase(),
    sender.address.toLowerCase())
  assert.equal(JSON.parse(await cast('receipt', hash, '--json')).status, '0x1')
  await assert.rejects(cast('send', ...signed, '--nonce', '0', '--value', '1', SINK), /nonce too low/)
  await assert.rejects(cast('rpc', 'eth_makeCoffee'), /32601|not found|supported/i)
})

const compile = () => ['--root', work, '--use', join(here, 'contracts', 'solc'), '--offline']

test('forge create', async () => {
  const made = JSON.parse(await run('forge', ['create', ...compile(), '--json', '--broadcast',
    ...signed, 'src/Reverts.sol:Reverts', '--constructor-args', '7']))
  await sealed(made.transactionHash)
  assert.equal(await cast('call', made.deployedTo, 'start()(uint256)'), '7')
})

test('forge script --broadcast', async () => {
  await run('forge', ['script', ...compile(), '--broadcast', '--slow', '--rpc-url', RPC,
    'src/Deploy.s.sol:Deploy'], { DEPLOY_KEY: script.privateKey })
  const chain = Number(await rpc('eth_chainId'))
  const record = join(work, 'broadcast', 'Deploy.s.sol', String(chain), 'run-latest.json')
  assert.ok(existsSync(record))
  const { receipts } = JSON.parse((await import('node:fs')).readFileSync(record, 'utf8'))
  assert.deepEqual(receipts.map((receipt) => receipt.status), ['0x1', '0x1', '0x1'])
  await sealed(receipts.at(-1).transactionHash)
  assert.equal(await cast('call', receipts[0].contractAddress, 'values(uint256)(uint256)', '2'),
    '20')
})
