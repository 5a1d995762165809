"""One emulated server: its disk, its power switch, and what can be seen of it from outside.

The disk is a copy of the built image. QEMU, OVMF and the file system tools come from the tools tree
of `make setup-image`. Nothing here knows what is asserted.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

TOP = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("BASALT_CACHE", Path.home() / ".cache/basalt")) / "image"
TOOLS = CACHE / "tools"
# tests/image/run tries whether kvm works here.
ACCEL = os.environ.get("BASALT_TEST_ACCEL", "tcg")
# Seconds until a boot has to have got somewhere; emulation on two busy cores is slow.
BOOT_S = int(os.environ.get("BASALT_TEST_BOOT_S", "300" if ACCEL == "tcg" else "60"))
# What an emulated processor leaves out is what costs emulation an eighth of its time and what no test
# asks for: copies byte by byte (erms, fsrm), page tables of five levels, and switches of rights at
# each copy from a program's memory.
CPU = "max,erms=off,fsrm=off,la57=off,pks=off,pku=off,smap=off" if ACCEL == "tcg" else "host"
SECTOR = 512
# A terminal's control sequences: CSI, OSC, DCS, character sets, reset.
CONTROLS = re.compile(
    r"\x1b(\[[0-9;?=!]*[A-Za-z]|\][^\x07\x1b]*(\x07|\x1b\\)|P[^\x1b]*\x1b\\|[()][0-9AB]|c)"
)


class Timeout(Exception):
    """What was waited for has not come."""


class RpcError(RuntimeError):
    """JSON-RPC answered with an error."""

    def __init__(self, method: str, error: dict):
        super().__init__(f"{method}: {error}")
        self.code: int = error["code"]
        self.message: str = error["message"]


def in_tools(*command: str) -> list[str]:
    """The command line that runs a program of the tools tree."""
    script = '. "$0"; in_tools "$@"'
    return ["bash", "-euc", script, str(TOP / "image/common"), *command]


def tool(*command: str, check: bool = True) -> str:
    """Runs a program of the tools tree and gives what it printed."""
    done = subprocess.run(in_tools(*command), capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stick() -> tuple[str, str]:
    """Controller and driver of a disk that can be pulled out: USB, where the kernel drives it."""
    config = TOP / "build/kernel/current/config"
    if config.exists() and "CONFIG_USB_XHCI_PCI=y" in config.read_text():
        return "qemu-xhci", "usb-storage"
    print("    the kernel drives no USB: the stick is a removable SCSI disk", flush=True)
    return "virtio-scsi-pci", "scsi-hd"


class Machine:
    """A server with one disk, two cores and a serial line that is written to a file."""

    # Those that this process has to switch off before it ends.
    switched_on: ClassVar[set["Machine"]] = set()

    def __init__(self, folder: Path, image: Path | None, disk_bytes: int = 4 << 30):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = folder / "disk.raw"
        self.serial = folder / "serial.log"
        self.variables = folder / "firmware.fd"
        if image is None:
            self.disk.touch()
        else:
            subprocess.run(
                ["cp", "--sparse=always", "--reflink=auto", image, self.disk], check=True
            )
        self.enlarge(disk_bytes)
        shutil.copy(TOOLS / "usr/share/OVMF/OVMF_VARS_4M.fd", self.variables)
        self.memory_mib = 1024
        self.cores = 2
        self.extra: list[str] = []
        # Whether a restart of the guest goes on, or ends QEMU.
        self.reboots = False
        # Whether the guest reaches nobody, or the machine that it is emulated on as 10.0.2.2.
        self.restricted = True
        self.nvme_serial: str | None = None
        # Where forwarded ports lead; empty: to the address that DHCP gives.
        self.guest_address = ""
        # The disk is a USB stick.
        self.is_stick = False
        # Firmware that enforces Secure Boot once keys are enrolled; it starts in setup mode.
        self.secure_boot = False
        self.rpc_port = self.metrics_port = self.ssh_port = 0
        # The folder of an emulated TPM 2.0: who has it, has the TPM.
        self.tpm: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.powered_at = 0.0

    # --- the disk, while the machine is off ---

    def enlarge(self, size: int) -> None:
        """Makes the disk larger, as a restored copy on a bigger one would be."""
        os.truncate(self.disk, size)

    def partitions(self) -> list[dict]:
        """The partition table: name, start, size (bytes) and number of each."""
        table = json.loads(tool("sfdisk", "--json", str(self.disk)))["partitiontable"]
        return [
            {
                "number": index,
                "name": entry.get("name", ""),
                "start": entry["start"] * SECTOR,
                "size": entry["size"] * SECTOR,
            }
            for index, entry in enumerate(table["partitions"], 1)
        ]

    def partition(self, name: str) -> dict:
        """The one partition of that name."""
        found = [entry for entry in self.partitions() if entry["name"] == name]
        if len(found) != 1:
            raise LookupError(f"{len(found)} partitions are named {name!r}: {self.partitions()}")
        return found[0]

    def put_on_esp(self, path: str, content: str | bytes) -> None:
        """Writes a file to the EFI system partition, as an operator does after flashing."""
        source = self.folder / "to-esp"
        source.write_bytes(content.encode() if isinstance(content, str) else content)
        volume = f"{self.disk}@@{self.partition('esp')['start']}"
        parts = Path(path).parts
        for depth in range(1, len(parts)):
            tool("mmd", "-D", "s", "-i", volume, "::" + "/".join(parts[:depth]), check=False)
        tool("mcopy", "-o", "-i", volume, str(source), f"::{path}")

    def from_esp(self, path: str) -> bytes:
        """Reads a file of the EFI system partition."""
        target = self.folder / "from-esp"
        target.unlink(missing_ok=True)
        volume = f"{self.disk}@@{self.partition('esp')['start']}"
        tool("mcopy", "-n", "-i", volume, f"::{path}", str(target))
        return target.read_bytes()

    def remove_from_esp(self, path: str) -> None:
        """Removes a file from the EFI system partition."""
        volume = f"{self.disk}@@{self.partition('esp')['start']}"
        tool("mdel", "-i", volume, f"::{path}")

    def esp_list(self, path: str) -> str:
        """Lists a folder of the EFI system partition."""
        volume = f"{self.disk}@@{self.partition('esp')['start']}"
        return tool("mdir", "-b", "-i", volume, f"::{path}", check=False)

    def esp_text(self, path: str) -> str:
        """A file of the EFI system partition; empty where it is not there."""
        volume = f"{self.disk}@@{self.partition('esp')['start']}"
        return tool("mtype", "-i", volume, f"::{path}", check=False)

    def data_file_system(self) -> str:
        """A copy of the data partition as a file, with the journal of the file system replayed."""
        part, copy = self.partition("data"), self.folder / "data.raw"
        mib = 1 << 20
        subprocess.run(
            ["dd", f"if={self.disk}", f"of={copy}", "bs=1M", "conv=sparse", "status=none",
             f"skip={part['start'] // mib}", f"count={part['size'] // mib}"],
            check=True,
        )  # fmt: skip
        os.truncate(copy, part["size"])
        tool("e2fsck", "-y", "-E", "journal_only", str(copy), check=False)
        return str(copy)

    def data_list(self, path: str) -> list[str]:
        """Names in a folder of the data partition; the path is the one under /var."""
        listing = tool("debugfs", "-R", f"ls -p {path}", self.data_file_system())
        names = [line.split("/")[5] for line in listing.splitlines() if line.count("/") >= 6]
        return [name for name in names if name not in (".", "..")]

    def data_text(self, path: str) -> str:
        """A file of the data partition; the path is the one under /var."""
        copy = self.data_file_system()
        text = tool("debugfs", "-R", f"cat {path}", copy)
        os.unlink(copy)
        return text

    def data_put(self, path: str, text: str) -> None:
        """Writes a file of the data partition in place."""
        source = self.folder / "to-data"
        source.write_text(text)
        volume = f"{self.disk}?offset={self.partition('data')['start']}"
        tool("e2fsck", "-y", "-E", "journal_only", volume, check=False)
        tool("debugfs", "-w", "-R", f"rm {path}", volume, check=False)
        tool("debugfs", "-w", "-R", f"write {source} {path}", volume)
        if self.data_text(path) != text:
            raise RuntimeError(f"{path} could not be written to the data partition")

    def data_bytes(self) -> int:
        """Size of the file system on the data partition."""
        stats = tool("debugfs", "-R", "stats -h", self.data_file_system())
        blocks = re.search(r"Block count:\s+(\d+)", stats)
        size = re.search(r"Block size:\s+(\d+)", stats)
        if not blocks or not size:
            raise RuntimeError(f"no file system on the data partition: {stats[:200]}")
        return int(blocks[1]) * int(size[1])

    def flip(self, offset: int) -> None:
        """Turns over every bit of one byte of the disk."""
        with open(self.disk, "r+b") as disk:
            disk.seek(offset)
            value = disk.read(1)[0]
            disk.seek(offset)
            disk.write(bytes([value ^ 0xFF]))

    def find(self, pattern: bytes, start: int, size: int) -> int:
        """Where the pattern lies, on a multiple of 4096, within that part of the disk."""
        step = 1 << 20
        with open(self.disk, "rb") as disk:
            for base in range(start, start + size, step):
                disk.seek(base)
                chunk = disk.read(step)
                at = chunk.find(pattern)
                while at >= 0:
                    if at % 4096 == 0:
                        return base + at
                    at = chunk.find(pattern, at + 1)
        raise LookupError("the pattern is not there")

    # --- the power switch ---

    def power_on(self) -> None:
        """Starts the machine; the serial log begins anew."""
        assert self.process is None, "the machine is on already"
        self.serial.write_bytes(b"")
        pid_file = self.folder / "qemu.pid"
        pid_file.unlink(missing_ok=True)
        if not self.rpc_port:
            # The same at its next start, so that who waits for it finds it.
            self.rpc_port, self.metrics_port = free_port(), free_port()
            self.ssh_port = free_port()
        ovmf = TOOLS / "usr/share/OVMF/OVMF_CODE_4M.fd"
        drive = "virtio-blk-pci,drive=disk,bootindex=1"
        if self.nvme_serial:
            drive = f"nvme,drive=disk,serial={self.nvme_serial},bootindex=1"
        if self.is_stick:
            controller, driver = stick()
            drive = f"{driver},drive=disk,serial=STICK01,removable=on,bootindex=1"
        machine_type, secure = "q35", []
        if self.secure_boot:
            ovmf = TOOLS / "usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
            machine_type = "q35,smm=on"
            # Only the firmware itself may write its variables.
            secure = ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        forwards = (
            f"hostfwd=tcp:127.0.0.1:{self.rpc_port}-{self.guest_address}:8545,"
            f"hostfwd=tcp:127.0.0.1:{self.metrics_port}-{self.guest_address}:9545,"
            f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-{self.guest_address}:22"
        )
        command = [
            "qemu-system-x86_64", "-nodefaults", "-display", "none",
            *([] if self.reboots else ["-no-reboot"]),
            "-machine", machine_type, *secure, "-cpu", CPU,
            "-accel", "tcg,thread=multi" if ACCEL == "tcg" else ACCEL,
            "-smp", str(self.cores), "-m", str(self.memory_mib),
            "-drive", f"if=pflash,format=raw,readonly=on,file={ovmf}",
            "-drive", f"if=pflash,format=raw,file={self.variables}",
            "-drive", f"file={self.disk},format=raw,if=none,id=disk,discard=unmap,cache=writeback",
            *(["-device", controller] if self.is_stick else []), "-device", drive,
            "-netdev", f"user,id=net,restrict={'on' if self.restricted else 'off'},{forwards}",
            "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci",
            *self.start_tpm(),
            "-chardev", f"socket,id=line,path={self.folder}/line,server=on,wait=off,"
            f"logfile={self.serial},logappend=on", "-serial", "chardev:line",
            "-monitor", "none", "-pidfile", str(pid_file),
            *self.extra,
        ]  # fmt: skip
        log = open(self.folder / "qemu.log", "wb")
        self.powered_at = time.monotonic()
        self.process = subprocess.Popen(in_tools(*command), stdout=log, stderr=log)
        self.switched_on.add(self)
        log.close()

    def start_tpm(self) -> list[str]:
        """Starts the emulated TPM, where there is one; it ends with QEMU."""
        if self.tpm is None:
            return []
        self.tpm.mkdir(parents=True, exist_ok=True)
        control = self.folder / "tpm.sock"
        control.unlink(missing_ok=True)
        state = f"dir={self.tpm},mode=0600"
        tool("swtpm", "socket", "--tpm2", "--terminate", "--daemon", "--tpmstate", state,
             "--ctrl", f"type=unixio,path={control}")  # fmt: skip
        return [
            "-chardev", f"socket,id=tpm,path={control}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
            "-device", "tpm-crb,tpmdev=tpm0",
        ]  # fmt: skip

    def power_cut(self) -> None:
        """Takes the power away: no signal that the guest could notice."""
        self.switched_on.discard(self)
        if self.process is None:
            return
        pid_file = self.folder / "qemu.pid"
        if pid_file.exists():
            try:
                os.kill(int(pid_file.read_text()), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                pass
        else:
            self.process.kill()
        self.process.wait(30)
        self.process = None

    def is_on(self) -> bool:
        """Whether QEMU still runs; a guest that reboots switches off."""
        return self.process is not None and self.process.poll() is None

    def seconds(self) -> float:
        """Since the power came on."""
        return time.monotonic() - self.powered_at

    # --- what is seen from outside ---

    def console(self) -> str:
        """All that came over the serial line, without the terminal's control sequences."""
        text = self.serial.read_text(errors="replace")
        return CONTROLS.sub("", text)

    def type(self, line: str) -> None:
        """Types a line on the serial terminal."""
        with socket.socket(socket.AF_UNIX) as terminal:
            terminal.connect(str(self.folder / "line"))
            for byte in (line + "\r").encode():
                terminal.sendall(bytes([byte]))
                time.sleep(0.05)
            # A line that is closed at once loses what the guest has not read.
            time.sleep(1)

    def call(self, method: str, *params: object, timeout: float = 20) -> object:
        """Asks over JSON-RPC; raises where there is no answer or an error."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.rpc_port}",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            result = json.load(answer)
        if "error" in result:
            raise RpcError(method, result["error"])
        return result["result"]

    def answers(self) -> bool:
        """Whether JSON-RPC is served."""
        try:
            self.call("eth_chainId", timeout=5)
        except (OSError, urllib.error.URLError, ValueError):
            return False
        return True

    def metrics(self) -> str:
        """The metrics page."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=20) as page:
            return page.read().decode()

    def wait_for(self, what: str, condition, limit_s: float = BOOT_S, every_s: float = 0.5):
        """Waits until the condition gives something true, and gives that back."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            found = condition()
            if found:
                return found
            if not self.is_on():
                break
            time.sleep(every_s)
        state = "on" if self.is_on() else "off"
        tail = "\n".join(self.console().splitlines()[-25:])
        raise Timeout(f"{what}: not within {limit_s:.0f} s; the machine is {state}:\n{tail}")

    def wait_for_end(self, what: str, limit_s: float) -> None:
        """Waits until the guest has switched the machine off, or restarts where that ends QEMU."""
        until = time.monotonic() + limit_s
        while self.is_on():
            if time.monotonic() > until:
                tail = "\n".join(self.console().splitlines()[-25:])
                raise Timeout(f"{what}: not within {limit_s:.0f} s:\n{tail}")
            time.sleep(0.5)

    def wait_for_block(self, number: int = 1, limit_s: float = BOOT_S) -> int:
        """Waits until that block is sealed and gives the newest one's number."""

        def height():
            try:
                newest = int(str(self.call("eth_blockNumber", timeout=5)), 16)
            except (OSError, urllib.error.URLError, ValueError):
                return None
            return newest if newest >= number else None

        return self.wait_for(f"block {number}", height, limit_s)
