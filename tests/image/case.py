"""What the image tests share: a folder that is left behind where a test fails, and the image."""

import os
import shutil
import signal
import sys
import tempfile
import unittest
from pathlib import Path
from typing import ClassVar

from machine import Machine

IMAGE = Path(os.environ.get("IMAGE", "missing: start the tests with tests/image/run"))
CONFIG = "loader/basalt/basalt.toml"
# Reachable from outside, so that the tests reach it through a forwarded port.
OPEN = """\
[rpc]
address = "0.0.0.0:8545"
[metrics]
address = "0.0.0.0:9545"
"""


def say(text: str) -> None:
    """A measured value, beside the test's name."""
    print(f"    {text}", flush=True)


class ImageCase(unittest.TestCase):
    """A test with machines that are switched off after it, whatever happens."""

    # Of all tests of this process: who stops it leaves no disk behind.
    folders: ClassVar[list[Path]] = []

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="basalt-image-", dir=os.environ.get("TMPDIR")))
        self.machines: list[Machine] = []
        self.folders.append(self.folder)

    def tearDown(self) -> None:
        for machine in self.machines:
            machine.power_cut()
            machine.disk.unlink(missing_ok=True)
            (machine.folder / "data.raw").unlink(missing_ok=True)
        if self.failed():
            print(f"    logs are left in {self.folder}", flush=True)
        else:
            shutil.rmtree(self.folder)

    def failed(self) -> bool:
        """Whether this test has failed so far."""
        result = self._outcome.result
        return any(test is self for test, _ in result.failures + result.errors)

    def machine(self, name: str = "machine", config: str | None = OPEN, **settings) -> Machine:
        """A machine that the image has just been flashed to."""
        machine = Machine(self.folder / name, IMAGE, **settings)
        self.machines.append(machine)
        if config is not None:
            machine.put_on_esp(CONFIG, config)
        return machine


def stop(number: int, _frame: object) -> None:
    """Ends at once: unittest would take an exception here for a failed test, and go on."""
    for machine in list(Machine.switched_on):
        machine.power_cut()
    for folder in ImageCase.folders:
        shutil.rmtree(folder, ignore_errors=True)
    # By the signal itself: a shell that started this then ends too.
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def main() -> None:
    """Runs the tests of the calling file."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    unittest.main(verbosity=2, module=sys.modules["__main__"])
