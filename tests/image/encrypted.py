"""An encrypted data partition: the TPM of its machine opens it, no other does, the recovery key
does, and without a TPM none is made."""

import re

from case import CONFIG, ImageCase, OPEN, main, say

ENCRYPTED = OPEN + '[machine]\nencrypt_data = "tpm2"\n'
KEY = "loader/basalt/recovery-key"
LUKS = b"LUKS\xba\xbe"


class Encrypted(ImageCase):
    def head(self, machine) -> bytes:
        """The first bytes of the data partition."""
        with open(machine.disk, "rb") as disk:
            disk.seek(machine.partition("data")["start"])
            return disk.read(2048)

    def free_mib(self, machine) -> int:
        """As the status page has it, of data that cannot be read from outside."""
        return max(int(free) for free in re.findall(r"disk +(\d+) MiB free", machine.console()))

    def says(self, machine, text: str) -> None:
        """Waits for the text on the console, where lines are broken to fit."""
        machine.wait_for(text, lambda: text in re.sub(r"\s+", " ", machine.console()))

    def test_only_its_own_tpm_or_the_recovery_key_open_the_data(self):
        machine = self.machine(config=ENCRYPTED)
        own = machine.tpm = self.folder / "tpm"
        machine.power_on()
        machine.wait_for_block(2)
        say(f"encrypted: first blocks after {machine.seconds():.0f} s")
        self.says(machine, "RECOVERY KEY: ")
        block = machine.call("eth_getBlockByNumber", "0x1", False)
        key = re.search(r"RECOVERY KEY:\s+([a-z]{8}(?:-[a-z]{8}){7})", machine.console())[1]
        machine.power_cut()
        self.assertTrue(self.head(machine).startswith(LUKS))
        machine.enlarge(5 << 30)

        # The key is not shown again, and "off" changes nothing that is there.
        machine.put_on_esp(CONFIG, OPEN)
        machine.power_on()
        machine.wait_for_block(3)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)
        self.says(machine, "was made before and stays encrypted")
        self.assertNotIn(key, machine.console())
        machine.power_cut()
        self.assertTrue(self.head(machine).startswith(LUKS))
        self.assertGreater(self.free_mib(machine), 3 << 10)
        say("the chain is there after a restart, and the file system has followed the disk")

        machine.put_on_esp(CONFIG, ENCRYPTED)
        machine.tpm = self.folder / "other-tpm"
        machine.power_on()
        self.says(machine, "put the recovery key on the boot partition as loader/basalt/recovery")
        self.says(machine, "MAINTENANCE")
        self.assertFalse(machine.answers())
        machine.power_cut()
        say("another machine's TPM does not open it, and the console says what to do")

        machine.put_on_esp(KEY, key + "\n")
        machine.power_on()
        machine.wait_for_block(4)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)
        machine.power_cut()
        self.assertNotIn("recovery-key", machine.esp_list("loader/basalt"))
        machine.power_on()
        machine.wait_for_block(5)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)
        machine.power_cut()
        say("the recovery key opens it, and then the other TPM does")

        machine.tpm = own
        machine.power_on()
        self.says(machine, "MAINTENANCE")
        say("the TPM before does not any more")

    def test_without_a_tpm_no_data_are_made(self):
        machine = self.machine(config=ENCRYPTED)
        machine.power_on()
        self.says(machine, 'machine.encrypt_data = "tpm2", but the machine has no TPM 2.0')
        self.says(machine, "MAINTENANCE")
        self.assertFalse(machine.answers())
        machine.power_cut()
        self.assertNotIn("data", [part["name"] for part in machine.partitions()])
        say("without a TPM: maintenance, and nothing was made")

    def test_data_that_exist_are_not_encrypted_later(self):
        machine = self.machine()
        machine.tpm = self.folder / "tpm"
        machine.power_on()
        machine.wait_for_block(2)
        block = machine.call("eth_getBlockByNumber", "0x1", False)
        machine.power_cut()
        machine.put_on_esp(CONFIG, ENCRYPTED)
        machine.power_on()
        machine.wait_for_block(3)
        self.assertEqual(machine.call("eth_getBlockByNumber", "0x1", False), block)
        self.says(machine, "stays as it is, NOT encrypted")
        machine.power_cut()
        self.assertFalse(self.head(machine).startswith(LUKS))


if __name__ == "__main__":
    main()
