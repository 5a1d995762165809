"""A wrong config: the console says what and where, and nothing of the node is started."""

from case import CONFIG, ImageCase, OPEN, main, say
from machine import Timeout


class Maintenance(ImageCase):
    def test_a_wrong_config_is_named_and_nothing_is_half_started(self):
        machine = self.machine(config=OPEN + "\n[wal]\nsegment_bytez = 67108864\n")
        machine.power_on()
        machine.wait_for("the fault on the console", lambda: "segment_bytez" in machine.console())
        machine.wait_for("the file's name", lambda: "basalt.toml" in machine.console(), 60)
        with self.assertRaises(Timeout):
            machine.wait_for("JSON-RPC", machine.answers, 20)
        line = next(row for row in machine.console().splitlines() if "segment_bytez" in row)
        say(line.strip()[:100])
        self.assertNotIn("login:", machine.console())
        machine.power_cut()
        self.assertEqual(machine.data_list("/lib/basalt"), [], "the node has left data")

        machine.put_on_esp(CONFIG, OPEN)
        machine.power_on()
        machine.wait_for_block(1)
        say("mended on the EFI system partition: the node runs")


if __name__ == "__main__":
    main()
