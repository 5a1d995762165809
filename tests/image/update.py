"""An update into the other slot, and the return from one whose node fails.

Needs three signed images, which tests/image/update-images makes: it is not part of the default run.
There is no login, so the guest is told by its firmware's tables to run systemd-sysupdate once.
"""

import os
import subprocess
import unittest
from pathlib import Path

import case
from case import ImageCase, main, say
from machine import BOOT_S, TOP, tool

IMAGES = Path(os.environ.get("UPDATE_IMAGES", TOP / "build/update"))
OLD, NEW, BROKEN = "0.9.1", "0.9.2", "0.9.3"
MIB = 1 << 20
APPLY = (
    "mkdir -p /var/lib/update && mount -o ro /dev/disk/by-label/UPDATE /var/lib/update"
    " && /usr/lib/systemd/systemd-sysupdate --verify=yes update"
)


@unittest.skipUnless((IMAGES / BROKEN).exists(), "no images: run tests/image/update-images")
class Update(ImageCase):
    def mirror(self, version: str, tampered: bool = False) -> Path:
        """A disk with what one publishes of a version."""
        folder = self.folder / f"mirror-{version}"
        subprocess.run(["cp", "-r", "--sparse=always", IMAGES / version, folder], check=True)
        (folder / f"basalt_{version}.raw").unlink()
        (folder / f"basalt_{version}.esp.raw").unlink()
        if tampered:
            with open(folder / "SHA256SUMS", "a") as sums:
                sums.write("\n")
        disk = self.folder / f"mirror-{version}.raw"
        with open(disk, "wb") as file:
            file.truncate(1024 * MIB)
        tool("mkfs.ext4", "-q", "-L", "UPDATE", "-d", str(folder), str(disk))
        subprocess.run(["rm", "-r", folder], check=True)
        return disk

    def apply(self, machine, disk: Path) -> str:
        """Boots once to run sysupdate, and gives what the console said."""
        arguments = (
            f"systemd.run=\"/usr/bin/sh -c '{APPLY}'\" systemd.run_success_action=poweroff"
            " systemd.run_failure_action=poweroff systemd.journald.forward_to_console=1"
        )
        machine.extra = [
            "-drive", f"file={disk},format=raw,if=none,id=mirror,readonly=on",
            "-device", "virtio-blk-pci,drive=mirror",
            "-smbios", f"type=11,value=io.systemd.stub.kernel-cmdline-extra={arguments}",
        ]  # fmt: skip
        machine.reboots = False
        machine.power_on()
        machine.process.wait(2 * BOOT_S)
        machine.process = None
        machine.extra = []
        disk.unlink()
        return machine.console()

    def names(self, machine) -> list[str]:
        """Of the partitions."""
        return [entry["name"] for entry in machine.partitions()]

    def kernels(self, machine) -> list[str]:
        """Unified kernel images on the EFI system partition."""
        return sorted(Path(line).name for line in machine.esp_list("EFI/Linux").split())

    def flashed(self):
        """A machine with the first version."""
        case.IMAGE = IMAGES / OLD / f"basalt_{OLD}.raw"
        return self.machine(disk_bytes=5 << 30)

    def test_an_update_is_booted_and_blessed_and_keeps_the_chain(self):
        machine = self.flashed()
        machine.power_on()
        machine.wait_for_block(2)
        first = machine.call("eth_getBlockByNumber", "0x1", False)
        machine.power_cut()

        console = self.apply(machine, self.mirror(NEW))
        self.assertIn(f"basalt_{NEW}", self.names(machine), console[-4000:])
        self.assertIn(f"basalt_{NEW}+3-0.efi", self.kernels(machine))
        machine.reboots = True
        machine.power_on()
        machine.wait_for_block(3)
        say(f"{NEW}: next block after {machine.seconds():.0f} s")
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), first)
        machine.wait_for("the blessing", lambda: f"basalt_{NEW}.efi" in self.kernels(machine))
        say(f"{NEW}: blessed after {machine.seconds():.0f} s")

    def test_a_wrong_signature_is_refused_and_a_broken_version_is_left(self):
        machine = self.flashed()
        console = self.apply(machine, self.mirror(BROKEN, tampered=True))
        self.assertEqual(self.kernels(machine), [f"basalt_{OLD}.efi"], console[-4000:])
        self.assertNotIn(f"basalt_{BROKEN}", self.names(machine))
        say("an update with a wrong signature is refused")

        console = self.apply(machine, self.mirror(BROKEN))
        self.assertIn(f"basalt_{BROKEN}+3-0.efi", self.kernels(machine), console[-4000:])
        machine.reboots = True
        machine.power_on()
        machine.wait_for_block(2, 5 * BOOT_S)
        say(f"{BROKEN} failed, {OLD} is back after {machine.seconds():.0f} s")
        self.assertIn(f"basalt_{BROKEN}+0-3.efi", self.kernels(machine))


if __name__ == "__main__":
    main()
