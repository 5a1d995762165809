"""The playbook over SSH: a rescue system, an empty NVMe, and afterwards a node that is ready."""

import json
import os
import subprocess
import threading

from case import CONFIG, IMAGE, ImageCase, OPEN, main, say
from machine import BOOT_S, TOP, Machine, tool

KERNEL = TOP / "build/kernel/current/vmlinuz"


class Flash(ImageCase):
    def rescue(self) -> Machine:
        """A machine with an empty NVMe that has booted a rescue system from elsewhere."""
        machine = Machine(self.folder / "rescue", None, disk_bytes=3 << 30)
        self.machines.append(machine)
        machine.nvme_serial = "FLASH01"
        disk = subprocess.run(
            [TOP / "tests/image/rescue"], check=True, capture_output=True, text=True
        ).stdout.strip()
        self.key = os.path.join(os.path.dirname(disk), "key")
        machine.extra = [
            "-kernel", str(KERNEL), "-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0",
            "-drive", f"file={disk},format=raw,if=none,id=rescue,snapshot=on",
            "-device", "virtio-blk-pci,drive=rescue",
        ]  # fmt: skip
        return machine

    def ssh(self, machine: Machine, *command: str) -> subprocess.CompletedProcess:
        """Runs a command on the rescue system."""
        return subprocess.run(
            ["ssh", "-i", self.key, "-p", str(machine.ssh_port), "-o", "BatchMode=yes",
             "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
             "-o", "ConnectTimeout=5", "root@127.0.0.1", *command],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def play(self, machine: Machine, *arguments: str, **variables) -> tuple[bool, str]:
        """Runs flash.yml against the machine."""
        values = {
            "ansible_host": "127.0.0.1", "ansible_port": machine.ssh_port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": self.key,
            "ansible_ssh_common_args":
                "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
            "ansible_python_interpreter": "/usr/bin/python3",
            "basalt_image": str(IMAGE.resolve()), "basalt_disk": "FLASH01", "basalt_config": OPEN,
            "basalt_packed_folder": str(self.folder / "packed"),
            "basalt_ready_port": machine.metrics_port, "basalt_ready_timeout_s": BOOT_S,
            **variables,
        }  # fmt: skip
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({"basalt": {"hosts": {"node-1": values}}}))
        venv = subprocess.run(
            [TOP / "provisioning/venv"], check=True, capture_output=True, text=True
        ).stdout.strip()
        environment = {
            **os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}", "NO_COLOR": "1",
            "ANSIBLE_CONFIG": str(TOP / "provisioning/ansible.cfg"), "ANSIBLE_TIMEOUT": "60",
        }  # fmt: skip
        done = subprocess.run(
            ["ansible-playbook", "-i", str(inventory), "flash.yml", *arguments],
            cwd=TOP / "provisioning", env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode == 0, done.stdout + done.stderr

    def test_a_rescue_system_is_flashed_and_becomes_a_node(self):
        if not KERNEL.exists():
            self.skipTest(f"no {KERNEL}: the rescue system is started with our kernel, make kernel")
        machine = self.rescue()
        machine.power_on()
        machine.wait_for("SSH", lambda: self.ssh(machine, "true").returncode == 0, every_s=3)
        say(f"rescue system after {machine.seconds():.0f} s")

        # A mounted file system on the disk: refused, even when it is named exactly.
        made = self.ssh(machine, "mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
        self.assertEqual(made.returncode, 0, made.stderr)
        done, text = self.play(machine, basalt_overwrite="FLASH01")
        self.assertFalse(done, text)
        self.assertIn("it is mounted (/dev/nvme0n1 on /mnt)", text)
        self.ssh(machine, "umount /mnt")
        done, text = self.play(machine)
        self.assertFalse(done, text)
        self.assertIn("it is not empty (ext4", text)
        done, text = self.play(machine, "--check", basalt_overwrite="FLASH01")
        self.assertTrue(done, text)
        found = self.ssh(machine, "wipefs --noheadings --output TYPE /dev/nvme0n1").stdout
        self.assertEqual(found.split(), ["ext4"], "check mode has written")

        # The machine restarts by itself; here its next start has no rescue system.
        def restart():
            machine.wait_for_end("the rescue system restarts", 4 * BOOT_S)
            machine.power_cut()
            machine.extra = []
            machine.power_on()

        restarter = threading.Thread(target=restart)
        restarter.start()
        done, text = self.play(machine, basalt_overwrite="FLASH01")
        restarter.join(60)
        self.assertTrue(done, text)
        self.assertIn("is ready", text)
        say(f"ready {machine.seconds():.0f} s after the restart")
        self.assertGreaterEqual(machine.wait_for_block(1), 1)
        machine.power_cut()
        at = f"{machine.disk}@@{machine.partition('esp')['start']}"
        self.assertEqual(tool("mtype", "-i", at, f"::{CONFIG}"), OPEN)


if __name__ == "__main__":
    main()
