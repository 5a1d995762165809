"""A config that is not on the boot partition: by a credential, by a URL with its hash."""

import hashlib

from case import ImageCase, OPEN, main, say
from mirror import Mirror

FW_CFG = "opt/io.systemd.credentials/basalt.config"


class ConfigSources(ImageCase):
    def test_a_credential_of_the_firmware_is_taken(self):
        machine = self.machine(config=None)
        given = self.folder / "given.toml"
        given.write_text(OPEN)
        machine.extra = ["-fw_cfg", f"name={FW_CFG},file={given}"]
        machine.power_on()
        machine.wait_for_block(1)
        shown = "credential basalt.config"
        machine.wait_for("its name on the status page", lambda: shown in machine.console(), 60)
        say("by fw_cfg: the node runs and is reached")

    def test_a_url_is_taken_if_what_comes_has_the_hash(self):
        served = self.folder / "served"
        served.mkdir()
        (served / "node.toml").write_text(OPEN)
        mirror = Mirror(served)
        self.addCleanup(mirror.close)
        url = f"{mirror.url}/node.toml"
        machine = self.machine(config=None)
        # The guest's gateway leads to this machine's loopback.
        machine.restricted = False

        other = hashlib.sha256(b"another file").hexdigest()
        self.ask_for(machine, url, other)
        machine.wait_for("the fault", lambda: other in machine.console())
        machine.wait_for("maintenance", lambda: "MAINTENANCE" in machine.console(), 60)
        self.assertFalse(machine.answers())
        machine.power_cut()
        self.assertEqual(machine.data_list("/lib/basalt"), [], "the node has left data")
        say("by URL: maintenance where the hash is another")

        self.ask_for(machine, url, hashlib.sha256(OPEN.encode()).hexdigest())
        machine.wait_for_block(1)
        machine.wait_for("the URL on the status page", lambda: url in machine.console(), 60)
        say("by URL: the node runs and is reached")

    def ask_for(self, machine, url: str, digest: str) -> None:
        """Switches the machine on with these two arguments for its kernel."""
        arguments = f"basalt.config_url={url} basalt.config_sha256={digest}"
        value = f"io.systemd.stub.kernel-cmdline-extra={arguments}"
        machine.extra = ["-smbios", f"type=11,value={value}"]
        machine.power_on()


if __name__ == "__main__":
    main()
