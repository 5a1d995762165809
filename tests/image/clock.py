"""The clock follows the server of the config, and the node's blocks follow the clock."""

import getpass
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from case import CONFIG, ImageCase, OPEN, main, say
from machine import free_port, in_tools, tool

# Seconds that the server is ahead of the guest's clock.
AHEAD_S = 40
TO_1970_S = 2_208_988_800
# Columns of chronyc's serverstats.
KEYS_ASKED, TIME_ASKED = 5, 7


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


class AuthenticatedServer:
    """chronyd as a server with Network Time Security, vouched for by an authority of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.keys_port, port = free_port(), free_port()
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        tool("openssl", "req", "-x509", *key, "-subj", "/CN=Time of the house",
             "-keyout", f"{folder}/authority.key", "-out", f"{folder}/authority.pem")  # fmt: skip
        tool("openssl", "req", "-x509", *key, "-subj", "/CN=time", "-keyout", f"{folder}/key",
             "-out", f"{folder}/certificate", "-CA", f"{folder}/authority.pem",
             "-CAkey", f"{folder}/authority.key", "-addext", "subjectAltName=IP:10.0.2.2",
             "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
        self.authority = (folder / "authority.pem").read_text()
        (folder / "chrony.conf").write_text(
            f"local stratum 1\nbindaddress 127.0.0.1\nallow\nport {port}\n"
            f"ntsport {self.keys_port}\nntsserverkey {folder}/key\n"
            f"ntsservercert {folder}/certificate\nntsprocesses 0\n"
            f"cmdport 0\nbindcmdaddress {folder}/socket\npidfile {folder}/pid\n"
            f"user {getpass.getuser()}\n"
        )
        # It follows this machine's clock and leaves it alone.
        command = in_tools("chronyd", "-d", "-x", "-U", "-f", f"{folder}/chrony.conf")
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def asked(self) -> tuple[int, int]:
        """So often for keys, and so often for the time with keys."""
        report = tool("chronyc", "-h", f"{self.folder}/socket", "-c", "serverstats")
        counts = [int(count) for count in report.split(",")]
        return counts[KEYS_ASKED], counts[TIME_ASKED]


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

    def test_an_authenticated_server_is_believed_where_its_authority_is_named(self):
        server = AuthenticatedServer(self.folder / "server")
        self.addCleanup(server.close)
        config = OPEN + f'[time]\nservers = ["nts://10.0.2.2:{server.keys_port}"]\n'
        machine = self.machine(config=config)
        machine.restricted = False

        def power_on():
            began = time.gmtime(time.time() - AHEAD_S)
            machine.extra = ["-rtc", time.strftime("base=%Y-%m-%dT%H:%M:%S", began)]
            machine.power_on()
            machine.wait_for_block(1)

        power_on()
        refused = "TLS handshake with 10.0.2.2"
        machine.wait_for("the refusal among the last errors", lambda: refused in machine.console(), 180)
        self.assertGreater(server.asked()[0], 0, "nobody asked for keys")
        self.assertEqual(server.asked()[1], 0, "the time was asked for with keys")
        self.assertNotIn("authenticated, by 10.0.2.2", machine.console())
        machine.power_cut()
        machine.put_on_esp(CONFIG, f'{config}authorities = """\n{server.authority}"""\n')
        shown, missed = "us off, authenticated, by 10.0.2.2", "NTS-KE message"
        # chronyd gives its clients two seconds for keys, which a guest on a busy machine may miss;
        # then it asks again after 17 minutes.
        for _ in range(3):
            power_on()
            ended = lambda: any(text in machine.console() for text in (shown, missed))  # noqa: E731
            machine.wait_for("the clock on the status page", ended, 180)
            if shown in machine.console():
                break
            machine.power_cut()
        self.assertIn(shown, machine.console())
        say(f"synchronised with authentication after {machine.seconds():.0f} s")

        def late():
            block = machine.call("eth_getBlockByNumber", "latest", False)
            return time.time() - int(block["timestamp"], 16)

        machine.wait_for("a block with the server's time", lambda: late() < AHEAD_S / 2, 60)


if __name__ == "__main__":
    main()
