"""Updates as an operator without a login lives them: a request on the boot partition, a mirror.

The images come from tests/image/images, which tests/image/run calls.
"""

import hashlib
import re
import shutil
import time
import tomllib
from pathlib import Path

import case
from case import CONFIG, OPEN, ImageCase, main, say
from machine import BOOT_S, TOP, Machine
from mirror import Mirror

IMAGES = TOP / "build/tests/update"
OLD, NEW, BROKEN, SLOW = "0.9.1", "0.9.2", "0.9.3", "0.9.4"
REQUEST, DONE = "loader/basalt/request.toml", "loader/basalt/request.done.toml"
LOG = "loader/basalt/request.log"
FORMAT = "/lib/basalt/format"


class Update(ImageCase):
    @classmethod
    def setUpClass(cls) -> None:
        if not (IMAGES / SLOW).exists():
            raise LookupError(f"{IMAGES} is not whole: run 'tests/image/images update' first")
        super().setUpClass()

    def mirror(self, version: str, tampered: bool = False) -> str:
        """The URL of a mirror that has one version."""
        folder = IMAGES / version
        if tampered:
            folder = self.folder / "tampered"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(IMAGES / version, folder)
            (folder / f"basalt_{version}.raw").unlink(missing_ok=True)
            with open(folder / "SHA256SUMS", "a") as sums:
                sums.write("\n")
        mirror = Mirror(folder)
        self.addCleanup(mirror.close)
        return mirror.url

    def flashed(self, more: str = "") -> Machine:
        """A machine with the first version, which reaches the mirrors."""
        case.IMAGE = IMAGES / OLD / f"basalt_{OLD}.raw"
        machine = self.machine(config=OPEN + more, disk_bytes=5 << 30)
        machine.reboots = True
        machine.restricted = False
        return machine

    def ask(self, machine: Machine, request: str) -> None:
        """Writes a request on the boot partition, and switches the machine on."""
        machine.power_cut()
        machine.put_on_esp(REQUEST, request)
        machine.power_on()

    def outcome(self, machine: Machine, request: str, limit_s: float = 2 * BOOT_S) -> dict:
        """Waits until a request is done, one way or another."""

        def done():
            try:
                found = tomllib.loads(machine.esp_text(DONE))
            except tomllib.TOMLDecodeError:
                return None
            return found if found.get("request") == request else None

        found = machine.wait_for(f"an outcome of {request!r}", done, limit_s, every_s=2)
        say(f"{request.strip()}: {found['result']} after {machine.seconds():.0f} s")
        return found

    def running(self, machine: Machine) -> str:
        """The version on the status page that was drawn last."""
        found = re.findall(r"Basalt (\d+\.\d+\.\d+)  ", machine.console())
        return found[-1] if found else ""

    def kernels(self, machine: Machine) -> list[str]:
        """Unified kernel images on the boot partition."""
        return sorted(Path(line).name for line in machine.esp_list("EFI/Linux").split())

    def names(self, machine: Machine) -> list[str]:
        """Of the slots' partitions."""
        names = [entry["name"] for entry in machine.partitions()]
        return [name for name in names if name not in ("esp", "data")]

    def content(self, machine: Machine, partition: dict) -> str:
        """Of a partition, as a hash."""
        with open(machine.disk, "rb") as disk:
            disk.seek(partition["start"])
            digest = hashlib.sha256()
            for _ in range(partition["size"] >> 20):
                digest.update(disk.read(1 << 20))
        return digest.hexdigest()

    def test_updates_and_the_way_back_by_request(self):
        machine = self.flashed()
        self.cut_while_the_slot_is_written(machine)
        first = self.update_is_blessed(machine)
        self.wrong_signature_is_refused(machine)
        self.state_of_a_newer_version_is_not_touched(machine)

        self.ask(machine, "rollback = true\n")
        done = self.outcome(machine, "rollback = true\n")
        self.assertEqual(done["result"], "done", done)
        self.assertIn(f"basalt_{NEW}+0.efi", self.kernels(machine))
        machine.wait_for(f"{OLD} again", lambda: self.running(machine) == OLD)
        height = machine.wait_for_block(2)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), first)
        say(f"rolled back to {OLD}, block {height} after {machine.seconds():.0f} s")

    def cut_while_the_slot_is_written(self, machine: Machine) -> None:
        """The power goes in the middle of an update."""
        spare = [entry for entry in machine.partitions() if entry["name"] == "_empty"][0]

        def begun():
            with open(machine.disk, "rb") as disk:
                disk.seek(spare["start"])
                return any(disk.read(1 << 20))

        self.ask(machine, f'update = "{self.mirror(NEW)}"\n')
        machine.wait_for("the other slot's first bytes", begun, 2 * BOOT_S, every_s=0.05)
        machine.power_cut()
        say("the power went while the slot was written")
        self.assertEqual(self.kernels(machine), [f"basalt_{OLD}.efi"])
        self.assertIn("request.running.toml", machine.esp_list("loader/basalt"))

    def update_is_blessed(self, machine: Machine) -> object:
        """After the cut the old version tells of it, takes the next request, and comes back new."""
        request = f'update = "{self.mirror(NEW)}"\nversion = "{NEW}"\n'
        self.ask(machine, request)
        machine.wait_for_block(1)
        first = machine.call("eth_getBlockByNumber", "0x1", False)
        done = self.outcome(machine, request)
        self.assertEqual(done["result"], "done", done)
        log = machine.esp_text(LOG).splitlines()
        self.assertEqual(len(log), 2, log)
        self.assertIn(": interrupted: the machine went off while", log[0])
        blessed = f"basalt_{NEW}.efi"
        machine.wait_for("the blessing", lambda: blessed in self.kernels(machine), 2 * BOOT_S)
        say(f"{NEW}: blessed after {machine.seconds():.0f} s")
        machine.wait_for(f"the page of {NEW}", lambda: self.running(machine) == NEW)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), first)
        self.assertEqual(self.kernels(machine), [f"basalt_{OLD}.efi", blessed])
        return first

    def wrong_signature_is_refused(self, machine: Machine) -> None:
        """And the slot to go back to is not emptied for it."""
        machine.power_cut()
        spare = machine.partition(f"basalt_{OLD}")
        before, names = self.content(machine, spare), self.names(machine)
        request = f'update = "{self.mirror(BROKEN, tampered=True)}"\n'
        self.ask(machine, request)
        done = self.outcome(machine, request)
        self.assertEqual(done["result"], "refused", done)
        self.assertIn("not signed by a key of this machine", done["reason"])
        machine.wait_for("the reason on the console", lambda: "not signed" in machine.console())
        machine.wait_for_block(1)
        machine.power_cut()
        self.assertEqual(self.names(machine), names)
        self.assertEqual(self.content(machine, spare), before)
        self.assertEqual(self.kernels(machine), [f"basalt_{OLD}.efi", f"basalt_{NEW}.efi"])
        say("an update with a wrong signature is refused, the other slot is as it was")

    def state_of_a_newer_version_is_not_touched(self, machine: Machine) -> None:
        """Neither by the node, nor by a way back to a version that could not read it."""
        machine.power_cut()
        machine.data_put(FORMAT, "2\n")
        request = "rollback = true  # too far\n"
        self.ask(machine, request)
        done = self.outcome(machine, request)
        self.assertEqual(done["result"], "refused", done)
        self.assertIn("reads state up to format 1, the data on this machine has format 2",
                      done["reason"])  # fmt: skip
        machine.wait_for("maintenance", lambda: "has format 2, this version" in machine.console())
        machine.power_cut()
        machine.data_put(FORMAT, "1\n")
        say("state of a newer format: no node, no way back, nothing touched")

    def test_a_version_whose_node_fails_is_left_again(self):
        reason = r"the node failed again and again: basalt\.service: .*Read-only file system"
        self.is_left_again(BROKEN, reason)

    def test_a_version_that_is_slow_is_left_again(self):
        self.is_left_again(SLOW, r"(the log|an interval) takes [\d.]+ ms, above [\d.]+ ms")

    def is_left_again(self, version: str, reason: str) -> None:
        """A version is tried three times; then the one before is back and says why."""
        machine = self.flashed()
        request = f'update = "{self.mirror(version)}"\n'
        self.ask(machine, request)
        done = self.outcome(machine, request)
        self.assertEqual(done["result"], "done", done)
        spent = f"basalt_{version}+0-3.efi"
        machine.wait_for("the last try", lambda: spent in self.kernels(machine), 5 * BOOT_S)
        back = rf"Basalt {OLD}  (?s:.*){version} went back: "
        machine.wait_for(
            "the version before, with the reason",
            lambda: re.search(back, machine.console().rpartition(f"Basalt {version}  ")[2]),
            5 * BOOT_S,
            every_s=3,
        )
        say(f"{version} was left, {OLD} is back after {machine.seconds():.0f} s")
        machine.wait_for_block(2)
        machine.power_cut()
        refused = machine.data_text("/lib/basalt-health/refused.json")
        self.assertIn(f'"{version}"', refused)
        self.assertRegex(refused, reason)
        say(refused.replace("\n", " "))

    def test_updates_by_itself_as_the_config_says(self):
        at = time.strftime("%H:%M", time.gmtime())
        source = f'[update]\nsource = "{self.mirror(NEW)}"\nat = "{at}"\n'
        machine = self.flashed(source + 'apply = "check"\n')
        machine.power_on()
        machine.wait_for_block(1)
        first = machine.call("eth_getBlockByNumber", "0x1", False)
        told = f"{NEW} is available"
        machine.wait_for(f"{told!r} on the console", lambda: told in machine.console(), 2 * BOOT_S)
        self.assertIn(f'basalt_update_available{{version="{NEW}"}} 1', machine.metrics())
        self.assertEqual(self.kernels(machine), [f"basalt_{OLD}.efi"])
        say(f"{told}, after {machine.seconds():.0f} s")

        # A later time of day, because this one's look is done, and in this minute it was.
        machine.power_cut()
        at = time.strftime("%H:%M", time.gmtime(time.time() + 60))
        source = f'[update]\nsource = "{self.mirror(NEW)}"\nat = "{at}"\n'
        machine.put_on_esp(CONFIG, OPEN + source + 'apply = "automatic"\n')
        machine.power_on()
        blessed = f"basalt_{NEW}.efi"
        machine.wait_for("the blessing", lambda: blessed in self.kernels(machine), 4 * BOOT_S)
        say(f"{NEW}: applied by itself and blessed after {machine.seconds():.0f} s")
        machine.wait_for_block(1)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), first)

    def test_reset_by_request_needs_the_hosts_name(self):
        machine = self.flashed()
        request = 'reset = "another"\n'
        self.ask(machine, request)
        done = self.outcome(machine, request)
        self.assertEqual(done["result"], "refused", done)
        name = re.search(r'"another" is not this host\'s name, "([^"]+)"', done["reason"])
        self.assertTrue(name, done)
        machine.wait_for_block(1)
        first = machine.call("eth_getBlockByNumber", "0x1", False)
        request = f'reset = "{name[1]}"\n'
        self.ask(machine, request)
        done = self.outcome(machine, request)
        self.assertEqual(done["result"], "done", done)

        def anew():
            try:
                found = machine.call("eth_getBlockByNumber", "0x1", False)
            except (OSError, ValueError):
                return None
            return found if found and found != first else None

        machine.wait_for("another first block", anew, 2 * BOOT_S)
        say(f"reset: another chain after {machine.seconds():.0f} s")


if __name__ == "__main__":
    main()
