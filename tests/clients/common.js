// What all suites share: the endpoint, raw JSON-RPC, artifacts, accounts. No client library's views.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import assert from 'node:assert/strict'
import { HDNodeWallet, Mnemonic } from 'ethers'

const require = createRequire(import.meta.url)

/** HTTP endpoint; WebSocket is on the same port. */
export const RPC = process.env.BASALT_RPC ?? 'http://127.0.0.1:8545'
export const WS = RPC.replace(/^http/, 'ws')
/** `anvil` while the suites themselves are developed: what only Basalt promises is skipped. */
export const ON_ANVIL = process.env.BASALT_PEER === 'anvil'
/** For node:test's `skip` option. */
export const BASALT_ONLY = ON_ANVIL ? 'only Basalt promises this' : false
/** The block hash of a receipt whose block is not sealed yet. */
export const UNSEALED = `0x${'ff'.repeat(32)}`

const MNEMONIC = 'test test test test test test test test test test test junk'

/** The nth development account's private key. */
export function key(index) {
  return HDNodeWallet.fromMnemonic(Mnemonic.fromPhrase(MNEMONIC), `m/44'/60'/0'/0/${index}`)
    .privateKey
}

/** Sends a body as it is; gives HTTP status and parsed answer. */
export async function post(body) {
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(RPC, { method: 'POST', headers, body })
  const text = await answer.text()
  let json
  try {
    json = JSON.parse(text)
  } catch {
    json = undefined
  }
  return { status: answer.status, text, json }
}

/** One call; throws `{code, message, data}` on an error answer. */
export async function rpc(method, ...params) {
  const { json, text } = await post(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }))
  assert.ok(json, `no JSON: ${text.slice(0, 200)}`)
  if (json.error) throw Object.assign(new Error(json.error.message), json.error)
  return json.result
}

/** The error of a call that must fail. */
export async function refused(method, ...params) {
  try {
    await rpc(method, ...params)
  } catch (error) {
    if (typeof error.code === 'number') return error
    throw error
  }
  return assert.fail(`${method} was not refused`)
}

/** Waits until `probe` gives something else than undefined, false or null. */
export async function until(probe, what, limitMs = 15_000) {
  const end = Date.now() + limitMs
  for (;;) {
    const value = await probe()
    if (value) return value
    if (Date.now() > end) assert.fail(`waited ${limitMs} ms in vain for ${what}`)
    await new Promise((done) => setTimeout(done, 20))
  }
}

/** The receipt once its block is sealed: then `latest` shows what the transaction did. */
export async function sealed(hash) {
  return until(async () => {
    const receipt = await rpc('eth_getTransactionReceipt', hash)
    return receipt && receipt.blockHash !== UNSEALED
      && BigInt(await rpc('eth_blockNumber')) >= BigInt(receipt.blockNumber) && receipt
  }, `the sealed receipt of ${hash}`)
}

const oz = (name) => require(`@openzeppelin/contracts/build/contracts/${name}.json`)
const hex = (code) => (code.startsWith('0x') ? code : `0x${code}`)

function artifact(json) {
  const code = typeof json.bytecode === 'string' ? json.bytecode : json.evm.bytecode.object
  return { abi: json.abi, bytecode: hex(code) }
}

/** Compiled contracts as their packages ship them. */
export const artifacts = {
  erc20: artifact(oz('ERC20PresetFixedSupply')),
  erc20Minter: artifact(oz('ERC20PresetMinterPauser')),
  factory: artifact(require('@uniswap/v2-core/build/UniswapV2Factory.json')),
  pair: artifact(require('@uniswap/v2-core/build/UniswapV2Pair.json')),
  weth: artifact(require('@uniswap/v2-periphery/build/WETH9.json')),
  router: artifact(require('@uniswap/v2-periphery/build/UniswapV2Router02.json')),
}

let compiled
/** `contracts/Reverts.sol`, compiled once a process. */
export function reverts() {
  if (!compiled) {
    const content = readFileSync(new URL('contracts/Reverts.sol', import.meta.url), 'utf8')
    const input = {
      language: 'Solidity',
      sources: { 'Reverts.sol': { content } },
      settings: { outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object'] } } },
    }
    const output = JSON.parse(require('solc').compile(JSON.stringify(input)))
    compiled = artifact(output.contracts['Reverts.sol'].Reverts)
  }
  return compiled
}

/** A WebSocket that speaks JSON-RPC and collects notifications by subscription. */
export class Socket {
  static async open(url = WS) {
    const { WebSocket } = require('ws')
    const socket = new Socket()
    socket.waiting = new Map()
    socket.notes = new Map()
    socket.next = 1
    socket.ws = new WebSocket(url)
    socket.ws.on('message', (data) => socket.take(JSON.parse(data.toString())))
    await new Promise((done, fail) => socket.ws.once('open', done).once('error', fail))
    return socket
  }

  take(message) {
    if (message.method === 'eth_subscription') {
      const { subscription, result } = message.params
      if (!this.notes.has(subscription)) this.notes.set(subscription, [])
      this.notes.get(subscription).push(result)
    } else if (this.waiting.has(message.id)) {
      this.waiting.get(message.id)(message)
      this.waiting.delete(message.id)
    }
  }

  async call(method, ...params) {
    const id = this.next++
    const answer = new Promise((done) => this.waiting.set(id, done))
    this.ws.send(JSON.stringify({ jsonrpc: '2.0', id, method, params }))
    const { error, result } = await answer
    if (error) throw Object.assign(new Error(error.message), error)
    return result
  }

  subscribe(...params) {
    return this.call('eth_subscribe', ...params)
  }

  seen(subscription) {
    return this.notes.get(subscription) ?? []
  }

  close() {
    this.ws.close()
  }
}
