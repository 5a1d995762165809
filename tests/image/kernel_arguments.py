"""Eight cores on two NUMA nodes: after one restart cores are isolated as the plan has it."""

import re

from case import CONFIG, OPEN, ImageCase, main, say

# What the log says goes to the serial line too, so that seats are seen from outside. The check of the
# timer is left out: eight emulated cores on a busy host may be too slow for it.
TO_CONSOLE = (
    "type=11,value=io.systemd.stub.kernel-cmdline-extra="
    "no_timer_check systemd.journald.forward_to_console=1 systemd.journald.max_level_console=debug"
)


class KernelArguments(ImageCase):
    def row(self, machine, name: str) -> str | None:
        """The last value of a row of the status page."""
        found = re.findall(rf"(?m)^{name} +(\S.*?)\s*$", machine.console())
        return found[-1] if found else None

    def boots_until(self, machine, state: str) -> None:
        machine.power_on()
        machine.wait_for(state, lambda: self.row(machine, "arguments") == state)
        machine.wait_for_block(1)

    def test_one_restart_brings_the_plan_into_force(self):
        machine = self.machine(config=OPEN + '[log]\nlevel = "debug"\n')
        machine.cores = 8
        # An eighth of the first node is what the plan may reserve; little of it is ever touched.
        machine.memory_mib = 9216 + 512
        machine.extra = [
            "-object", "memory-backend-ram,id=m0,size=9216M",
            "-object", "memory-backend-ram,id=m1,size=512M",
            "-numa", "node,nodeid=0,cpus=0-3,memdev=m0",
            "-numa", "node,nodeid=1,cpus=4-7,memdev=m1",
            "-smbios", TO_CONSOLE,
        ]  # fmt: skip
        self.boots_until(machine, "waiting for a restart")
        self.assertEqual(self.row(machine, "tune"), "no core isolated")
        machine.power_cut()
        self.assertIn("basalt-plan.addon.efi", machine.esp_list("loader/addons"))
        written = machine.from_esp("loader/addons/basalt-plan.addon.efi")
        line = re.search(rb"isolcpus=\S+ nohz_full=\S+ rcu_nocbs=\S+ [ -~]*", written)
        self.assertIsNotNone(line)
        wanted = line[0].decode()
        say(wanted)
        self.assertIn("hugepages=0:512", wanted)
        isolated = re.search(r"nohz_full=(\S+)", wanted)[1]

        self.boots_until(machine, "in force")
        self.assertEqual(self.row(machine, "tune"), f"isolated {isolated}, no ticks on {isolated}")
        seats = re.findall(r"seated.*?core=(\d+)", machine.console())
        self.assertTrue(seats, "no thread told its seat")
        self.assertIn(isolated.split("-")[0], seats)
        self.assertNotIn("not on the planned core", machine.console())
        machine.power_cut()
        # Nothing was written again.
        self.assertEqual(machine.from_esp("loader/addons/basalt-plan.addon.efi"), written)

        machine.put_on_esp(CONFIG, OPEN + '[machine]\nkernel_arguments = "off"\n')
        machine.power_on()
        machine.wait_for_block(1)
        machine.power_cut()
        self.assertNotIn("basalt-plan", machine.esp_list("loader/addons"))


if __name__ == "__main__":
    main()
