"""A signed image under Secure Boot: only what its owner signed boots and adds arguments.

The signed image comes from tests/image/images, which tests/image/run calls; an unsigned one is
compared with it.
"""

import json
import os
import re
import struct
import subprocess
from pathlib import Path

from case import CONFIG, OPEN, ImageCase, main, say
from machine import TOP, Machine, in_tools

SIGNED = TOP / "build/tests/signed"
KEYS = SIGNED / "keys"
CREDENTIAL = '[rpc]\naddress = "0.0.0.0:8545"\n'
CREDENTIAL_FILE = "loader/credentials/basalt.config.cred"
SMBIOS_ARGUMENT = "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.hostname=intruder"
SMBIOS_BOOT_ARGUMENT = SMBIOS_ARGUMENT.replace(".stub.", ".boot.")
# Commas would end the value: the same configuration, on one line.
SMBIOS_CREDENTIAL = "type=11,value=io.systemd.credential:basalt.config=rpc.address='0.0.0.0:8545'"


def signed_image() -> Path:
    """The whole disk that tests/image/images left."""
    parts = (".esp.raw", ".root-x86-64")
    found = [
        path for path in SIGNED.glob("basalt_*.raw") if not any(part in path.name for part in parts)
    ]
    if len(found) != 1 or not (KEYS / "db.key").exists():
        raise LookupError(f"{SIGNED} has no image and keys: run 'tests/image/images signed' first")
    return found[0]


def null_key_credential(folder: Path) -> bytes:
    """A credential such as anybody can make: encrypted with the key that all know."""
    (folder / "plain").write_text(CREDENTIAL)
    subprocess.run(
        in_tools(
            "systemd-creds", "encrypt", "--with-key=null", "--name=basalt.config",
            str(folder / "plain"), str(folder / "basalt.config.cred"),
        ),
        check=True, capture_output=True,
    )  # fmt: skip
    return (folder / "basalt.config.cred").read_bytes()


def addon(folder: Path, arguments: str, keys: str) -> bytes:
    """An add-on with these arguments, signed or (`none`) not."""
    path = folder / "made.addon.efi"
    subprocess.run(
        [TOP / "image/addon", path, arguments],
        env=os.environ | {"KEYS": keys}, check=True, capture_output=True,
    )  # fmt: skip
    return path.read_bytes()


def section(program: bytes, name: bytes) -> tuple[int, int]:
    """Where a section of a PE program lies, and its size."""
    header = struct.unpack_from("<I", program, 0x3C)[0]
    count, optional = struct.unpack_from("<H12xH", program, header + 6)
    table = header + 24 + optional
    for at in range(table, table + 40 * count, 40):
        if program[at : at + 8].rstrip(b"\0") == name:
            size, _, _, start = struct.unpack_from("<IIII", program, at + 8)
            return start, size
    raise LookupError(f"no section {name!r}")


def signature_bytes(program: bytes) -> int:
    """How large the signatures of a PE program are; 0 where it has none."""
    header = struct.unpack_from("<I", program, 0x3C)[0]
    return struct.unpack_from("<II", program, header + 24 + 112 + 4 * 8)[1]


