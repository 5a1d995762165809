"""The clock follows the server of the config, and the node's blocks follow the clock."""

import socket
import struct
import threading
import time

from case import ImageCase, OPEN, main, say

# Seconds that the server is ahead of this machine, whose time the guest's clock has at first.
AHEAD_S = 40
TO_1970_S = 2_208_988_800


class Server(threading.Thread):
    """Answers NTP on loopback, as a server of stratum 1 with a time of its own."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.asked = 0

    def run(self) -> None:
        while True:
            question, sender = self.socket.recvfrom(1024)
            self.asked += 1
            head = struct.pack("!BBbb II4s", 0x24, 1, 4, -20, 0, 16, b"TEST")
            now = self.now()
            self.socket.sendto(head + now + question[40:48] + now + self.now(), sender)

    def now(self) -> bytes:
        """NTP's form of the time: seconds since 1900, and a part of one in 32 bits."""
        seconds = time.time() + AHEAD_S + TO_1970_S
        return struct.pack("!II", int(seconds), int(seconds % 1 * 2**32))


class Clock(ImageCase):
    def test_the_clock_and_the_blocks_follow_the_server(self):
        server = Server()
        server.start()
        config = OPEN + f'[time]\nservers = ["ntp://10.0.2.2:{server.port}"]\n'
        machine = self.machine(config=config)
        # The guest's gateway leads to this machine's loopback.
        machine.restricted = False
        machine.power_on()
        machine.wait_for_block(1)
        shown = "us off, not authenticated, by 10.0.2.2"
        machine.wait_for("the clock on the status page", lambda: shown in machine.console(), 180)
        say(f"synchronised after {machine.seconds():.0f} s, {server.asked} questions")

        def ahead():
            block = machine.call("eth_getBlockByNumber", "latest", False)
            found = int(block["timestamp"], 16) - time.time()
            return found if found > AHEAD_S - 15 else None

        found = machine.wait_for("a block with the server's time", ahead, 60)
        say(f"the newest block is {found:.0f} s ahead")


if __name__ == "__main__":
    main()
