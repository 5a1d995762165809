#!/usr/bin/python
"""Writes an image to a disk, reads it back past the cache, and makes the disk one of its own.

1. write the image  2. read it back and compare its SHA-256  3. fresh ids, table to the disk's end
4. the host's config onto the boot partition  5. read that back
"""

import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
import uuid
import zlib

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: basalt_flash
short_description: Writes a Basalt image to a disk and reads it back
description:
  - Writes the unpacked image to the disk and compares what is read back with its SHA-256.
  - Gives the disk and its boot partition ids of their own and the partition table the disk's size.
  - Puts the host's config on the boot partition.
  - Everything that was on the disk is lost; M(basalt_disk) decides whether that may be.
options:
  packed:
    description: The image, packed by gzip, on the host.
    type: path
    required: true
  bytes:
    description: Size of the unpacked image.
    type: int
    required: true
  sha256:
    description: Of the unpacked image.
    type: str
    required: true
  device:
    description: The disk.
    type: path
    required: true
  config:
    description: Text of basalt.toml. Empty means none.
    type: str
    default: ""
author:
  - The Basalt authors
"""

EXAMPLES = r"""
- name: Write the image
  basalt_flash:
    packed: /tmp/basalt.raw.gz
    bytes: 1145044992
    sha256: "{{ sum }}"
    device: /dev/nvme0n1
"""

RETURN = r"""
disk_id:
  description: The disk's fresh id.
  returned: changed
  type: str
"""

PIECE = 4 << 20
SECTOR = 512
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le
CONFIG = "loader/basalt/basalt.toml"


class Failed(Exception):
    """What went wrong."""


def write(packed, device, size, wanted):
    """Unpacks onto the disk; nothing is left in the cache when this ends."""
    digest, done = hashlib.sha256(), 0
    # O_EXCL: refused where the disk is mounted or held. Without it a mistake would cost a disk.
    out = os.open(device, os.O_WRONLY | os.O_EXCL)
    try:
        with gzip.open(packed, "rb") as image:
            while piece := image.read(PIECE):
                digest.update(piece)
                done += len(piece)
                if done > size:
                    raise Failed(f"{packed} unpacks to more than {size} bytes")
                view = memoryview(piece)
                while view:
                    view = view[os.write(out, view) :]
        os.fsync(out)
    finally:
        os.close(out)
    if (done, digest.hexdigest()) != (size, wanted):
        raise Failed(f"{packed} was damaged on its way: {done} bytes, SHA-256 {digest.hexdigest()}")


def uncached(device):
    """Makes the next reads come from the disk."""
    disk = os.open(device, os.O_RDONLY)
    os.fsync(disk)
    os.posix_fadvise(disk, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(disk)
    # Also for a block device whose pages somebody else holds.
    subprocess.run(["blockdev", "--flushbufs", device], capture_output=True, check=False)


def verify(device, size, wanted):
    """Holds what lies on the disk against the image's sum."""
    uncached(device)
    digest, left = hashlib.sha256(), size
    with open(device, "rb", buffering=0) as disk:
        while left:
            piece = disk.read(min(PIECE, left))
            if not piece:
                raise Failed(f"{device} ends {left} bytes before the image does")
            digest.update(piece)
            left -= len(piece)
    if digest.hexdigest() != wanted:
        raise Failed(f"{device}: what was read back has SHA-256 {digest.hexdigest()}, not {wanted}")


def read_table(disk):
    """Header and rows of the partition table at the disk's head."""
    disk.seek(SECTOR)
    head = bytearray(disk.read(92))
    summed = bytes(head[:16]) + bytes(4) + bytes(head[20:])
    if head[:8] != b"EFI PART" or struct.unpack_from("<I", head, 16)[0] != zlib.crc32(summed):
        raise Failed("the image has no partition table")
    first, count, size, crc = struct.unpack_from("<QIII", head, 72)
    disk.seek(first * SECTOR)
    rows = bytearray(disk.read(count * size))
    if zlib.crc32(rows) != crc:
        raise Failed("the image's partition table is damaged")
    return head, rows, size


