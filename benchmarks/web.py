"""How long the pages of `samestyle serve` take: the first one after the start, then medians; one client, no cache.

.venv/bin/python benchmarks/web.py [--rounds 50] [a.b=value ...]

Shows the release that `current` names, of the demo unless settings say otherwise. Times end with the last byte of the
page; photos are not fetched. `cpu_ms` is what a page costs the server, whatever else the machine does, which `load`
tells. `mib`: its resident memory at the end. Linux only.
"""

import argparse
import html
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("settings", nargs="*", help="which store, such as paths.root=data/dev")
    options = parser.parse_args()
    with serving(options.settings) as (server, port):
        visit = Visit(http.client.HTTPConnection("127.0.0.1", port), server.pid)
        first = visit.measure("/", 1)
        found = {name: visit.measure(path, options.rounds) for name, path in pages(visit).items()}
        told = {"first": first, **found, "mib": memory_mib(server.pid), "load": os.getloadavg()[0]}
    print(json.dumps(told, indent=1))


@dataclass(frozen=True)
class Visit:
    """One client of one server process."""

    connection: http.client.HTTPConnection
    pid: int

    def measure(self, path: str, rounds: int) -> dict[str, float]:
        """ms: median from the request to the last byte. cpu_ms: what the server computed, on average."""
        before = cpu_ms(self.pid)
        times = [self.get(path)[0] for _ in range(rounds)]
        spent = (cpu_ms(self.pid) - before) / rounds
        return {"ms": round(statistics.median(times), 1), "cpu_ms": round(spent, 1)}

    def get(self, path: str) -> tuple[float, bytes]:
        """Milliseconds, and the page."""
        start = time.perf_counter()
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        page = answer.read()
        assert answer.status == 200, f"{path}: {answer.status}"
        return 1000 * (time.perf_counter() - start), page


@contextmanager
def serving(settings: list[str]) -> Iterator[tuple[subprocess.Popen, int]]:
    words = [sys.executable, "-m", "samestyle.cli", "serve", "--port", "0", "--refresh-seconds", "0", *settings]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            found = re.search(r":(\d+) ", server.stdout.readline())
            assert found, "the server has not started; its message is above"
            yield server, int(found.group(1))
        finally:
            server.terminate()


def pages(visit: Visit) -> dict[str, str]:
    """Of each kind one: the product is the first that the home page shows."""
    text = visit.get("/")[1].decode()
    product = re.search(r'href="(/alike\?[^"]+)"', text)
    supplier = re.search(r'href="(/duplicates\?[^"]+)"', text)
    assert product, "the home page shows no product"
    assert supplier, "its products have no supplier"
    links = {"alike": html.unescape(product.group(1)), "duplicates": html.unescape(supplier.group(1))}
    return {"home": "/", "words": "/search?q=ceramic+mug", **links, "release": "/release"}


def cpu_ms(pid: int) -> float:
    """User and system time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> int:
    """Resident memory of a process, on Linux."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found.group(1)) // 1024


if __name__ == "__main__":
    main()
