"""The installer: from a USB stick to an NVMe, by the config and by typing; what it refuses."""

import hashlib
import json
from pathlib import Path

from case import CONFIG, ImageCase, OPEN, main, say
from machine import BOOT_S, Machine, tool

GIB = 1 << 30


def install(**keys: str) -> str:
    """The config's section for the installer."""
    return "[install]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())


def digest(path: Path) -> str:
    """Of all bytes of a disk."""
    with open(path, "rb") as disk:
        return hashlib.file_digest(disk, "sha256").hexdigest()


def table(path: Path) -> dict:
    """A disk's partition table."""
    return json.loads(tool("sfdisk", "--json", str(path)))["partitiontable"]


class Install(ImageCase):
    def stick(self, config: str, name: str = "stick") -> Machine:
        """A machine that is started from a stick with that config."""
        machine = self.machine(name, config=OPEN + config)
        machine.is_stick = True
        return machine

    def disk(self, machine: Machine, serial: str, name: str = "", driver: str = "nvme") -> Path:
        """Adds an empty disk to a machine."""
        name, size = name or serial, 3 * GIB
        path = machine.folder / f"{name}.raw"
        if not path.exists():
            path.touch()
            with open(path, "r+b") as disk:
                disk.truncate(size)
        machine.extra += [
            "-drive", f"file={path},format=raw,if=none,id={name},cache=writeback",
            "-device", f"{driver},drive={name},serial={serial}",
        ]  # fmt: skip
        return path

    def wait_until_off(self, machine: Machine) -> None:
        """Waits for the machine to switch itself off."""
        machine.wait_for_end("the machine switches itself off", BOOT_S)

    def test_installs_by_the_config_and_the_new_disk_boots_alone(self):
        stick = self.stick(install(disk="TARGET01", then="poweroff"))
        target = self.disk(stick, "TARGET01")
        stick.power_on()
        stick.wait_for("the end", lambda: "was read back" in stick.console())
        say(f"installed {stick.seconds():.0f} s after power-on")
        self.wait_until_off(stick)
        self.assertIn("before all others", stick.console(), "no boot entry")
        stick.power_cut()

        new, old = table(target), table(stick.disk)
        names = [part.get("name") for part in new["partitions"]]
        self.assertEqual(names[0], "esp")
        self.assertEqual(names[3:], ["_empty", "_empty"])
        self.assertNotEqual(new["id"], old["id"], "both disks have the same id")
        uuids = {part["name"]: part["uuid"] for part in old["partitions"]}
        self.assertNotEqual(new["partitions"][0]["uuid"], uuids["esp"], "the ESPs have one id")
        self.assertEqual(new["partitions"][1]["uuid"], uuids[names[1]], "the root's id is lost")
        self.assertIn("No errors detected", tool("sfdisk", "--verify", str(target)))

        entry = "Basalt on TARGET01".encode("utf-16-le")
        self.assertIn(entry, stick.variables.read_bytes(), "the firmware has no entry")

        # The stick is left in: nothing is installed a second time, and nothing restarts.
        named = install(disk="TARGET01", overwrite="TARGET01", then="poweroff")
        stick.put_on_esp(CONFIG, OPEN + named)
        before = digest(target)
        stick.power_on()
        stick.wait_for("no second time", lambda: "TARGET01 (nvme0n1) already." in stick.console())
        stick.power_cut()
        self.assertEqual(digest(target), before, "the disk was written to again")

        # Another config is another installation. The slots of both disks have the same ids, so this
        # goes wrong where the root is taken from the disk inside.
        stick.put_on_esp(CONFIG, OPEN + '[machine]\nhostname = "node-7"\n' + named)
        stick.power_on()
        stick.wait_for("the end", lambda: "was read back" in stick.console())
        self.wait_until_off(stick)
        stick.power_cut()
        names = [part["name"] for part in stick.partitions()]
        self.assertNotIn("data", names, "a data partition was made on the stick")

        node = Machine(self.folder / "node", None)
        self.machines.append(node)
        node.disk.unlink()
        target.rename(node.disk)
        node.nvme_serial = "TARGET01"
        at = f"{node.disk}@@{node.partition('esp')['start']}"
        config = tool("mtype", "-i", at, f"::{CONFIG}")
        self.assertIn('hostname = "node-7"', config)
        self.assertNotIn("[install]", config)
        node.power_on()
        node.wait_for_block(1)
        say(f"first block from the new disk alone: {node.seconds():.0f} s")
        node.power_cut()
        self.assertEqual(len([p for p in node.partitions() if p["name"] == "data"]), 1)

    def test_a_disk_that_is_not_empty_is_refused_until_it_is_named_exactly(self):
        stick = self.stick(install(disk="TARGET01", then="poweroff"))
        target = self.disk(stick, "TARGET01")
        tool("mkfs.ext4", "-q", "-L", "precious", str(target))
        before = digest(target)
        stick.power_on()
        stick.wait_for("the refusal", lambda: "it is not empty (ext4" in stick.console())
        stick.wait_for("the page", lambda: "BASALT INSTALLER" in stick.console(), 120)
        console = stick.console()
        self.assertIn("precious", console)
        self.assertIn("CANNOT be chosen: this system was booted from it", console)
        self.assertNotIn("login:", console)
        stick.power_cut()
        self.assertEqual(digest(target), before, "a refused disk was written to")

        named = install(disk="TARGET01", overwrite="TARGET01", then="poweroff")
        stick.put_on_esp(CONFIG, OPEN + named)
        stick.power_on()
        stick.wait_for("the end", lambda: "was read back" in stick.console())
        self.wait_until_off(stick)
        stick.power_cut()
        self.assertEqual(table(target)["partitions"][0]["name"], "esp")

    def test_two_disks_with_one_name_are_refused_and_a_third_is_chosen_on_the_serial_line(self):
        stick = self.stick(install(disk="TWIN", then="stay"))
        twins = [self.disk(stick, "TWIN", name, "virtio-blk-pci") for name in ("twin1", "twin2")]
        spare = self.disk(stick, "SPARE")
        before = [digest(twin) for twin in twins]
        stick.power_on()
        stick.wait_for("the refusal", lambda: '"TWIN" is ambiguous' in stick.console())
        asks = "Number or serial number of the disk:"
        stick.wait_for("the question", lambda: stick.console().rstrip().endswith(asks), 300)
        stick.type("TWIN")
        stick.wait_for("no", lambda: '2 disks are called "TWIN"' in stick.console(), 120)
        stick.wait_for("the question", lambda: stick.console().rstrip().endswith(asks), 120)
        # An interrupt is no way out.
        stick.type("\x03SPARE")
        sure = 'Type "yes" to install to SPARE'
        stick.wait_for("to be sure", lambda: sure in stick.console(), 120)
        stick.type("yes")
        stick.wait_for("the end", lambda: "Enter restarts" in stick.console())
        self.assertIn("was read back", stick.console())
        stick.type("")
        self.wait_until_off(stick)
        stick.power_cut()
        self.assertEqual([digest(twin) for twin in twins], before, "a twin was written to")
        self.assertEqual(table(spare)["partitions"][0]["name"], "esp")


if __name__ == "__main__":
    main()
