"""Links, bond and VLAN by config; a wrong [network] leads to maintenance that can be reached."""

import re

from case import ImageCase, OPEN, main, say
from machine import TOP

# QEMU's user network leads here and nowhere else.
STATIC = """
[machine]
hostname = "static-7"
[network]
allow_from = ["10.0.2.0/24"]
[[network.link]]
match = "52:54:00:12:34:56"
addresses = ["10.0.2.77/24", "fec0::77/64"]
gateways = ["10.0.2.2"]
dns = ["10.0.2.3"]
mtu = 1400
[[network.bond]]
name = "bond0"
members = ["52:54:00:00:00:02", "52:54:00:00:00:03"]
mii_monitor_ms = 200
[[network.link]]
match = "bond0"
addresses = ["10.9.0.7/24"]
[[network.vlan]]
id = 40
parent = "bond0"
[[network.link]]
match = "bond0.40"
addresses = ["10.9.40.7/24"]
[time]
servers = ["ntp://10.0.2.2"]
"""
CARDS = [
    "-netdev", "hubport,id=n2,hubid=2", "-device", "virtio-net-pci,netdev=n2,mac=52:54:00:00:00:02",
    "-netdev", "hubport,id=n3,hubid=2", "-device", "virtio-net-pci,netdev=n3,mac=52:54:00:00:00:03",
]  # fmt: skip


class Network(ImageCase):
    def test_static_addresses_bond_and_vlan(self):
        machine = self.machine(config=OPEN + STATIC)
        machine.guest_address = "10.0.2.77"
        machine.extra = CARDS
        machine.power_on()
        # Over the forwarded port, which leads to the static address and to no other.
        machine.wait_for_block(1)
        say("JSON-RPC answers at the static address")
        for what in ("static-7", "10.0.2.77", "10.9.0.7", "10.9.40.7"):
            machine.wait_for(f"{what} on the status page", lambda: what in machine.console(), 120)
        self.assertNotIn("10.0.2.15", machine.console(), "it asked DHCP all the same")
        # What the kernel was asked for by sysctl.d, read back in the machine.
        wanted = sum(
            len(re.findall(r"(?m)^[a-z].* = ", path.read_text()))
            for path in (TOP / "image/mkosi.extra/usr/lib/sysctl.d").glob("*-basalt-*.conf")
        )
        self.assertGreater(wanted, 30)
        self.assertIn(f"{wanted} kernel settings are in force", machine.console())
        self.assertNotIn("note: sysctl", machine.console())
        say(f"{wanted} kernel settings are in force")
        # The one server is not authenticated, and nothing answers there.
        machine.wait_for(
            "time on the status page", lambda: "not authenticated" in machine.console(), 60
        )

    def test_a_wrong_network_is_named_and_the_machine_is_reached_by_dhcp(self):
        wrong = (
            '\n[[network.link]]\nmatch = "52:54:00:12:34:56"\naddresses = ["10.0.2.77/24"]\n'
            'gateways = ["10.0.3.1"]\n'
        )
        machine = self.machine(config=OPEN + wrong)
        machine.power_on()
        machine.wait_for("the fault on the console", lambda: "10.0.3.1" in machine.console())
        line = OPEN.count("\n") + 5
        machine.wait_for(
            "file and line", lambda: f"basalt.toml:{line}: network" in machine.console(), 60
        )
        page = machine.wait_for("metrics by DHCP", lambda: self.page(machine), 120)
        self.assertIn("basalt_maintenance 1", page)
        self.assertIn("in no network of its addresses", page)
        self.assertFalse(machine.answers(), "a node runs")

    def page(self, machine) -> str | None:
        """The metrics page, where it is served."""
        try:
            return machine.metrics()
        except OSError:
            return None


if __name__ == "__main__":
    main()
