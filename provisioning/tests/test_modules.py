"""What the modules decide and compute, without root, disks or a host."""

import os
import struct
import sys
import unittest
import uuid
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "roles/basalt/library"))

import basalt_disk  # noqa: E402
import basalt_flash  # noqa: E402

SIZE = 1000


def disk(name, serial, wwn=None, **more):
    """As lsblk tells of it."""
    return {
        "name": name, "path": f"/dev/{name}", "type": "disk", "size": 2000, "ro": False,
        "serial": serial, "wwn": wwn, "model": "M", "mountpoints": [None], "log-sec": 512, **more,
    }  # fmt: skip


def empty(_):
    """Nothing is on any disk."""
    return [], True


class Choose(unittest.TestCase):
    def chosen(self, disks, name, overwrite="", look=empty):
        return basalt_disk.choose(disks, name, overwrite, SIZE, look)[0]["name"]

    def refused(self, said, disks, name, overwrite="", look=empty):
        with self.assertRaises(basalt_disk.Refused) as caught:
            self.chosen(disks, name, overwrite, look)
        self.assertIn(said, str(caught.exception))

    def test_a_disk_is_named_by_serial_or_wwn(self):
        disks = [
            disk("sda", "S1", "0x5000c500a1b2c3d4"),
            disk("nvme0n1", "S2", "eui.0025385b01234567"),
        ]
        for name, found in (
            ("S1", "sda"), ("naa.5000C500A1B2C3D4", "sda"), ("wwn-0x5000c500a1b2c3d4", "sda"),
            ("0025385b01234567", "nvme0n1"), (" S2 ", "nvme0n1"),
        ):  # fmt: skip
            self.assertEqual(self.chosen(disks, name), found)
        self.refused("no disk has this serial number or WWN", disks, "s1")
        self.refused("change from boot to boot", disks, "/dev/sda")
        self.refused("no disk is named", disks, " ")

    def test_what_is_in_use_is_refused_even_when_named_exactly(self):
        part = {"path": "/dev/sda1", "type": "part"}
        array = [{"path": "/dev/md0", "type": "raid1"}]
        for said, more in (
            ("mounted (/dev/sda1 on /mnt)", {"children": [{**part, "mountpoints": ["/mnt"]}]}),
            ("mounted (/dev/sda1 on /mnt)", {"children": [{**part, "mountpoint": "/mnt"}]}),
            ("swap is on it", {"mountpoints": ["[SWAP]"]}),
            ("/dev/md0 uses it", {"children": [{**part, "children": array}]}),
            ("no whole disk but a crypt", {"type": "crypt"}),
            ("read-only", {"ro": True}),
            ("read-only", {"ro": "1"}),
            ("999 bytes are less than the 1000", {"size": 999}),
            ("sectors have 4096 bytes", {"log-sec": 4096}),
        ):  # fmt: skip
            for overwrite in ("", "S1"):
                self.refused(said, [disk("sda", "S1", **more)], "S1", overwrite)

    def test_what_is_not_empty_is_refused_unless_named_exactly(self):
        disks = [disk("sda", "S1"), disk("sdb", "S2")]

        def used(_):
            return [{"type": "ext4", "usage": "filesystem", "label": "precious"}], False

        def member(_):
            return [{"type": "LVM2_member", "usage": "raid"}], False

        self.refused("not empty (ext4 'precious')", disks, "S1", look=used)
        self.refused("other disks may need", disks, "S1", look=member)
        self.refused("data of no known kind", disks, "S1", look=lambda _: ([], False))
        self.refused("overwrite 'S2' is /dev/sdb", disks, "S1", "S2", used)
        self.refused("no disk has this", disks, "S1", "S3", used)
        self.assertEqual(self.chosen(disks, "S1", "S1", used), "sda")

    def test_a_name_that_two_disks_have_is_refused(self):
        disks = [disk("sda", "S1", "0x5000c500a1b2c3d4"), disk("sdb", "S1")]
        self.refused("'S1' is ambiguous: /dev/sda", disks, "S1", "S1")
        self.assertEqual(self.chosen(disks, "0x5000c500a1b2c3d4"), "sda")
        self.refused("no disk has this", [disk("sda", None), disk("sdb", "")], "None")


class FreshTable(unittest.TestCase):
    def test_ids_are_fresh_and_both_copies_are_whole(self):
        rows = bytearray(128 * 128)
        rows[0:16], rows[16:32] = basalt_flash.ESP, b"E" * 16
        rows[128:144], rows[144:160] = b"R" * 16, b"r" * 16
        head = bytearray(92)
        head[:8] = b"EFI PART"
        struct.pack_into("<QIII", head, 72, 2, 128, 128, 0)
        size = 16 << 20
        at_head, at_end, end = basalt_flash.fresh_table(head, rows, 128, size)
        self.assertEqual(end + len(at_end), size)
        first, last = at_head[:92], at_end[-512:][:92]
        for header, place, other in ((first, 1, size // 512 - 1), (last, size // 512 - 1, 1)):
            self.assertEqual(struct.unpack_from("<QQ", header, 24), (place, other))
            summed = header[:16] + bytes(4) + header[20:]
            self.assertEqual(struct.unpack_from("<I", header, 16)[0], zlib.crc32(summed))
        self.assertEqual(at_head[512:], at_end[:-512])
        found = at_head[512:]
        self.assertEqual(struct.unpack_from("<I", first, 88)[0], zlib.crc32(found))
        self.assertNotEqual(found[16:32], b"E" * 16, "the boot partition's id is the image's")
        self.assertEqual(found[144:160], b"r" * 16, "the root's id has to stay")
        self.assertEqual(uuid.UUID(bytes_le=first[56:72]).version, 4)
        self.assertLess(struct.unpack_from("<Q", first, 48)[0] * 512, end)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    unittest.main(verbosity=1)
