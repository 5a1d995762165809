"""web3.py: send, deploy, logs, fees, errors, proofs, subscriptions. Run: python -m unittest."""

import asyncio
import json
import os
import time
import unittest
from pathlib import Path

import rlp
from eth_account import Account
from eth_utils import keccak, to_bytes, to_checksum_address
from web3 import AsyncWeb3, Web3
from web3.exceptions import (
    ContractLogicError,
    TransactionNotFound,
    Web3RPCError,
)
from web3.providers import WebSocketProvider

RPC = os.environ.get("BASALT_RPC", "http://127.0.0.1:8545")
ON_ANVIL = os.environ.get("BASALT_PEER") == "anvil"
UNSEALED = b"\xff" * 32
HERE = Path(__file__).parent
SINK = to_checksum_address("0x" + "8" * 40)
EMPTY_ROOT = keccak(b"\x80")

Account.enable_unaudited_hdwallet_features()


def account(index):
    phrase = "test " * 11 + "junk"
    return Account.from_mnemonic(phrase, account_path=f"m/44'/60'/0'/0/{index}")


def artifact(path):
    found = json.loads((HERE / "node_modules" / path).read_text())
    return {"abi": found["abi"], "bytecode": found["bytecode"]}


ERC20 = "@openzeppelin/contracts/build/contracts/ERC20PresetFixedSupply.json"


def nibbles(data):
    return [half for byte in data for half in (byte >> 4, byte & 15)]


def proven(root, key, nodes):
    """The value at a hashed key under a root, None where the proof shows that there is none."""
    path, want, left = nibbles(keccak(key)), root, list(nodes)
    while True:
        if isinstance(want, list):
            node = want
        else:
            raw = bytes(left.pop(0))
            assert keccak(raw) == want, "proof node does not hash to its parent's reference"
            node = rlp.decode(raw)
        if node == b"":
            return None
        if len(node) == 17:
            want = node[path.pop(0)] if path else node[16]
            if want == b"":
                assert not left
                return None
            continue
        part = nibbles(node[0])
        is_leaf, part = part[0] >= 2, part[1 if part[0] & 1 else 2 :]
        if path[: len(part)] != part:
            assert not left
            return None
        path = path[len(part) :]
        want = node[1]
        if is_leaf:
            assert not left and not path
            return want


