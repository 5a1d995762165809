"""Two disks with a Basalt image in one machine: the data are those of the disk that was booted."""

import re
import subprocess
import uuid
from pathlib import Path

from case import IMAGE, ImageCase, main, say
from machine import tool

MIB = 1 << 20
USB = ["-device", "qemu-xhci", "-device", "usb-storage,drive=second,removable=on"]


class TwoDisks(ImageCase):
    def second(self, machine, source: Path, *device: str) -> Path:
        """Plugs a copy of that disk in as another one."""
        copy = self.folder / "second.raw"
        subprocess.run(["cp", "--sparse=always", source, copy], check=True)
        machine.extra = ["-drive", f"file={copy},format=raw,if=none,id=second", *device]
        return copy

    def names(self, disk: Path) -> list[str]:
        """Of a disk's partitions."""
        return re.findall(r'name="([^"]*)"', tool("sfdisk", "--dump", str(disk)))

    def first_chain(self):
        """A machine that has run once, and its first block."""
        machine = self.machine()
        machine.power_on()
        machine.wait_for_block(1)
        block = machine.call("eth_getBlockByNumber", "0x1", False)
        machine.power_cut()
        return machine, block

    def test_an_installed_disk_keeps_its_data_beside_others(self):
        machine, block = self.first_chain()
        # As the installer leaves a disk: its boot partition has an id of its own.
        installed = machine.folder / "installed.raw"
        subprocess.run(["cp", "--sparse=always", machine.disk, installed], check=True)
        tool("sfdisk", "--part-uuid", str(machine.disk), "1", str(uuid.uuid4()))
        other = self.second(machine, installed, "-device", "virtio-blk-pci,drive=second")
        installed.unlink()
        start = machine.partition("data")["start"]
        before = self.bytes(other, start), self.bytes(machine.disk, start)
        machine.power_on()
        machine.wait_for_block(2)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)
        machine.power_cut()
        self.assertEqual(self.bytes(other, start), before[0], "the other disk was mounted")
        self.assertNotEqual(self.bytes(machine.disk, start), before[1])
        say("two disks with data: the one that was booted is used, the other is not touched")

        stick = self.second(machine, IMAGE, *USB)
        tool("sfdisk", "--part-uuid", str(machine.disk), "1", self.esp_id(stick))
        machine.power_on()
        machine.wait_for_block(3)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)
        self.assertIn("have the same boot partition", machine.console())
        machine.power_cut()
        self.assertNotIn("data", self.names(stick))
        say("a stick with the same boot partition: the disk with the data is used")

    def test_nothing_is_guessed_where_two_disks_could_be_meant(self):
        machine = self.machine()
        other = self.second(machine, IMAGE, "-device", "virtio-blk-pci,drive=second")
        machine.power_on()
        machine.wait_for("the fault", lambda: "leave only one disk" in machine.console())
        machine.wait_for("maintenance", lambda: "MAINTENANCE" in machine.console())
        self.assertFalse(machine.answers())
        machine.power_cut()
        for disk in (machine.disk, other):
            self.assertNotIn("data", self.names(disk))
        say("two disks that could be meant: maintenance, and nothing was made")

    def test_an_argument_keeps_everything_in_memory(self):
        machine = self.machine()
        argument = "io.systemd.stub.kernel-cmdline-extra=basalt.volatile"
        machine.extra = ["-smbios", f"type=11,value={argument}"]
        machine.power_on()
        machine.wait_for("the word about it", lambda: "/var is in memory" in machine.console())
        machine.wait_for("the status page", lambda: "IN MEMORY: basalt.vol" in machine.console())
        machine.power_cut()
        self.assertNotIn("data", self.names(machine.disk))
        say("basalt.volatile: nothing was made on the disk")

    def esp_id(self, disk: Path) -> str:
        """PARTUUID of its boot partition."""
        return tool("sfdisk", "--part-uuid", str(disk), "1").strip()

    def bytes(self, disk: Path, start: int) -> bytes:
        """Begin of a partition, which every mount changes."""
        with open(disk, "rb") as file:
            file.seek(start)
            return file.read(MIB)


if __name__ == "__main__":
    main()
