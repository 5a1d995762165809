"""Transactions over RPC, the power goes, and every acknowledged one is there after the boot."""

import json
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException

from case import ImageCase, main, say
from machine import BOOT_S, TOP, RpcError

ROUNDS = 2
TRANSFERS = 400
CLIENTS = 4
# Receipts of a round after which the power goes.
ENOUGH = 60
# EIP-7966: in the pool, and not durable in time, or after a nonce that is missing.
IN_POOL = (4, 6)
# A connection that is refused, breaks or is silent, an answer that ends in the middle.
NO_ANSWER = (OSError, HTTPException, ValueError)


def signed(first: int, count: int) -> list[tuple[str, str]]:
    """Raw transfers of the first development account, each with its hash."""
    script = TOP / "tests/image/sign.cjs"
    command = ["node", str(script), str(first), str(count)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


class Wallet:
    """Sends as a careful wallet does: what it has no receipt for, it asks for or sends again."""

    def __init__(self, machine):
        self.machine = machine
        self.receipts: dict[str, dict] = {}
        self.met: Counter[str] = Counter()
        self.enough = threading.Event()
        self.power_goes = threading.Event()

    def send(self, raw: str, sent: str) -> None:
        """Returns with the receipt, or when the power has gone; raises where it is refused."""
        while not self.power_goes.is_set():
            try:
                receipt = self.machine.call("eth_sendRawTransactionSync", raw, "0x2710", timeout=15)
            except RpcError as error:
                self.met[f"code {error.code}, {error.message.split(':')[0]}"] += 1
                if error.code not in IN_POOL and "already known" not in error.message:
                    raise
                receipt = self.ask_for(sent)
            except NO_ANSWER as error:
                self.no_answer(error)
                continue
            if receipt is not None:
                self.receipts[receipt["transactionHash"]] = receipt
                if len(self.receipts) >= ENOUGH:
                    self.enough.set()
                return

    def ask_for(self, sent: str) -> dict | None:
        """The receipt of what waits in the pool; none when the power has gone."""
        while not self.power_goes.wait(0.2):
            try:
                receipt = self.machine.call("eth_getTransactionReceipt", sent)
            except NO_ANSWER as error:
                self.no_answer(error)
                continue
            if receipt is not None:
                return receipt
        return None

    def no_answer(self, error: Exception) -> None:
        """Notes what happened, unless it is that the power has gone, and waits a moment."""
        if not self.power_goes.wait(0.5):
            self.met[f"{type(error).__name__}, {error}"] += 1


class PowerCut(ImageCase):
    def test_every_acknowledged_transaction_survives_a_power_cut(self):
        machine = self.machine()
        acknowledged: dict[str, dict] = {}
        nonce = 0
        for number in range(1, ROUNDS + 1):
            machine.power_on()
            machine.wait_for_block(1)
            self.all_there(machine, acknowledged)
            before = len(acknowledged)
            nonce = self.next_nonce(machine)
            self.assertGreaterEqual(nonce, before)
            self.send_until_cut(machine, signed(nonce, TRANSFERS), acknowledged)
            got = len(acknowledged) - before
            say(f"power cut {number}: after {got} acknowledged transfers")
            self.assertGreaterEqual(got, ENOUGH)
        machine.power_on()
        machine.wait_for_block(1)
        self.all_there(machine, acknowledged)
        say(f"{len(acknowledged)} of {len(acknowledged)} acknowledged transfers are there")

    def next_nonce(self, machine) -> int:
        """Of the sender, transactions of mini-blocks included."""
        sender = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        return int(machine.call("eth_getTransactionCount", sender, "pending"), 16)

    def send_until_cut(self, machine, transfers, acknowledged) -> None:
        """Sends in order by several clients; the power goes while they wait for receipts."""
        wallet = Wallet(machine)
        with ThreadPoolExecutor(CLIENTS) as clients:
            sent = [clients.submit(wallet.send, *each) for each in transfers]
            wallet.enough.wait(BOOT_S)
            wallet.power_goes.set()
            machine.power_cut()
            for each in sent:
                each.cancel()
        for what, count in wallet.met.items():
            say(f"met {count} times: {what}")
        for each in sent:
            if not each.cancelled():
                each.result()
        acknowledged.update(wallet.receipts)

    def all_there(self, machine, acknowledged) -> None:
        """Each receipt again, in the same block at the same place."""
        for transaction, receipt in acknowledged.items():
            now = machine.call("eth_getTransactionReceipt", transaction)
            self.assertIsNotNone(now, f"{transaction} was acknowledged and is lost")
            for field in ("blockNumber", "transactionIndex", "status", "from", "gasUsed"):
                self.assertEqual(now[field], receipt[field], f"{transaction}: {field}")


if __name__ == "__main__":
    main()
