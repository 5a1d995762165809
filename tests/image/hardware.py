"""Two NUMA nodes and an NVMe with a serial number: the image boots from it and sees both. A second
NVMe, chosen by its serial number, has the log."""

import os
from pathlib import Path

from case import CONFIG, ImageCase, OPEN, main, say
from machine import tool

LOG_ON = OPEN + '[machine]\nwal_disk = "WAL0002"\n'
GIB = 1 << 30


class Hardware(ImageCase):
    def test_boots_from_an_nvme_with_two_numa_nodes(self):
        machine = self.machine()
        machine.nvme_serial = "BASALT0001"
        machine.extra = [
            "-object", "memory-backend-ram,id=m0,size=512M",
            "-object", "memory-backend-ram,id=m1,size=512M",
            "-numa", "node,nodeid=0,cpus=0,memdev=m0",
            "-numa", "node,nodeid=1,cpus=1,memdev=m1",
            # The kernel's own words about them, on the serial line.
            "-smbios", "type=11,value=io.systemd.stub.kernel-cmdline-extra=loglevel=7",
        ]  # fmt: skip
        machine.power_on()
        machine.wait_for_block(1)
        say(f"first block from an NVMe: {machine.seconds():.1f} s")
        console = machine.console()
        self.assertRegex(console, r"SRAT: Node 1 PXM 1 ")
        self.assertRegex(console, r"nvme nvme0: .*queues")
        # The firmware names the disk by its serial number.
        self.assertIn("BASALT0001", console)

    def plug(self, machine, disk: Path | None) -> None:
        """A second NVMe, or none."""
        machine.extra = [] if disk is None else [
            "-drive", f"file={disk},format=raw,if=none,id=log",
            "-device", "nvme,drive=log,serial=WAL0002",
        ]  # fmt: skip

    def refused(self, machine, word: str) -> None:
        """The machine says so and starts no node."""
        machine.power_on()
        machine.wait_for(word, lambda: word in machine.console())
        machine.wait_for("maintenance", lambda: "MAINTENANCE" in machine.console())
        self.assertFalse(machine.answers())
        machine.power_cut()

    def test_the_log_is_on_the_disk_that_was_named(self):
        machine = self.machine(config=LOG_ON)
        disk = self.folder / "log.raw"
        disk.write_bytes(b"somebody's")
        os.truncate(disk, 2 * GIB)
        self.plug(machine, disk)
        self.refused(machine, "is not empty")
        self.assertTrue(disk.read_bytes()[:10] == b"somebody's")
        say("a disk that is not empty is refused")

        disk.unlink()
        disk.touch()
        os.truncate(disk, 2 * GIB)
        machine.power_on()
        machine.wait_for_block(2)
        block = machine.call("eth_getBlockByNumber", "0x1", False)
        machine.power_cut()
        self.assertIn('name="wal"', tool("sfdisk", "--dump", str(disk)))
        self.assertEqual(machine.data_list("/lib/basalt/wal"), [])
        say("the log is on the second NVMe, and nothing of it on the data partition")

        machine.power_on()
        machine.wait_for_block(3)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)
        machine.power_cut()
        say("the chain is there after a restart")

        self.plug(machine, None)
        self.refused(machine, "0 disks have that serial number")
        machine.put_on_esp(CONFIG, OPEN)
        self.refused(machine, "the log lies on the disk WAL0002")
        self.assertEqual(machine.data_list("/lib/basalt/wal"), [])
        say("without the disk, or without the setting: maintenance, and no other log is begun")


if __name__ == "__main__":
    main()
