#!/usr/bin/python
"""Finds the one disk that a serial number or WWN means, and refuses what may not be written.

Only reads: `lsblk` and `wipefs` tell what there is. The same refusals as `basalt install`.
"""

import json
import os
import re
import subprocess

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: basalt_disk
short_description: Finds a disk by serial number or WWN and refuses what may not be written
description:
  - Looks for the whole disk that has this serial number or world-wide name.
  - Refuses one that is mounted, in use, read-only, too small or named like another one, and one
    that is not empty unless it is named a second time.
  - Never changes anything.
options:
  name:
    description: Serial number or WWN, as C(lsblk -o NAME,SERIAL,WWN) shows.
    type: str
    required: true
  overwrite:
    description: The same disk again, where what is on it may go.
    type: str
    default: ""
  bytes:
    description: Size that the disk must have.
    type: int
    required: true
author:
  - The Basalt authors
"""

EXAMPLES = r"""
- name: Find the disk
  basalt_disk:
    name: S4EVNX0R123456
    bytes: 2147483648
"""

RETURN = r"""
device:
  description: The disk's node.
  returned: success
  type: str
content:
  description: What is on it, in words.
  returned: success
  type: str
"""

COLUMNS = "NAME,PATH,TYPE,SIZE,RO,SERIAL,WWN,MODEL,MOUNTPOINTS,LOG-SEC"
COLUMNS_OLD = "NAME,PATH,TYPE,SIZE,RO,SERIAL,WWN,MODEL,MOUNTPOINT,LOG-SEC"
# Parts of arrays that libblkid does not call "raid".
MEMBERS = ("bcache", "ceph_bluestore", "drbd")
BLANK_BYTES = 1 << 20


class Refused(Exception):
    """Why a disk may not be written, with the remedy."""


def plain_wwn(name):
    """A WWN without the words that tools put before it."""
    return re.sub(r"^(wwn-|nvme-)?(naa\.|eui\.|uuid\.|0x)?", "", name.strip().lower())


def is_called(disk, name):
    """Whether this name is the disk's serial number or WWN."""
    name = name.strip()
    names = [text.strip() for text in (disk.get("serial"), disk.get("wwn")) if text]
    wanted = plain_wwn(name)
    return bool(name) and any(
        name == own or (len(wanted) >= 16 and plain_wwn(own) == wanted) for own in names
    )


def called(disk):
    """For messages."""
    serial, wwn = disk.get("serial") or "none", disk.get("wwn") or "none"
    return f"{disk['path']} (serial {serial}, WWN {wwn})"


def below(device):
    """A device and all that is made of it."""
    yield device
    for child in device.get("children") or []:
        yield from below(child)


def mounts(device):
    """Where it is mounted; older versions of lsblk tell only one place."""
    return [place for place in device.get("mountpoints") or [device.get("mountpoint")] if place]


def one_called(disks, what, name):
    """The one disk of that name."""
    if name.startswith("/dev/"):
        raise Refused(
            f"{what} '{name}': such names change from boot to boot; name its serial number or WWN"
        )
    found = [disk for disk in disks if is_called(disk, name)]
    if not found:
        known = ", ".join(called(disk) for disk in disks) or "none"
        raise Refused(f"{what} '{name}': no disk has this serial number or WWN; there are {known}")
    if len(found) > 1:
        each = " and ".join(called(disk) for disk in found)
        raise Refused(
            f"{what} '{name}' is ambiguous: {each}; name one by what only it has, "
            "or take the others out; nothing was written"
        )
    return found[0]


