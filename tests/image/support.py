"""In maintenance a request on the boot partition leaves an encrypted support bundle there."""

import io
import json
import re
import subprocess
import tarfile

from case import ImageCase, OPEN, main, say
from machine import tool

PHRASE = "legal winner thank year wave sausage worth useful legal winner thank yellow"
# The phrase is valid, the key after it is none: maintenance.
CONFIG = OPEN + f'[chain]\ndev_mnemonic = "{PHRASE}"\nblock_gas_limitt = 1\n'


class Support(ImageCase):
    def test_maintenance_leaves_a_bundle_for_a_pgp_key(self):
        home = self.folder / "gnupg"
        home.mkdir(mode=0o700)
        self.addCleanup(
            subprocess.run, ["gpgconf", "--homedir", str(home), "--kill", "all"], check=False
        )
        passless = ["--pinentry-mode", "loopback", "--passphrase", ""]
        self.gpg(home, *passless, "--quick-generate-key", "operator", "future-default", "default")
        key = self.gpg(home, "--armor", "--export").decode()

        machine = self.machine(config=CONFIG)
        machine.put_on_esp("loader/basalt/key.asc", key)
        machine.put_on_esp("loader/basalt/request.toml", 'support_bundle = "key.asc"\n')
        machine.power_on()
        machine.wait_for("maintenance", lambda: "block_gas_limitt" in machine.console())
        machine.wait_for("the request's end", lambda: "parts could not be had" in machine.console())
        machine.power_cut()

        names = re.findall(r"support-\d+\.tar\.zst\.gpg", machine.esp_list("loader/basalt"))
        self.assertEqual(len(names), 1, machine.esp_list("loader/basalt"))
        sealed = self.folder / "bundle.gpg"
        sealed.write_bytes(machine.from_esp(f"loader/basalt/{names[0]}"))
        packed = self.gpg(home, *passless, "--decrypt", str(sealed))
        (self.folder / "bundle.tar.zst").write_bytes(packed)
        tool("zstd", "-q", "-d", "-f", str(self.folder / "bundle.tar.zst"))
        files = {}
        with tarfile.open(fileobj=io.BytesIO((self.folder / "bundle.tar").read_bytes())) as tar:
            for member in tar.getmembers():
                files[member.name.removeprefix("basalt-support/")] = tar.extractfile(member).read()
        index = json.loads(files["index.json"])
        missing = {part["name"]: part["missing"] for part in index["parts"] if "missing" in part}
        say(f"{sealed.stat().st_size} bytes, {len(files)} files; missing: {sorted(missing)}")
        for name, text in files.items():
            self.assertNotIn(PHRASE.encode(), text, name)
        self.assertIn(b"basalt_maintenance 1", files["metrics.txt"])
        self.assertIn(b"block_gas_limitt", files["boot/maintenance.json"])
        self.assertIn(b"block_gas_limitt", files["journal/boot-0-before"])
        self.assertIn(b"Linux version", files["journal/kernel"])
        self.assertIn(b'dev_mnemonic = "[redacted]"', b"".join(
            text for name, text in files.items() if name.startswith("config/")
        ))  # fmt: skip
        self.assertIn(b"PARTNAME=esp", files["hardware/disks"])
        self.assertIn(b"microcode", files["hardware/cpu"])

    def gpg(self, home, *arguments: str) -> bytes:
        """Runs gpg with keys of its own."""
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout


if __name__ == "__main__":
    main()
