"""What hangs is not left hanging: a node by systemd, a machine by its hardware watchdog.

The image has no way in, so the unit that does the damage comes as a credential in the firmware's
tables (systemd.extra-unit.NAME), as an emulated machine may have it.
"""

import base64

from case import ImageCase, main, say
from machine import BOOT_S, Machine

UNIT = """\
[Unit]
After=basalt.service
[Service]
Type=oneshot
ExecStart=/usr/bin/sh -c '{}'
"""


class Watchdog(ImageCase):
    def with_damage(self, damage: str) -> Machine:
        """A machine whose boot runs a shell command once the node is ready."""
        machine = self.machine()
        unit = base64.b64encode(UNIT.format(damage).encode()).decode()
        credential = f"io.systemd.credential.binary:systemd.extra-unit.damage.service={unit}"
        arguments = "systemd.wants=damage.service panic=0"
        machine.extra = [
            "-smbios", f"type=11,value={credential}",
            "-smbios", f"type=11,value=io.systemd.stub.kernel-cmdline-extra={arguments}",
        ]  # fmt: skip
        return machine

    def test_a_node_that_hangs_is_killed_and_started_again(self):
        machine = self.with_damage(
            "sleep 10; kill -STOP $(systemctl show -P MainPID basalt.service);"
            " echo the node is stopped >/dev/console"
        )
        machine.power_on()
        machine.wait_for("the damage", lambda: "the node is stopped" in machine.console())
        stopped = machine.seconds()
        before = [int(line.split()[1]) for line in heights(machine)]
        machine.wait_for("silence", lambda: not machine.answers(), 60)
        height = machine.wait_for_block(max(before) + 3)
        say(f"block {height}, {machine.seconds() - stopped:.0f} s after the node was stopped")
        self.assertGreater(machine.seconds() - stopped, 20, "the watchdog has 30 s")

    def test_a_machine_that_hangs_is_reset_by_its_watchdog(self):
        machine = self.with_damage("sleep 5; echo 1 >/proc/sys/kernel/sysrq;"
                                   " echo c >/proc/sysrq-trigger")  # fmt: skip
        # A restart by the guest itself would go on; only the watchdog switches this machine off.
        machine.reboots = True
        machine.extra += ["-device", "i6300esb", "-action", "watchdog=poweroff"]
        machine.power_on()
        machine.wait_for_block(1)
        machine.wait_for("the panic", lambda: "Kernel panic" in machine.console())
        hung = machine.seconds()
        machine.process.wait(BOOT_S)
        machine.process = None
        say(f"the watchdog fired {machine.seconds() - hung:.0f} s after the machine hung")


def heights(machine: Machine) -> list[str]:
    """The status page's lines with the height."""
    lines = machine.console().splitlines()
    return [line.replace(",", "") for line in lines if line.startswith("height ")]


if __name__ == "__main__":
    main()
