"""A factory reset, asked for by a kernel argument and by `basalt reset`: the data are gone, a new
chain and a new machine id are there, and the operator's config stays."""

from case import CONFIG, ImageCase, main, say
from machine import BOOT_S, tool

ASK = "/usr/bin/sh -c 'exec /usr/bin/basalt reset --confirm `uname -n`'"


class Reset(ImageCase):
    def arguments(self, text: str) -> list[str]:
        """Kernel arguments for one boot."""
        return ["-smbios", f"type=11,value=io.systemd.stub.kernel-cmdline-extra={text}"]

    def identity(self, machine) -> tuple[str, str]:
        """What a reset changes: the file system and the machine's id."""
        volume = machine.data_file_system()
        ident = tool("debugfs", "-R", "cat /lib/overlay/etc/machine-id", volume).strip()
        self.assertRegex(ident, "^[0-9a-f]{32}$")
        return tool("blkid", "-p", "-o", "value", "-s", "UUID", volume).strip(), ident

    def first_block(self, machine, at_least: int = 1) -> str:
        """Boots to a block, and gives the hash of the first."""
        machine.power_on()
        machine.wait_for_block(at_least)
        block = machine.call("eth_getBlockByNumber", "0x1", False)["hash"]
        machine.power_cut()
        return block

    def test_a_reset_removes_the_data_and_keeps_the_config(self):
        machine = self.machine()
        old_block = self.first_block(machine)
        old = self.identity(machine)

        machine.extra = self.arguments("systemd.factory_reset=yes")
        block = self.first_block(machine)
        machine.extra = []
        new = self.identity(machine)
        self.changed((old_block, *old), (block, *new))
        self.assertIn("basalt.toml", machine.esp_list(CONFIG))
        say("reset by a kernel argument")

        machine.extra = self.arguments(
            f'systemd.run="{ASK}" systemd.run_success_action=poweroff'
            " systemd.run_failure_action=reboot"
        )
        machine.power_on()
        machine.process.wait(2 * BOOT_S)
        machine.process = None
        machine.extra = []
        self.assertEqual(self.identity(machine), new, "the data went before the next boot")
        last_block = self.first_block(machine)
        last = self.identity(machine)
        self.changed((block, *new), (last_block, *last))
        # Asked once, done once.
        self.assertEqual(self.first_block(machine), last_block)
        self.assertEqual(self.identity(machine), last)
        self.assertIn("basalt.toml", machine.esp_list(CONFIG))
        say("reset by basalt reset")

    def changed(self, before: tuple, after: tuple) -> None:
        """Each of them is another."""
        for old, new in zip(before, after, strict=True):
            self.assertNotEqual(old, new)


if __name__ == "__main__":
    main()
