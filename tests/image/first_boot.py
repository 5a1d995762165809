"""A fresh disk: a block is sealed, the data partition is made and grows with the disk."""

import os
import re

from case import IMAGE, ImageCase, main, say
from machine import ACCEL, tool

# Promised for an idle machine with two cores; a busy one is given BASALT_TEST_FIRST_BLOCK_S.
FIRST_BLOCK_S = int(os.environ.get("BASALT_TEST_FIRST_BLOCK_S", "0"))
GIB = 1 << 30
# Promised for a development node, pages of its files included.
MEMORY_MIB = 512
# Promised for the image, packed.
PACKED_MIB = 200


class FirstBoot(ImageCase):
    def test_a_block_is_sealed_and_the_data_partition_follows_the_disk(self):
        machine = self.machine(disk_bytes=4 * GIB)
        before = machine.partitions()
        self.assertEqual([entry["name"] for entry in before[3:]], ["_empty", "_empty"])
        self.assertNotIn("data", [entry["name"] for entry in before])

        machine.power_on()
        machine.wait_for_block(1)
        first = machine.seconds()
        say(f"power-on to first sealed block: {first:.1f} s ({ACCEL})")
        if FIRST_BLOCK_S:
            self.assertLess(first, FIRST_BLOCK_S)
        self.assertEqual(int(str(machine.call("eth_chainId")), 16), 31337)
        machine.wait_for("the node's memory", lambda: self.peak_mib(machine))
        peak = self.peak_mib(machine)
        say(f"memory of the node: {peak} MiB at most")
        self.assertLess(peak, MEMORY_MIB)
        genesis = machine.call("eth_getBlockByNumber", "0x0", False)
        machine.power_cut()

        data = machine.partition("data")
        say(f"data partition: {data['size'] >> 20} MiB of a disk of {4 << 10} MiB")
        self.assertGreater(data["size"], 2 * GIB)
        self.assertEqual(machine.data_bytes() // GIB, data["size"] // GIB)
        self.assertIn("basalt", machine.data_list("/lib"))
        machine_id = machine.data_list("/lib/overlay/etc")
        self.assertIn("machine-id", machine_id)

        machine.enlarge(6 * GIB)
        machine.power_on()
        machine.wait_for_block(2)
        say(f"second boot to the next block: {machine.seconds():.1f} s")
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x0", False), genesis)
        machine.power_cut()
        grown = machine.partition("data")
        self.assertEqual(grown["start"], data["start"])
        self.assertGreaterEqual(grown["size"], data["size"] + 2 * GIB - (64 << 20))
        self.assertGreaterEqual(machine.data_bytes(), data["size"] + 2 * GIB - (64 << 20))

    def test_without_config_the_node_runs_and_others_cannot_reach_it(self):
        machine = self.machine(config=None)
        machine.power_on()
        machine.wait_for("the node's first block on the status page", lambda: self.height(machine))
        self.assertFalse(machine.answers(), "JSON-RPC is reachable from outside")
        self.assertNotIn("login:", machine.console())

    def test_the_image_is_small(self):
        packed = self.folder / "packed.zst"
        tool("zstd", "-q", "-3", "-o", str(packed), str(IMAGE))
        size = packed.stat().st_size >> 20
        say(f"packed: {size} MiB")
        self.assertLess(size, PACKED_MIB)

    def peak_mib(self, machine) -> int:
        """What the node has been charged at most, as the status page has it."""
        found = re.findall(r"memory +node \d+ MiB, at most (\d+) of", machine.console())
        return max(map(int, found), default=0)

    def height(self, machine) -> bool:
        """Whether the status page tells a height above 0."""
        return re.search(r"(?i)height\W+[1-9]", machine.console()) is not None


if __name__ == "__main__":
    main()