class SecureBoot(ImageCase):
    def test_what_is_signed_and_what_must_not_be(self):
        machine = self.signed("unstarted")
        for name in ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"):
            self.verified(name, machine.from_esp(name))
        image = signed_image().with_suffix(".efi").read_bytes()
        self.verified("unified kernel image", image)
        start, size = section(image, b".linux")
        self.assertEqual(signature_bytes(image[start : start + size]), 0, "the kernel alone boots")
        start, size = section(image, b".pcrsig")
        policies = json.loads(image[start : start + size].rstrip(b"\0"))["sha256"]
        self.assertTrue(policies and all(policy["pcrs"] == [11] for policy in policies))
        start, size = section(image, b".pcrpkey")
        public = image[start : start + size].rstrip(b"\0")
        self.assertEqual(public.strip(), (KEYS / "pcr.pub.pem").read_bytes().strip())

    def verified(self, name: str, program: bytes) -> None:
        path = self.folder / "program.efi"
        path.write_bytes(program)
        command = in_tools("sbverify", "--cert", str(KEYS / "db.crt"), str(path))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, f"{name}: {done.stdout}{done.stderr}")

    def signed(self, name: str) -> Machine:
        """A machine with the signed image, and with firmware in setup mode."""
        machine = Machine(self.folder / name, signed_image())
        self.machines.append(machine)
        machine.secure_boot = True
        return machine

    def page(self, machine: Machine, row: str) -> str | None:
        """The last value of a row of the status page."""
        found = re.findall(rf"(?m)^{row} +(\S.*?)\s*$", machine.console())
        return found[-1] if found else None

    def hostname(self, machine: Machine) -> str | None:
        found = re.findall(r"(?m)^\W*Basalt \S+ +(\S+)\s*$", machine.console())
        return found[-1] if found else None

    def wait_for_height(self, machine: Machine) -> None:
        machine.wait_for("a block", lambda: re.match("[1-9]", self.page(machine, "height") or ""))

    def test_only_the_owners_arguments_count(self):
        machine = self.signed("machine")
        machine.reboots = True  # It enrols the keys, then starts again.
        machine.put_on_esp(CREDENTIAL_FILE, null_key_credential(self.folder))
        unsigned = addon(self.folder, "systemd.hostname=intruder", "none")
        machine.put_on_esp("loader/addons/unsigned.addon.efi", unsigned)
        # An entry that starts the signed image with options of its own.
        name = machine.esp_list("EFI/Linux").strip().splitlines()[-1].split("/")[-1]
        entry = f"title options\nlinux /EFI/Linux/{name}\noptions systemd.hostname=intruder\n"
        machine.put_on_esp("loader/entries/options.conf", entry)
        machine.put_on_esp("loader/loader.conf", "default options.conf\ntimeout 0\n")
        for value in (SMBIOS_ARGUMENT, SMBIOS_BOOT_ARGUMENT, SMBIOS_CREDENTIAL):
            machine.extra += ["-smbios", value]
        machine.power_on()
        self.wait_for_height(machine)
        say(f"keys enrolled, and block 1 under Secure Boot: {machine.seconds():.0f} s")
        self.assertIn("Secure Boot on", self.page(machine, "firmware"))
        self.assertNotEqual(self.hostname(machine), "intruder")
        self.assertEqual(self.page(machine, "config"), "no configuration")
        machine.power_cut()

        signed = addon(self.folder, "systemd.hostname=owner", str(KEYS))
        machine.put_on_esp("loader/addons/owner.addon.efi", signed)
        machine.power_on()
        machine.wait_for("the owner's host name", lambda: self.hostname(machine) == "owner")
        self.assertIn("Secure Boot on", self.page(machine, "firmware"))
        machine.power_cut()
        self.refused_programs(machine)

    def refused_programs(self, machine: Machine) -> None:
        """What nobody signed does not start: a changed image, and the kernel cut out of it."""
        name = machine.esp_list("EFI/Linux").strip().splitlines()[-1].split("/")[-1]
        image = machine.from_esp(f"EFI/Linux/{name}")
        start, size = section(image, b".linux")
        kernel = image[start : start + size]
        start, _ = section(image, b".cmdline")
        changed = bytearray(image)
        self.assertEqual(changed[start : start + 9], b"roothash=")
        changed[start : start + 9] = b"rootHash="
        machine.put_on_esp(f"EFI/Linux/{name}", bytes(changed))
        self.refused(machine, "a changed unified kernel image")

        machine.put_on_esp("loader/entries/zz.conf", "title cut\nlinux /cut.efi\noptions x=y\n")
        machine.put_on_esp("cut.efi", kernel)
        machine.put_on_esp("loader/loader.conf", "default zz.conf\ntimeout 0\n")
        self.refused(machine, "the kernel without its image")

    def refused(self, machine: Machine, what: str) -> None:
        machine.power_on()
        refusal = r"(?i)access denied|security (policy )?violation"
        machine.wait_for(what, lambda: re.search(refusal, machine.console()), 300)
        self.assertNotIn("Linux version", machine.console())
        self.assertIsNone(self.page(machine, "firmware"))
        machine.power_cut()
        say(f"refused: {what}")

    def test_encrypted_data_open_for_what_the_policys_key_signed(self):
        machine = self.signed("encrypted")
        machine.reboots = True  # It enrols the keys, then starts again.
        machine.tpm = self.folder / "tpm"
        machine.put_on_esp(CONFIG, OPEN + '[machine]\nencrypt_data = "tpm2"\n')
        machine.power_on()
        machine.wait_for_block(2)
        block = machine.call("eth_getBlockByNumber", "0x1", False)
        machine.wait_for("a recovery key", lambda: "RECOVERY KEY" in machine.console())
        machine.power_cut()
        bound = self.bound_to(machine)
        self.assertEqual(bound, {"tpm2-pcrs": [7], "tpm2_pubkey_pcrs": [11]})
        say(f"the key of the data is bound to {bound}")

        machine.power_on()
        machine.wait_for_block(3)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)
        machine.power_cut()

        # The firmware takes it, because it has the owner's signature; the policy has not.
        name = machine.esp_list("EFI/Linux").strip().splitlines()[-1].split("/")[-1]
        image = machine.from_esp(f"EFI/Linux/{name}")
        machine.put_on_esp(f"EFI/Linux/{name}", self.with_other_arguments(image))
        machine.power_on()
        closed = "and the TPM of this machine does not open it"
        machine.wait_for("closed data", lambda: closed in re.sub(r"\s+", " ", machine.console()))
        machine.wait_for("the page", lambda: self.page(machine, "firmware"))
        self.assertIn("Secure Boot on", self.page(machine, "firmware"))
        self.assertFalse(machine.answers())
        machine.power_cut()
        say("an image that the policy's key has not signed does not open the data")

        machine.put_on_esp(f"EFI/Linux/{name}", image)
        machine.power_on()
        machine.wait_for_block(4)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)

    def bound_to(self, machine: Machine) -> dict:
        """The registers of the TPM in the LUKS header of the data partition."""
        with open(machine.disk, "rb") as disk:
            disk.seek(machine.partition("data")["start"])
            header = disk.read(16 << 10)[4096:].split(b"\0")[0]
        tokens = json.loads(header)["tokens"].values()
        (token,) = [token for token in tokens if token["type"] == "systemd-tpm2"]
        return {name: token[name] for name in ("tpm2-pcrs", "tpm2_pubkey_pcrs")}

    def with_other_arguments(self, image: bytes) -> bytes:
        """The unified kernel image with a changed command line, signed for Secure Boot only."""
        start, size = section(image, b".cmdline")
        arguments = image[start : start + size]
        self.assertIn(b" quiet ", arguments)
        changed = image[:start] + arguments.replace(b" quiet ", b" quieT ") + image[start + size :]
        path, signed = self.folder / "changed.efi", self.folder / "changed-signed.efi"
        path.write_bytes(changed)
        key = ["--key", str(KEYS / "db.key"), "--cert", str(KEYS / "db.crt")]
        for command in (
            ["sbattach", "--remove", str(path)],
            ["sbsign", *key, "--output", str(signed), str(path)],
        ):
            done = subprocess.run(in_tools(*command), capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, f"{command[0]}: {done.stdout}{done.stderr}")
        self.verified("the changed image", signed.read_bytes())
        return signed.read_bytes()

    def test_an_unsigned_image_takes_both_and_says_so(self):
        machine = self.machine(config=None)
        machine.put_on_esp(CREDENTIAL_FILE, null_key_credential(self.folder))
        machine.extra = ["-smbios", SMBIOS_ARGUMENT]
        machine.power_on()
        machine.wait_for_block(1)
        machine.wait_for("the host name", lambda: self.hostname(machine) == "intruder")
        self.assertEqual(self.page(machine, "config"), "credential basalt.config")
        self.assertIn("UNSIGNED IMAGE", self.page(machine, "firmware"))


if __name__ == "__main__":
    main()
