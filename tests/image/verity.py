"""A corrupted root is refused: the other slot takes over, and without one the machine stands still.

Slot A is as flashed, without a counter: the boot loader alone would take it for ever.
"""

import os
import re
import time
from pathlib import Path

from case import ImageCase, main, say
from machine import BOOT_S, TOP, tool

# The program as it lies in the image: what the last build has staged.
NODE = Path(os.environ.get("NODE", TOP / "build/image/node/usr/bin/basalt"))
# Of slot B: lower than any image's, so that the boot loader prefers slot A.
OTHER = "0.0.1"
SALT = "b5" * 32


class Verity(ImageCase):
    def root(self, machine, slot: str = "a") -> dict:
        """The root partition of a slot."""
        return machine.partitions()[1 if slot == "a" else 3]

    def corrupt_superblock(self, machine, slot: str = "a") -> None:
        """Turns over a byte that has to be read before anything else."""
        machine.flip(self.root(machine, slot)["start"] + 1024 + 4)

    def corrupt_node(self, machine) -> None:
        """Turns over a byte of the node's program in slot A."""
        root = self.root(machine)
        with open(NODE, "rb") as node:
            head = node.read(4096)
        machine.flip(machine.find(head, root["start"], root["size"]) + 64)

    def fill_slot_b(self, machine) -> None:
        """The same files under another version and another root hash, as an update leaves them."""
        parts = machine.partitions()
        data, tree = machine.folder / "root.raw", machine.folder / "tree.raw"
        self.copy(machine.disk, parts[1]["start"], data, 0, parts[1]["size"])
        tree.touch()
        os.truncate(tree, parts[4]["size"])
        told = tool("veritysetup", "format", "--salt", SALT, str(data), str(tree))
        new = re.search(r"Root hash:\s+([0-9a-f]{64})", told)[1]
        self.copy(data, 0, machine.disk, parts[3]["start"], parts[3]["size"])
        self.copy(tree, 0, machine.disk, parts[4]["start"], parts[4]["size"])
        for number, half, label in ((4, new[:32], ""), (5, new[32:], "_verity")):
            uuid = f"{half[:8]}-{half[8:12]}-{half[12:16]}-{half[16:20]}-{half[20:]}"
            tool("sfdisk", "--part-uuid", str(machine.disk), str(number), uuid)
            tool("sfdisk", "--part-label", str(machine.disk), str(number),
                 f"basalt_{OTHER}{label}")  # fmt: skip
        self.copy_kernel(machine, new)
        data.unlink()
        tree.unlink()

    def copy_kernel(self, machine, root_hash: str) -> None:
        """Slot A's unified kernel image with another root hash in its command line."""
        volume = f"{machine.disk}@@{parts_start(machine)}"
        file = machine.folder / "kernel.efi"
        tool("mcopy", "-o", "-i", volume, f"::EFI/Linux/{self.kernels(machine)[0]}", str(file))
        image = file.read_bytes()
        old = re.search(rb"roothash=([0-9a-f]{64})", image)[1]
        file.write_bytes(image.replace(b"roothash=" + old, b"roothash=" + root_hash.encode()))
        tool("mcopy", "-i", volume, str(file), f"::EFI/Linux/basalt_{OTHER}.efi")
        file.unlink()

    def copy(self, source: Path, start: int, target: Path, at: int, size: int) -> None:
        """Copies bytes between files at these offsets."""
        if not target.exists():
            target.touch()
        with open(source, "rb") as read, open(target, "r+b") as write:
            read.seek(start)
            write.seek(at)
            for _ in range(size >> 20):
                write.write(read.read(1 << 20))

    def kernels(self, machine) -> list[str]:
        """Unified kernel images on the EFI system partition."""
        return sorted(Path(line).name for line in machine.esp_list("EFI/Linux").split())

    def boots(self, machine) -> int:
        """How often the firmware has begun."""
        return machine.console().count("BdsDxe: starting")

    def comes_back_in_b(self, machine, first: str) -> None:
        """Slot B runs after slot A was left, and says why."""
        machine.reboots = True
        machine.power_on()
        sealed = r"height +[1-9]"
        machine.wait_for(
            "a block in slot B",
            lambda: self.boots(machine) > 1 and re.search(sealed, self.since_boot(machine)),
            3 * BOOT_S,
        )
        say(f"back in slot B after {machine.seconds():.0f} s")
        page = re.sub(r"\s+", " ", self.since_boot(machine))
        self.assertIn(f"basalt_{OTHER} on ", page)
        # One more where the emulation was so slow that the root came too late.
        self.assertIn(self.boots(machine), (2, 3))
        self.assertRegex(page, rf"SLOT LEFT: {first[:-4]}: .*corrupted")
        machine.power_cut()
        kernels = self.kernels(machine)
        self.assertEqual(kernels[0], f"basalt_{OTHER}.efi")
        self.assertRegex(kernels[1], rf"{re.escape(first[:-4])}\+0-[1-3]\.efi")
        self.assertIn("left.txt", machine.esp_list("loader/basalt"))

    def since_boot(self, machine) -> str:
        """What the console has said since the last start."""
        return machine.console().rpartition("BdsDxe: starting")[2]

    def test_a_superblock_leads_to_the_other_slot(self):
        machine = self.machine()
        first = self.kernels(machine)[0]
        self.fill_slot_b(machine)
        self.corrupt_superblock(machine)
        self.comes_back_in_b(machine, first)

    def test_the_nodes_program_leads_to_the_other_slot(self):
        # Without a config the initrd does not need the program: it is met when systemd starts it.
        machine = self.machine(config=None)
        first = self.kernels(machine)[0]
        self.fill_slot_b(machine)
        self.corrupt_node(machine)
        self.comes_back_in_b(machine, first)

    def test_a_superblock_in_both_slots_stops_the_machine(self):
        machine = self.machine()
        self.fill_slot_b(machine)
        self.corrupt_superblock(machine)
        self.corrupt_superblock(machine, "b")
        machine.reboots = True
        machine.power_on()
        machine.wait_for("the last word", lambda: "STOPPED" in machine.console(), 3 * BOOT_S)
        self.stands_still(machine, boots=2)

    def test_a_superblock_without_another_slot_stops_the_machine(self):
        machine = self.machine()
        self.corrupt_superblock(machine)
        machine.reboots = True
        machine.power_on()
        machine.wait_for("the refusal", lambda: "is corrupted" in machine.console())
        say(f"refused: {self.refusal(machine)}")
        machine.wait_for("the last word", lambda: "STOPPED" in machine.console())
        self.stands_still(machine, boots=1)

    def test_the_nodes_program_without_another_slot_is_not_executed(self):
        machine = self.machine()
        kernels = self.kernels(machine)
        self.corrupt_node(machine)
        machine.reboots = True
        machine.power_on()
        machine.wait_for("the refusal", lambda: "is corrupted" in machine.console())
        say(f"refused: {self.refusal(machine)}")
        machine.wait_for("the word about it", lambda: "ROOT CORRUPTED" in machine.console())
        # The first unit that needs the program cannot start it, and so the node never is.
        machine.wait_for("the failed start", lambda: self.not_started(machine))
        self.stands_still(machine, boots=1)
        self.assertEqual(self.kernels(machine), kernels)
        self.assertNotIn("data", [part["name"] for part in machine.partitions()])

    def stands_still(self, machine, boots: int) -> None:
        """The machine stays on and does not start again; no node answers."""
        time.sleep(40)
        self.assertTrue(machine.is_on())
        self.assertFalse(machine.answers())
        self.assertEqual(self.boots(machine), boots)
        machine.power_cut()

    def not_started(self, machine) -> bool:
        """Whether systemd has said so."""
        return "Dependency failed for basalt.service" in machine.console()

    def refusal(self, machine) -> str:
        """The kernel's line about it."""
        return re.search(r".*is corrupted.*", machine.console())[0].strip()


def parts_start(machine) -> int:
    """Where the EFI system partition begins."""
    return machine.partition("esp")["start"]


if __name__ == "__main__":
    main()
