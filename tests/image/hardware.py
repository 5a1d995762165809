"""Two NUMA nodes and an NVMe with a serial number: the image boots from it and sees both."""

from case import ImageCase, main, say


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


if __name__ == "__main__":
    main()
