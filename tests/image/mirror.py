"""A mirror on this machine, as an operator's guest sees it: files over HTTP, in pieces if asked."""

import http.server
import os
import re
import threading
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Answers GET and HEAD, with `Range: bytes=A-B`."""

    protocol_version = "HTTP/1.1"

    def send_head(self):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return None
        size = path.stat().st_size
        first, last = (int(wanted[1]), min(int(wanted[2]), size - 1)) if wanted else (0, size - 1)
        if first > last:
            self.send_error(416)
            return None
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("content-range", f"bytes {first}-{last}/{size}")
        self.send_header("content-length", str(last + 1 - first))
        self.send_header("accept-ranges", "bytes")
        self.end_headers()
        file = open(path, "rb")
        file.seek(first)
        self.remaining = last + 1 - first
        return file

    def copyfile(self, source, outputfile):
        while self.remaining > 0:
            chunk = source.read(min(self.remaining, 1 << 16))
            if not chunk:
                break
            outputfile.write(chunk)
            self.remaining -= len(chunk)

    def log_message(self, *args):
        """Not between the tests' lines."""


class Mirror:
    """Serves a folder until it is closed."""

    def __init__(self, folder: Path):
        handler = lambda *args: Handler(*args, directory=os.fspath(folder))  # noqa: E731
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        # What QEMU's network calls its host.
        self.url = f"http://10.0.2.2:{self.server.server_port}"

    def close(self) -> None:
        """No more answers."""
        self.server.shutdown()
        self.server.server_close()