def fresh_table(head, rows, row_bytes, disk_bytes):
    """The table with ids of its own, to the disk's end: what is at its head, what at its end."""
    last = disk_bytes // SECTOR - 1
    sectors = -(-len(rows) // SECTOR)
    for at in range(0, len(rows), row_bytes):
        if rows[at : at + 16] == ESP:
            rows[at + 16 : at + 32] = uuid.uuid4().bytes_le
    head[56:72] = uuid.uuid4().bytes_le
    struct.pack_into("<Q", head, 48, last - sectors - 1)
    struct.pack_into("<I", head, 88, zlib.crc32(rows))

    def header(here, other, rows_at):
        own = bytearray(head)
        struct.pack_into("<QQ", own, 24, here, other)
        struct.pack_into("<Q", own, 72, rows_at)
        struct.pack_into("<I", own, 16, 0)
        struct.pack_into("<I", own, 16, zlib.crc32(own))
        return bytes(own).ljust(SECTOR, b"\0")

    rows = bytes(rows).ljust(sectors * SECTOR, b"\0")
    at_head = header(1, last, 2) + rows
    at_end = rows + header(last, 1, last - sectors)
    return at_head, at_end, (last - sectors) * SECTOR


def own_ids(device):
    """Two disks with one image must not be taken for each other. Gives id and boot partition."""
    with open(device, "r+b", buffering=0) as disk:
        size = disk.seek(0, os.SEEK_END)
        head, rows, row_bytes = read_table(disk)
        at_head, at_end, end = fresh_table(head, rows, row_bytes, size)
        # The copy first: a cut between the two leaves one that is whole.
        for place, part in ((end, at_end), (SECTOR, at_head)):
            disk.seek(place)
            disk.write(part)
            os.fsync(disk.fileno())
    uncached(device)
    with open(device, "rb", buffering=0) as disk:
        for place, part in ((end, at_end), (SECTOR, at_head)):
            disk.seek(place)
            if disk.read(len(part)) != part:
                raise Failed(f"{device}: the partition table differs from what was written")
        head, rows, row_bytes = read_table(disk)
    for at in range(0, len(rows), row_bytes):
        if rows[at : at + 16] == ESP:
            first, last = struct.unpack_from("<QQ", rows, at + 32)
            esp = (first * SECTOR, (last + 1 - first) * SECTOR)
            return str(uuid.UUID(bytes_le=bytes(head[56:72]))), esp
    raise Failed("the image has no boot partition")


def run(*command):
    """A program that must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")


def put_config(device, esp, text):
    """Writes the config to the boot partition and reads it back: by mtools, else by a mount."""
    if shutil.which("mcopy"):
        copy_config(device, esp[0], text)
    else:
        mount_config(device, esp, text)


def copy_config(device, start, text):
    """For kernels that have no file system of this kind, too."""
    volume, depth = f"{device}@@{start}", CONFIG.split("/")
    for end in range(1, len(depth)):
        # It is there already, or the copy fails below.
        subprocess.run(
            ["mmd", "-D", "s", "-i", volume, "::" + "/".join(depth[:end])],
            capture_output=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="basalt-config-") as place:
        source, found = os.path.join(place, "source"), os.path.join(place, "found")
        with open(source, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        run("mcopy", "-o", "-i", volume, source, "::" + CONFIG)
        uncached(device)
        run("mcopy", "-o", "-i", volume, "::" + CONFIG, found)
        require_same(found, text)


def require_same(path, text):
    """The config as it was read back."""
    with open(path, encoding="utf-8", newline="") as file:
        if file.read() != text:
            raise Failed(f"{CONFIG} differs from what was written")


def mount_config(device, esp, text):
    """Through the kernel, with a mount of its own for reading back."""
    start, size = esp
    options = f"loop,offset={start},sizelimit={size}"
    with tempfile.TemporaryDirectory(prefix="basalt-esp-") as place:
        path = os.path.join(place, CONFIG)
        run("mount", "-t", "vfat", "-o", options, device, place)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        finally:
            run("umount", place)
        uncached(device)
        run("mount", "-t", "vfat", "-o", options + ",ro", device, place)
        try:
            require_same(path, text)
        finally:
            run("umount", place)


def main():
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "packed": {"type": "path", "required": True},
            "bytes": {"type": "int", "required": True},
            "sha256": {"type": "str", "required": True},
            "device": {"type": "path", "required": True},
            "config": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    if module.check_mode:
        module.exit_json(changed=True)
    device = wanted["device"]
    try:
        write(wanted["packed"], device, wanted["bytes"], wanted["sha256"])
        verify(device, wanted["bytes"], wanted["sha256"])
        disk_id, esp = own_ids(device)
        if wanted["config"]:
            put_config(device, esp, wanted["config"])
        # The rescue system's own view; it is not needed for the boot.
        subprocess.run(["blockdev", "--rereadpt", device], capture_output=True, check=False)
    except (Failed, OSError, EOFError, zlib.error) as failed:
        module.fail_json(msg=f"{device}: {failed}; the disk is not fit to boot, write it again")
    module.exit_json(changed=True, disk_id=disk_id)


if __name__ == "__main__":
    main()
