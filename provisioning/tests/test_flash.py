"""The playbook flashes loop devices on this machine; only their serial numbers are made up."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
MIB = 1 << 20
CONFIG = '[rpc]\naddress = "0.0.0.0:8545"\n'


def run(*command: str, **more) -> str:
    """A program that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def tool(*command: str, **more) -> str:
    """A program of the tools tree."""
    return run("bash", "-euc", '. "$0"; in_tools "$@"', str(TOP / "image/common"), *command, **more)


class Flash(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """A small image: a boot partition with a loader, and a root."""
        cls.folder = Path(tempfile.mkdtemp(prefix="basalt-flash-"))
        cls.image = cls.folder / "basalt_9.9.9.raw"
        with open(cls.image, "wb") as image:
            image.truncate(80 * MIB)
        tool("sfdisk", "--quiet", str(cls.image), input="label: gpt\nsize=64MiB,type=U,name=esp\n"
             "size=8MiB,name=basalt_9.9.9\n")  # fmt: skip
        at = f"{cls.image}@@1M"
        boot = cls.folder / "boot.efi"
        boot.write_bytes(os.urandom(3 * MIB))
        tool("mkfs.vfat", "-F32", "--offset=2048", str(cls.image), str(64 * 1024))
        tool("mmd", "-i", at, "::EFI")
        tool("mcopy", "-i", at, str(boot), "::EFI/boot.efi")
        # A machine that builds images need not have FAT in its kernel, nor mtools installed.
        (cls.folder / "bin").mkdir()
        for name in ("mcopy", "mmd"):
            wrapper = cls.folder / "bin" / name
            wrapper.write_text(f'#!/bin/bash\n. "{TOP}/image/common"\nin_tools {name} "$@"\n')
            wrapper.chmod(0o755)
        cls.sums = cls.folder / "SHA256SUMS"
        digest = hashlib.sha256(cls.image.read_bytes()).hexdigest()
        cls.sums.write_text(f"{digest}  {cls.image.name}\n")
        home = cls.folder / "gpg"
        home.mkdir(mode=0o700)
        cls.gpg = ["gpg", "--homedir", str(home), "--batch", "--yes", "--pinentry-mode", "loopback",
                   "--passphrase", ""]  # fmt: skip
        for name in ("ours", "other"):
            run(*cls.gpg, "--quick-generate-key", f"{name}@example", "ed25519", "sign", "never")
            (cls.folder / f"{name}.asc").write_text(
                run(*cls.gpg, "--armor", "--export", f"{name}@example")
            )
        run(*cls.gpg, "--local-user", "ours@example", "--detach-sign", "--output",
            f"{cls.sums}.gpg", str(cls.sums))  # fmt: skip

    @classmethod
    def tearDownClass(cls):
        run("gpgconf", "--homedir", str(cls.folder / "gpg"), "--kill", "all")
        shutil.rmtree(cls.folder)

    def setUp(self):
        shutil.rmtree(self.folder / "packed", ignore_errors=True)
        self.disks = {}
        self.mounted = []

    def tearDown(self):
        for place in self.mounted:
            run("umount", str(place))
        for device, (path, _) in self.disks.items():
            run("losetup", "--detach", device)
            path.unlink()

    def disk(self, serial: str, size: int = 700 * MIB, **more) -> Path:
        """A loop device with that serial number; gives its file."""
        path = Path(tempfile.mkstemp(dir=self.folder, suffix=".disk")[1])
        os.truncate(path, size)
        device = run("losetup", "--find", "--show", str(path)).strip()
        self.disks[device] = (path, {"serial": serial, **more})
        return path

    def device(self, path: Path) -> str:
        return next(device for device, (file, _) in self.disks.items() if file == path)

    def play(self, *arguments: str, playbook: str = "flash.yml", **variables) -> tuple[bool, str]:
        """Runs the playbook against this machine, which never restarts."""
        values = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable,
            "basalt_image": str(self.image), "basalt_packed_folder": str(self.folder / "packed"),
            "basalt_remote_folder": str(self.folder), "basalt_reboot": False, **variables,
        }  # fmt: skip
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({"basalt": {"hosts": {"node-1": values}}}))
        environment = {
            **os.environ, "PATH": f"{HERE}:{self.folder}/bin:{os.environ['PATH']}", "NO_COLOR": "1",
            "ANSIBLE_CONFIG": str(TOP / "provisioning/ansible.cfg"),
            "FAKE_DISKS": json.dumps({device: more for device, (_, more) in self.disks.items()}),
        }  # fmt: skip
        done = subprocess.run(
            ["ansible-playbook", "-i", str(inventory), playbook, *arguments],
            cwd=TOP / "provisioning", env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode == 0, " ".join((done.stdout + done.stderr).split())

    def refused(self, said: str, path: Path | None = None, **variables) -> None:
        """Fails with that message, and leaves the disk as it is."""
        before = path and hashlib.sha256(path.read_bytes()).digest()
        done, text = self.play(**variables)
        self.assertFalse(done, text)
        self.assertIn(said, text)
        if path:
            after = hashlib.sha256(path.read_bytes()).digest()
            self.assertEqual(after, before, "it was written to")

    def test_writes_the_image_with_the_config_and_ids_of_its_own(self):
        path = self.disk("S1")
        done, text = self.play(
            "--check", basalt_disk="S1", basalt_config=CONFIG,
            basalt_signing_key=str(self.folder / "ours.asc"),
        )  # fmt: skip
        self.assertTrue(done, text)
        self.assertEqual(path.stat().st_blocks, 0, "check mode has written")
        self.assertFalse((self.folder / "packed").exists(), "check mode has packed the image")
        done, text = self.play(
            basalt_disk="S1", basalt_config=CONFIG, basalt_signing_key=str(self.folder / "ours.asc")
        )
        self.assertTrue(done, text)
        self.assertEqual(list(self.folder.glob("*.raw.gz")), [], "the packed image was left behind")
        at = f"{path}@@1M"
        self.assertEqual(tool("mtype", "-i", at, "::loader/basalt/basalt.toml"), CONFIG)
        tool("mcopy", "-o", "-i", at, "::EFI/boot.efi", str(self.folder / "read.efi"))
        boot = (self.folder / "boot.efi").read_bytes()
        self.assertEqual((self.folder / "read.efi").read_bytes(), boot)
        old, new = (
            json.loads(tool("sfdisk", "--json", str(disk)))["partitiontable"]
            for disk in (self.image, path)
        )
        self.assertNotEqual(new["id"], old["id"])
        ids = [[part["uuid"] for part in table["partitions"]] for table in (old, new)]
        self.assertNotEqual(ids[0][0], ids[1][0], "the boot partition has the image's id")
        self.assertEqual(ids[0][1], ids[1][1], "the root has lost its id")
        self.assertGreater(new["lastlba"], 690 * MIB // 512, "the table ends where the image does")
        self.assertIn("No errors detected", tool("sfdisk", "--verify", str(path)))
        # It is not empty any more.
        self.refused("it is not empty (gpt", path, basalt_disk="S1")
        done, text = self.play(basalt_disk="S1", basalt_overwrite="S1")
        self.assertTrue(done, text)

    def test_refuses_what_is_in_use_not_empty_ambiguous_or_too_small(self):
        path = self.disk("S1")
        tool("mkfs.ext4", "-q", "-L", "precious", str(path))
        self.refused("it is not empty (ext4 'precious')", path, basalt_disk="S1")
        place = self.folder / "mounted"
        place.mkdir(exist_ok=True)
        run("mount", "-o", "ro,noload", self.device(path), str(place))
        self.mounted.append(place)
        self.refused("it is mounted", path, basalt_disk="S1", basalt_overwrite="S1")
        small = self.disk("S2", 90 * MIB)
        self.refused("are less than the", small, basalt_disk="S2")
        twin = self.disk("S2")
        self.refused("'S2' is ambiguous", twin, basalt_disk="S2")
        self.refused("no disk has this serial number or WWN", basalt_disk="S9")

    def test_refuses_wrong_variables_image_and_config_before_the_host_is_asked(self):
        path = self.disk("S1")
        good = {"basalt_disk": "S1"}
        self.refused("missing required arguments: basalt_disk", path)
        self.refused("no path (such names change", path, basalt_disk="/dev/sda")
        self.refused("unable to convert to int", path, **good, basalt_ready_port="high")
        self.refused("is no file on the control machine", path, **good, basalt_image="/none.raw")
        other = str(self.folder / "other.asc")
        self.refused("is no signature of", path, **good, basalt_signing_key=other)
        sums = self.folder / "wrong"
        sums.write_text(f"{'0' * 64}  {self.image.name}\n")
        self.refused("does not have for basalt_9.9.9.raw", path, **good, basalt_sums=str(sums))
        program = next((p for p in TOP.glob("target/*/basalt") if os.access(p, os.X_OK)), None)
        if program is None:
            self.skipTest("no target/*/basalt: the check of the config was not tried")
        wrong = {"basalt_config": "[rpc]\nadress = 1\n", "basalt_program": str(program)}
        self.refused("basalt_config:2: rpc.adress", path, **good, **wrong)
        done, text = self.play(**good, basalt_config=CONFIG, basalt_program=str(program))
        self.assertTrue(done, text)

    def test_a_disk_that_keeps_other_bytes_is_found_out(self):
        # A disk that lies: writes end in memory, and the file below is read back.
        path = self.disk("S1")
        packed = self.folder / "packed"
        done, text = self.play(basalt_disk="S1")
        self.assertTrue(done, text)
        for file in packed.iterdir():
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        self.refused("write it again", None, basalt_disk="S1", basalt_overwrite="S1")
        shutil.rmtree(packed)
        self.assertTrue(path.exists())

    def test_waits_for_the_node_and_tells_maintenance_from_silence(self):
        answers = []

        class Node(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, body = answers[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Node)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        playbook = self.folder / "ready.yml"
        role = str(TOP / "provisioning/roles/basalt")
        playbook.write_text(json.dumps([{
            "hosts": "basalt", "gather_facts": False,
            "tasks": [{"ansible.builtin.include_role": {"name": role, "tasks_from": "ready"}}],
        }]))  # fmt: skip
        wait = {
            "basalt_ready_host": "127.0.0.1", "basalt_ready_port": server.server_port,
            "basalt_ready_timeout_s": 5, "basalt_found": {"device": "/dev/x"},
            "playbook": str(playbook),
        }  # fmt: skip
        answers[:] = [(200, b'{"status":"ok"}')]
        done, text = self.play(**wait)
        self.assertTrue(done, text)
        self.assertIn("127.0.0.1 is ready", text)
        answers[:] = [(503, b"rpc.address is wrong")]
        done, text = self.play(**wait)
        self.assertFalse(done)
        self.assertIn("the node is in maintenance: rpc.address is wrong", text)
        server.shutdown()
        server.server_close()
        done, text = self.play(**wait)
        self.assertFalse(done)
        self.assertIn("/health does not answer after 5 s", text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
