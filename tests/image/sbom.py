"""The bill of materials of a built image: valid for an independent validator, and complete."""

import hashlib
import json
import subprocess
import unittest
from pathlib import Path

from case import IMAGE, main, say

HERE = Path(__file__).resolve().parent
OUT, NAME = IMAGE.parent, IMAGE.name.removesuffix(".raw")


def validated(path: Path) -> subprocess.CompletedProcess:
    """What spdx-tools says of a document."""
    if not (HERE / ".venv/bin/pyspdxtools").exists():
        subprocess.run(["python3", "-m", "venv", HERE / ".venv"], check=True)
        wanted = HERE / "requirements.txt"
        subprocess.run([HERE / ".venv/bin/pip", "install", "-q", "-r", wanted], check=True)
    command = [HERE / ".venv/bin/pyspdxtools", "-i", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class BillOfMaterials(unittest.TestCase):
    def setUp(self) -> None:
        self.path = OUT / f"{NAME}.spdx.json"
        self.bill = json.loads(self.path.read_text())
        self.manifest = json.loads((OUT / f"{NAME}.manifest").read_text())

    def test_an_independent_validator_takes_it_and_refuses_a_broken_one(self):
        done = validated(self.path)
        self.assertEqual(done.returncode, 0, done.stderr[:2000])
        broken = OUT / ".broken.spdx.json"
        broken.write_text(self.path.read_text().replace("CC0-1.0", "none", 1))
        try:
            self.assertNotEqual(validated(broken).returncode, 0)
        finally:
            broken.unlink()

    def test_it_has_packages_crates_and_kernel(self):
        purls = [
            reference["referenceLocator"]
            for package in self.bill["packages"]
            for reference in package.get("externalRefs", [])
        ]
        crates = [purl for purl in purls if purl.startswith("pkg:cargo/")]
        debs = [purl for purl in purls if purl.startswith("pkg:deb/debian/")]
        say(f"{len(debs)} Debian packages, {len(crates)} crates")
        for wanted in ("revm", "alloy-primitives", "signet-libmdbx", "tokio"):
            self.assertTrue(any(purl.startswith(f"pkg:cargo/{wanted}@") for purl in crates), wanted)
        # dmsetup is in the initrd only; proptest is linked into tests only.
        for wanted in ("systemd", "libc6", "nftables", "dmsetup"):
            self.assertTrue(any(f"/{wanted}@" in purl for purl in debs), wanted)
        self.assertFalse(any(purl.startswith("pkg:cargo/proptest@") for purl in crates))
        kernels = [entry for entry in self.bill["packages"] if "kernel" in entry["SPDXID"]]
        if self.manifest["kernel"] == "own":
            self.assertEqual(kernels[0]["versionInfo"], self.manifest["kernel_release"])
        else:
            self.assertTrue(any("/linux-image-" in purl for purl in debs))

    def test_the_manifest_tells_what_was_built(self):
        self.assertRegex(self.manifest["commit"], "^[0-9a-f]{40}$")
        self.assertRegex(self.manifest["root_hash"], "^[0-9a-f]{64}$")
        self.assertIn(self.manifest["kernel"], ("own", "debian"))
        self.assertIn(self.manifest["secure_boot"], (True, False))
        for name, size in self.manifest["bytes"].items():
            self.assertEqual((OUT / name).stat().st_size, size, name)

    def test_the_sums_cover_every_file(self):
        lines = (OUT / "SHA256SUMS").read_text().splitlines()
        sums = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
        self.assertEqual(set(sums), {path.name for path in OUT.glob(f"{NAME}*")})
        for name in (f"{NAME}.spdx.json", f"{NAME}.manifest"):
            digest = hashlib.sha256((OUT / name).read_bytes()).hexdigest()
            self.assertEqual(sums[name], digest, name)


if __name__ == "__main__":
    main()
