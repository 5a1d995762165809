"""The initrd's functions about boot entries, tried on a folder: no machine is started for it."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from machine import TOP

COMMON = TOP / "image/mkosi.images/initrd/mkosi.extra/usr/lib/basalt/common"


class Entries(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.esp = Path(folder.name)
        (self.esp / "EFI/Linux").mkdir(parents=True)

    def put(self, *names: str) -> None:
        """Entries with these names, and no others."""
        for old in (self.esp / "EFI/Linux").iterdir():
            old.unlink()
        for name in names:
            (self.esp / "EFI/Linux" / name).write_text(name)

    def names(self) -> list[str]:
        """What lies there now."""
        return sorted(path.name for path in (self.esp / "EFI/Linux").iterdir())

    def bash(self, *call: str) -> str:
        """Calls one function."""
        command = ["bash", "-uc", '. "$0"; "$@"', str(COMMON), *call]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.stderr, "")
        return done.stdout.strip()

    def script(self, text: str, **environment: str) -> str:
        """Runs commands after the functions were read."""
        done = subprocess.run(
            ["bash", "-euc", f'. "$0"; {text}', str(COMMON)],
            env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.strip()

    def test_what_the_boot_loader_left_is_read(self):
        name = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
        value = "7E0F2C0A-51C4-4C0E-9A53-0B1D8B1F2A64"
        # Attributes, then UTF-16 with its end.
        content = b"\x06\0\0\0" + f"{value}\0".encode("utf-16-le")
        (self.esp / name).write_bytes(content)
        call = 'LOADER=$FOLDER; loader LoaderDevicePartUUID; booted_esp_id; loader Missing'
        told = self.script(call, FOLDER=str(self.esp))
        self.assertEqual(told.split(), [value, value.lower()])

    def test_partitions_are_told_apart_by_disk_and_label(self):
        """Spaces, empty fields, two disks of one content, and what is no partition."""
        lines = [
            'NAME="/dev/vda" PKNAME="" PARTUUID="" PARTLABEL=""',
            'NAME="/dev/vda1" PKNAME="/dev/vda" PARTUUID="aa-1" PARTLABEL="esp"',
            'NAME="/dev/mapper/root" PKNAME="/dev/vda2" PARTUUID="" PARTLABEL=""',
            'NAME="/dev/vda6" PKNAME="/dev/vda" PARTUUID="aa-6" PARTLABEL="data"',
            'NAME="/dev/vda7" PKNAME="/dev/vda" PARTUUID="aa-7" PARTLABEL="data"',
            'NAME="/dev/sdb1" PKNAME="/dev/sdb" PARTUUID="aa-1" PARTLABEL="esp"',
            'NAME="/dev/sdb2" PKNAME="/dev/sdb" PARTUUID="bb-2" PARTLABEL="Linux swap"',
            'NAME="/dev/sdb3" PKNAME="/dev/sdb" PARTUUID="bb-3" PARTLABEL=""',
        ]
        fake = self.esp / "lsblk"
        fake.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
        fake.chmod(0o755)
        path = f"{self.esp}:{os.environ['PATH']}"
        told = self.script(
            'read_partitions; echo "${parts[*]}"; echo "${part[/dev/vda data]}"; '
            'echo "${part[/dev/sdb Linux swap]} ${part_id[/dev/sdb3]} ${part_disk[/dev/sdb1]}"; '
            'echo "none: ${part[/dev/sdb data]:-}"',
            PATH=path,
        )
        self.assertEqual(
            told.splitlines(),
            ["/dev/vda1 /dev/vda6 /dev/vda7 /dev/sdb1 /dev/sdb2 /dev/sdb3", "/dev/vda6",
             "/dev/sdb2 bb-3 /dev/sdb", "none:"],
        )  # fmt: skip
        # Two disks have that boot partition: the one with the data counts.
        told = self.script(
            'say() { :; }; booted_esp_id() { echo aa-1; }; udevadm() { :; }; '
            'find_boot_disk; echo "$disk $esp"',
            PATH=path,
        )
        self.assertEqual(told, "/dev/vda /dev/vda1")

    def test_a_name_tells_version_and_tries(self):
        for name, stem, left in [
            ("basalt_0.1.0.efi", "basalt_0.1.0", ""),
            ("basalt_0.1.0+3.efi", "basalt_0.1.0", "3"),
            ("basalt_0.1.0+2-1.efi", "basalt_0.1.0", "2"),
            ("basalt_0.1.0+0-3.efi", "basalt_0.1.0", "0"),
            ("basalt_0.1.0+git+1-1.efi", "basalt_0.1.0+git", "1"),
            ("basalt_0.1.0+git.efi", "basalt_0.1.0+git", ""),
        ]:
            self.assertEqual(self.bash("stem", name), stem)
            self.assertEqual(self.bash("tries_left", f"/esp/EFI/Linux/{name}"), left)
        # As the loader tells it.
        self.assertEqual(self.bash("stem", "\\EFI\\Linux\\basalt_2+0-1.efi"), "basalt_2")

    def test_others_are_those_that_the_boot_loader_would_take(self):
        self.put("basalt_1+0-3.efi", "basalt_2.efi", "basalt_3+1-2.efi", "debian.efi")
        good = lambda stem: self.bash("good_others", str(self.esp), stem).split()  # noqa: E731
        self.assertEqual(good("basalt_2"), ["basalt_3"])
        self.assertEqual(good("basalt_3"), ["basalt_2"])
        self.assertEqual(good("basalt_1"), ["basalt_2", "basalt_3"])
        self.put("basalt_2.efi")
        self.assertEqual(good("basalt_2"), [])

    def test_a_corrupted_block_is_found_in_a_long_log(self):
        # More than a pipe holds comes after it: whoever stops reading there must not be misled.
        line = "device-mapper: verity: 254:4: data block 0 is corrupted"
        rest = "for at in {1..20000}; do echo the kernel says more; done"
        dmesg = 'dmesg() { echo "$FIRST"; %s; }' % rest
        script = f'set -o pipefail; . "$0"; {dmesg}; corruption_was_found'
        for first, code in [(line, 0), ("verity: all is well", 1)]:
            command = ["bash", "-uc", script, str(COMMON)]
            done = subprocess.run(
                command, env=os.environ | {"FIRST": first}, capture_output=True, check=False
            )
            self.assertEqual(done.returncode, code, first)

    def test_a_slot_is_left_with_the_reason(self):
        self.put("basalt_1.efi", "basalt_2+1-2.efi")
        self.bash("count_entry", str(self.esp), "basalt_1", "0-1", "block 7 is corrupted")
        self.bash("count_entry", str(self.esp), "basalt_2", "0-1", "not mounted")
        self.assertEqual(self.names(), ["basalt_1+0-1.efi", "basalt_2+0-1.efi"])
        left = (self.esp / "loader/basalt/left.txt").read_text()
        self.assertEqual(left, "basalt_2: not mounted\n")
        self.assertEqual((self.esp / "EFI/Linux/basalt_1+0-1.efi").read_text(), "basalt_1.efi")

    def test_a_slot_that_is_taken_all_the_same_is_not_left_for_ever(self):
        self.put("basalt_1.efi", "basalt_2.efi")
        script = '. "$0"; until ! leave_entry "$1" basalt_1 bad; do :; done'
        subprocess.run(["bash", "-uc", script, str(COMMON), str(self.esp)], check=True, timeout=60)
        self.assertEqual(self.names(), ["basalt_1+0-5.efi", "basalt_2.efi"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
