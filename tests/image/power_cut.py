"""Transactions over RPC, the power goes, and every acknowledged one is there after the boot."""

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

from case import ImageCase, main, say
from machine import TOP

ROUNDS = 2
TRANSFERS = 400
CLIENTS = 4


def signed(first: int, count: int) -> list[str]:
    """Raw transfers of the first development account."""
    script = TOP / "tests/image/sign.cjs"
    command = ["node", str(script), str(first), str(count)]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


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
            self.assertGreater(got, 20)
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
        enough = threading.Event()

        def send(raw: str) -> None:
            try:
                receipt = machine.call("eth_sendRawTransactionSync", raw, "0x2710", timeout=15)
            except (OSError, RuntimeError, ValueError):
                return  # not acknowledged: the power went, or a nonce before it was lost
            acknowledged[receipt["transactionHash"]] = receipt
            if len(acknowledged) % 100 == 60:
                enough.set()

        with ThreadPoolExecutor(CLIENTS) as clients:
            sent = [clients.submit(send, raw) for raw in transfers]
            enough.wait(120)
            machine.power_cut()
            for each in sent:
                each.cancel()

    def all_there(self, machine, acknowledged) -> None:
        """Each receipt again, in the same block at the same place."""
        for transaction, receipt in acknowledged.items():
            now = machine.call("eth_getTransactionReceipt", transaction)
            self.assertIsNotNone(now, f"{transaction} was acknowledged and is lost")
            for field in ("blockNumber", "transactionIndex", "status", "from", "gasUsed"):
                self.assertEqual(now[field], receipt[field], f"{transaction}: {field}")


if __name__ == "__main__":
    main()