class Chain(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.web3 = Web3(Web3.HTTPProvider(RPC))
        cls.account = account(8)
        cls.eth = cls.web3.eth

    def sealed(self, tx_hash):
        """Waits as a script does, then until `latest` shows the transaction."""
        receipt = self.eth.wait_for_transaction_receipt(tx_hash, poll_latency=0.02)
        deadline = time.monotonic() + 15
        while receipt.blockHash == UNSEALED or self.eth.block_number < receipt.blockNumber:
            self.assertLess(time.monotonic(), deadline, "block never sealed")
            time.sleep(0.02)
            receipt = self.eth.get_transaction_receipt(tx_hash)
        return receipt

    def fill(self, **fields):
        base = self.eth.get_block("latest").baseFeePerGas
        filled = {
            "from": self.account.address,
            "chainId": self.eth.chain_id,
            "nonce": self.eth.get_transaction_count(self.account.address, "pending"),
            "to": SINK,
            "value": 0,
            "gas": 21_000,
        }
        if "gasPrice" not in fields:
            filled |= {"maxFeePerGas": base * 2 + 10, "maxPriorityFeePerGas": 10}
        filled |= fields
        return {name: value for name, value in filled.items() if value is not None}

    def send(self, **fields):
        signed = self.account.sign_transaction(self.fill(**fields))
        return self.sealed(self.eth.send_raw_transaction(signed.raw_transaction))

    def deploy(self, path, *args):
        kind = self.eth.contract(**artifact(path))
        built = kind.constructor(*args).build_transaction(self.fill(to=None, gas=3_000_000))
        signed = self.account.sign_transaction(built)
        receipt = self.sealed(self.eth.send_raw_transaction(signed.raw_transaction))
        self.assertEqual(receipt.status, 1)
        return self.eth.contract(address=receipt.contractAddress, abi=kind.abi)

    def transact(self, call, gas=200_000):
        built = call.build_transaction(self.fill(to=None, gas=gas))
        signed = self.account.sign_transaction(built)
        return self.sealed(self.eth.send_raw_transaction(signed.raw_transaction))

    def test_sends_every_type(self):
        price = self.eth.gas_price * 2
        entry = {"address": SINK, "storageKeys": ["0x" + "00" * 32]}
        before = self.eth.get_balance(SINK)
        self.assertEqual(self.send(value=1, gasPrice=price).type, 0)
        listed = {"accessList": [entry], "gas": 30_000, "value": 1}
        self.assertEqual(self.send(gasPrice=price, **listed).type, 1)
        self.assertEqual(self.send(**listed).type, 2)
        nonce = self.eth.get_transaction_count(self.account.address, "pending")
        auth = self.account.sign_authorization(
            {"chainId": self.eth.chain_id, "address": "0x" + "00" * 20, "nonce": nonce + 1}
        )
        receipt = self.send(authorizationList=[auth], gas=100_000, value=1, nonce=nonce)
        self.assertEqual(receipt.type, 4)
        self.assertEqual(self.eth.get_balance(SINK), before + 4)
        found = self.eth.get_transaction(receipt.transactionHash)
        self.assertEqual(found.blockHash, receipt.blockHash)
        block = self.eth.get_block(receipt.blockNumber)
        self.assertIn(receipt.transactionHash, block.transactions)

    def test_sends_synchronously(self):
        signed = self.account.sign_transaction(self.fill(value=1))
        answer = self.web3.provider.make_request(
            "eth_sendRawTransactionSync", ["0x" + bytes(signed.raw_transaction).hex()]
        )
        receipt = answer["result"]
        self.assertEqual(receipt["status"], "0x1")
        if not ON_ANVIL:
            self.assertEqual(receipt["blockHash"], "0x" + "ff" * 32)
        final = self.sealed(receipt["transactionHash"])
        self.assertEqual(final.gasUsed, 21_000)

    def test_erc20_and_its_logs(self):
        token = self.deploy(ERC20, "Token", "TOK", 1_000, self.account.address)
        self.assertEqual(token.functions.symbol().call(), "TOK")
        gas = token.functions.transfer(SINK, 5).estimate_gas({"from": self.account.address})
        receipt = self.transact(token.functions.transfer(SINK, 5), gas)
        self.assertEqual(receipt.status, 1)
        self.assertLessEqual(receipt.gasUsed, gas)
        self.assertEqual(token.functions.balanceOf(SINK).call(), 5)
        (event,) = token.events.Transfer().process_receipt(receipt)
        self.assertEqual(event.args.value, 5)
        found = token.events.Transfer().get_logs(from_block=0)
        self.assertEqual([log.args.value for log in found], [1_000, 5])
        found = token.events.Transfer().get_logs(from_block=0, argument_filters={"to": SINK})
        self.assertEqual([log.transactionHash for log in found], [receipt.transactionHash])
        with self.assertRaises(ContractLogicError) as caught:
            token.functions.transfer(SINK, 5_000).call({"from": self.account.address})
        self.assertIn("transfer amount exceeds balance", str(caught.exception))

    def test_fees(self):
        self.send(value=1)
        history = self.eth.fee_history(2, "latest", [25, 75])
        self.assertEqual(len(history.baseFeePerGas), len(history.gasUsedRatio) + 1)
        self.assertEqual(len(history.reward[0]), 2)
        self.assertGreaterEqual(self.eth.gas_price, self.eth.max_priority_fee)
        self.assertEqual(self.eth.estimate_gas({"to": SINK, "value": 1}), 21_000)

    def test_refusals(self):
        def refused(words, **fields):
            signed = self.account.sign_transaction(self.fill(**fields))
            with self.assertRaises(Web3RPCError) as caught:
                self.eth.send_raw_transaction(signed.raw_transaction)
            self.assertRegex(str(caught.exception).lower(), words)

        self.send(value=1)
        refused("nonce too low", nonce=0)
        refused("insufficient funds", value=10**30)
        refused("intrinsic gas too low", gas=20_000)
        refused("chain ?id", chainId=self.eth.chain_id + 1)
        with self.assertRaises(TransactionNotFound):
            self.eth.get_transaction("0x" + "12" * 32)
        with self.assertRaises(Web3RPCError):
            self.eth.send_raw_transaction("0xdeadbeef")

    def test_proofs(self):
        token = self.deploy(ERC20, "Token", "TOK", 1_000, self.account.address)
        slot = keccak(to_bytes(hexstr=self.account.address).rjust(32, b"\0") + bytes(32))
        block = self.eth.get_block("latest")
        proof = self.eth.get_proof(token.address, [slot], block.number)
        leaf = proven(block.stateRoot, to_bytes(hexstr=token.address), proof.accountProof)
        fields = [proof.nonce, proof.balance, bytes(proof.storageHash), bytes(proof.codeHash)]
        self.assertEqual(leaf, rlp.encode(fields))
        self.assertEqual(bytes(proof.codeHash), keccak(self.eth.get_code(token.address)))
        value = proven(proof.storageHash, slot, proof.storageProof[0].proof)
        self.assertEqual(rlp.decode(value), (1_000).to_bytes(2, "big"))
        absent = self.eth.get_proof(to_checksum_address("0x" + "ab" * 20), [], block.number)
        self.assertEqual(proven(block.stateRoot, b"\xab" * 20, absent.accountProof), None)

    def test_websocket_subscriptions(self):
        token = self.deploy(ERC20, "Token", "TOK", 1_000, self.account.address)
        built = token.functions.transfer(SINK, 5).build_transaction(
            self.fill(to=None, gas=100_000)
        )
        raw = self.account.sign_transaction(built).raw_transaction

        async def scene():
            async with AsyncWeb3(WebSocketProvider(RPC.replace("http", "ws", 1))) as live:
                heads = await live.eth.subscribe("newHeads")
                logs = await live.eth.subscribe("logs", {"address": token.address})
                pending = await live.eth.subscribe("newPendingTransactions")
                sent = await live.eth.send_raw_transaction(raw)
                missing = {heads, logs, pending}
                async for message in live.socket.process_subscriptions():
                    which, result = message["subscription"], message["result"]
                    if which == logs:
                        self.assertEqual(result["transactionHash"], sent)
                    if which == pending and bytes(result) != bytes(sent):
                        continue
                    missing.discard(which)
                    if not missing:
                        break
                await live.eth.unsubscribe(heads)
                return sent

        sent = asyncio.run(asyncio.wait_for(scene(), 20))
        self.assertEqual(self.sealed(sent).status, 1)


if __name__ == "__main__":
    unittest.main()
