"""One flipped byte on the root partition is refused: at boot, or where it is read."""

import os
import re
from pathlib import Path

from case import ImageCase, main, say
from machine import BOOT_S, TOP

# The program as it lies in the image: what the last build has staged.
NODE = Path(os.environ.get("NODE", TOP / "build/image/node/usr/bin/basalt"))


class Verity(ImageCase):
    def root(self, machine) -> dict:
        """The partition of slot A."""
        return machine.partitions()[1]

    def test_a_flipped_byte_of_the_superblock_stops_the_boot(self):
        machine = self.machine()
        machine.flip(self.root(machine)["start"] + 1024 + 4)
        machine.power_on()
        machine.wait_for("the refusal", lambda: "is corrupted" in machine.console())
        # The emergency unit starts the machine again, and QEMU ends instead.
        machine.process.wait(BOOT_S)
        self.assertFalse(machine.answers())
        say(f"refused: {self.refusal(machine)}")

    def test_a_flipped_byte_of_the_node_is_not_executed(self):
        machine = self.machine()
        root = self.root(machine)
        # A block of the program, sought where the file system stores it.
        with open(NODE, "rb") as node:
            head = node.read(4096)
        machine.flip(machine.find(head, root["start"], root["size"]) + 64)
        machine.power_on()
        machine.wait_for("the refusal", lambda: "is corrupted" in machine.console())
        say(f"refused: {self.refusal(machine)}")
        # The first unit that needs the program cannot start it, and so the node never is.
        machine.wait_for("the failed start", lambda: self.not_started(machine))
        self.assertFalse(machine.answers())
        machine.power_cut()
        self.assertNotIn("basalt", machine.data_list("/lib"), "the node has left data")

    def not_started(self, machine) -> bool:
        """Whether systemd has said so."""
        return "Dependency failed for basalt.service" in machine.console()

    def refusal(self, machine) -> str:
        """The kernel's line about it."""
        return re.search(r".*is corrupted.*", machine.console())[0].strip()


if __name__ == "__main__":
    main()
