// Prints COUNT signed transfers of the first development account, nonces from FIRST, as a JSON list
// of pairs: the raw transaction and its hash.
const { createRequire } = require('node:module')
const from = createRequire(`${__dirname}/../clients/package.json`)
const { keccak256 } = from('viem')
const { mnemonicToAccount } = from('viem/accounts')

const [first, count] = process.argv.slice(2).map(Number)
const account = mnemonicToAccount('test test test test test test test test test test test junk')
const transfer = (nonce) =>
  account.signTransaction({
    chainId: 31337,
    nonce,
    gas: 21_000n,
    maxFeePerGas: 10n ** 10n,
    maxPriorityFeePerGas: 1n,
    to: '0x70997970C51812dc3A010C7d01b50e0d17dc79C8',
    value: 1n,
  })

Promise.all(Array.from({ length: count }, (_, index) => transfer(first + index))).then((signed) =>
  console.log(JSON.stringify(signed.map((raw) => [raw, keccak256(raw)]))),
)
