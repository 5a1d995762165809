"""The debug image lets its owner in by key, and nobody else; the release image has no login at all.

It comes from tests/image/images, which tests/image/run calls; the release image is compared with it.
"""

import json
import re
import socket
import subprocess
from pathlib import Path

from case import CONFIG, IMAGE, OPEN, ImageCase, main, say
from machine import TOP, Machine, tool

IMAGES = TOP / "build/tests/debug"


def debug_image() -> Path:
    """The whole disk that tests/image/images left."""
    parts = (".esp.raw", ".root-x86-64")
    found = [
        path
        for path in IMAGES.glob("basalt-debug_*.raw")
        if not any(part in path.name for part in parts)
    ]
    if len(found) != 1:
        raise LookupError(f"{IMAGES} has no image: run 'tests/image/images debug' first")
    return found[0]


class DebugImage(ImageCase):
    def key(self, name: str) -> Path:
        """A new key pair."""
        path = self.folder / name
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
        subprocess.run(command, check=True)
        return path

    def ssh(self, machine: Machine, key: Path, command: str) -> subprocess.CompletedProcess:
        """Runs a command on the machine, as root, with that key and nothing else."""
        return subprocess.run(
            ["ssh", "-F", "none", "-i", key, "-p", str(machine.ssh_port),
             "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60",
             "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self.folder}/known",
             "-o", "PreferredAuthentications=publickey,password,keyboard-interactive",
             "root@127.0.0.1", command],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def test_the_key_opens_and_no_other(self):
        owner, stranger = self.key("owner"), self.key("stranger")
        public = owner.with_suffix(".pub").read_text().strip()
        machine = Machine(self.folder / "machine", debug_image())
        self.machines.append(machine)
        machine.put_on_esp(CONFIG, OPEN + f'[debug]\nauthorized_keys = ["{public}"]\n')
        control = machine.folder / "control"
        machine.extra = ["-device", "VGA", "-qmp", f"unix:{control},server=on,wait=off"]
        machine.power_on()
        machine.wait_for_block(1)
        machine.wait_for("the red line", lambda: "DEBUG IMAGE" in machine.console())

        def logged_in():
            done = self.ssh(machine, owner, "id -un; cat /etc/os-release")
            return done if done.returncode == 0 else None

        answer = machine.wait_for("SSH", logged_in, every_s=5)
        say(f"logged in after {machine.seconds():.0f} s")
        self.assertTrue(answer.stdout.startswith("root\n"))
        self.assertIn("VARIANT_ID=debug", answer.stdout)
        self.assertIn("DEBUG IMAGE", answer.stderr)
        refused = self.ssh(machine, stranger, "true")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("Permission denied (publickey)", refused.stderr)
        updates = self.ssh(machine, owner, "grep -h ^MatchPattern= /usr/lib/sysupdate.d/*")
        self.assertNotRegex(updates.stdout, r"=basalt_")
        watch = self.ssh(machine, owner, "pgrep -cf ^@basalt-watch").stdout.strip()
        self.assertNotIn(watch, ("", "0"), "the initrd's watch over the root does not run")
        seats = self.ssh(machine, owner, "systemctl is-active basalt.service")
        self.assertEqual(seats.stdout.strip(), "active")
        self.no_other_listener(machine, owner)
        page = self.ssh(machine, owner, "cat /dev/vcs1").stdout
        self.assertRegex(page, r"DEBUG IMAGE.*height +[1-9]")
        self.red_on_screen(machine, control)
        # A crash leaves its dump on the data partition, and the node comes back. Not by SEGV, of
        # which the first that is only sent is taken by the standard library.
        self.ssh(machine, owner, "systemctl kill --signal=ABRT --kill-whom=main basalt.service")

        def dumped():
            listing = self.ssh(machine, owner, "ls -s /var/lib/systemd/coredump").stdout
            return re.search(r"(?m)^ *([1-9]\d*) core\.basalt\.640\.\S+\.zst$", listing)

        size = machine.wait_for("the crash dump", dumped, every_s=5)
        say(f"a dump of {size[1]} KiB")
        restarts = self.ssh(machine, owner, "systemctl show -P NRestarts basalt.service")
        self.assertEqual(restarts.stdout.strip(), "1")
        machine.wait_for("the node again", machine.answers, every_s=5)

    def red_on_screen(self, machine: Machine, control: Path) -> None:
        """The screen shows the status page: bright text on black, and the line in red."""
        picture = machine.folder / "screen.ppm"
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(control))
            answers = line.makefile("r")
            answers.readline()  # the greeting
            for command in (
                {"execute": "qmp_capabilities"},
                {"execute": "screendump", "arguments": {"filename": str(picture)}},
            ):
                line.sendall(json.dumps(command).encode() + b"\n")
                while "return" not in (answer := json.loads(answers.readline())):
                    self.assertNotIn("error", answer)
        size, depth, pixels = re.fullmatch(
            rb"P6\n(\d+ \d+)\n(\d+)\n(.*)", picture.read_bytes(), re.DOTALL
        ).groups()
        self.assertEqual(depth, b"255")
        reds, bright = pixels[0::3], pixels[1::3]
        red = sum(r > 150 and g < 100 for r, g in zip(reds, bright, strict=True))
        text = sum(g > 100 for g in bright)
        say(f"screen of {size.decode()}: {text} bright and {red} red pixels")
        self.assertGreater(text, 2_000)
        self.assertGreater(red, 200)
        self.assertGreater(bright.count(0), len(bright) // 2)

    def no_other_listener(self, machine: Machine, key: Path) -> None:
        """Of all sockets that wait for others, those of the config, SSH, and the DHCP client."""
        listing = self.ssh(machine, key, "ss -Hltun").stdout
        found = {re.split(r"\s+", line)[4] for line in listing.splitlines() if line}
        outside = {each for each in found if not re.match(r"127\.|\[::1\]", each)}
        dhcp = {each for each in outside if re.search(r":(68|546)$", each)}
        ports = {each.rsplit(":", 1)[1] for each in outside - dhcp}
        say(f"listeners: {sorted(found)}")
        self.assertEqual(ports, {"22", "8545", "9545"}, listing)

    def test_the_release_refuses_keys_and_has_no_way_in(self):
        machine = self.machine(config='[debug]\nauthorized_keys = ["ssh-ed25519 AAAAC3Nz me"]\n')
        machine.power_on()
        fault = r"basalt\.toml:2: debug\.authorized_keys has keys, but this is the\s+release image"
        machine.wait_for("the fault", lambda: re.search(fault, machine.console()))
        self.assertNotIn("login:", machine.console())
        machine.power_cut()
        slot = machine.partition(IMAGE.name.removesuffix(".raw"))
        mib = 1 << 20
        subprocess.run(
            ["dd", f"if={IMAGE}", f"of={self.folder}/slot", "bs=1M", "conv=sparse", "status=none",
             f"skip={slot['start'] // mib}", f"count={slot['size'] // mib}"],
            check=True,
        )  # fmt: skip
        tool("fsck.erofs", f"--extract={self.folder}/root", f"{self.folder}/slot")
        top = self.folder / "root"
        self.assertFalse(list(top.glob("usr/*bin/sshd")) + list(top.glob("etc/ssh/sshd*")))
        shadow = (top / "etc/shadow").read_text()
        self.assertNotRegex(shadow, r"(?m)^[^:]+:[^*!]")
        for unit in ("getty@.service", "serial-getty@.service", "debug-shell.service"):
            self.assertEqual((top / "etc/systemd/system" / unit).readlink(), Path("/dev/null"))


if __name__ == "__main__":
    main()