def barred(disk, size):
    """What nobody can overrule."""
    if disk["type"] != "disk":
        yield f"it is no whole disk but a {disk['type']}; choose the disk below it"
    places = [f"{part['path']} on {place}" for part in below(disk) for place in mounts(part)]
    swaps = [place for place in places if place.endswith(" on [SWAP]")]
    if swaps:
        yield f"swap is on it ({', '.join(swaps)}); switch it off"
    places = [place for place in places if place not in swaps]
    if places:
        yield f"it is mounted ({', '.join(places)}); unmount it"
    users = [part for part in below(disk) if part["type"] not in ("disk", "part")]
    if users:
        yield f"{', '.join(part['path'] for part in users)} uses it; stop that"
    if disk["ro"] in (True, "1", 1):
        yield "it is read-only; lift its write protection"
    if int(disk["size"]) < size:
        yield f"{disk['size']} bytes are less than the {size} that are needed"
    if int(disk["log-sec"]) != 512:
        yield (
            f"its sectors have {disk['log-sec']} bytes and the image is made for 512; "
            "install from a USB stick, which can do that"
        )


def choose(disks, name, overwrite, size, look):
    """The disk and what is on it, or a refusal. `look` tells signatures and whether it is blank."""
    if not name.strip():
        raise Refused("no disk is named; name one by serial number or WWN")
    disk = one_called(disks, "disk", name)
    why = list(barred(disk, size))
    if why:
        raise Refused(f"disk '{name}', {called(disk)}: {'; '.join(why)}; nothing was written")
    signatures, is_blank = look(disk)
    labels = [" " + repr(one["label"]) if one.get("label") else "" for one in signatures]
    what = [f"{one.get('type')}{label}" for one, label in zip(signatures, labels)]
    content = ", ".join(dict.fromkeys(what)) or ("empty" if is_blank else "data of no known kind")
    if overwrite:
        other = one_called(disks, "overwrite", overwrite)
        if other["path"] != disk["path"]:
            raise Refused(
                f"overwrite '{overwrite}' is {called(other)}, not the disk '{name}' to write to; "
                "nothing was written"
            )
    elif content != "empty":
        member = any(
            s.get("usage") == "raid"
            or str(s.get("type")).endswith("_member")
            or s.get("type") in MEMBERS
            for s in signatures
        )
        array = ", part of an array that other disks may need" if member else ""
        raise Refused(
            f"disk '{name}', {called(disk)}: it is not empty ({content}{array}); choose an empty "
            f"one, or allow it by naming '{name}' as the disk to overwrite too; nothing was written"
        )
    return disk, content


def output(*command):
    """What a program printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"{' '.join(command)}: {done.stderr.strip()}; nothing was written")
    return done.stdout


def lsblk():
    """All block devices as trees; older versions know fewer columns."""
    try:
        text = output("lsblk", "--json", "--bytes", "--output", COLUMNS)
    except Refused:
        text = output("lsblk", "--json", "--bytes", "--output", COLUMNS_OLD)
    return [
        device
        for device in json.loads(text)["blockdevices"]
        if device["type"] != "loop" and not device["name"].startswith(("zram", "ram", "sr", "fd"))
    ]


def look(disk):
    """Signatures on the disk and its partitions, and whether both its ends are zero."""
    found = []
    for part in below(disk):
        columns = "DEVICE,TYPE,USAGE,LABEL"
        text = output("wipefs", "--json", "--no-act", "--output", columns, part["path"])
        found += json.loads(text)["signatures"] if text.strip() else []
    size = int(disk["size"])
    with open(disk["path"], "rb") as device:
        ends = device.read(BLANK_BYTES)
        device.seek(max(0, size - BLANK_BYTES))
        ends += device.read(BLANK_BYTES)
    return found, not any(ends)


def main():
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "overwrite": {"type": "str", "default": ""},
            "bytes": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        disk, content = choose(
            lsblk(), wanted["name"], wanted["overwrite"], wanted["bytes"], look
        )
        # The kernel's own word: nobody has mounted it or made a device of it.
        os.close(os.open(disk["path"], os.O_RDONLY | os.O_EXCL))
    except (Refused, OSError, ValueError, KeyError) as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(changed=False, device=disk["path"], content=content, model=disk.get("model"))


if __name__ == "__main__":
    main()
