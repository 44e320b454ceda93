"""Speed of `genmnist serve` under load from wrk, on the same machine.

    python benchmarks/serving.py [--export=exports/vae] [--seconds=60] [--requests=20000]

One image a request, by the signatures `sample_rows`, which joins concurrent requests, and `sample`, which cannot; each
request has a seed of its own.  With one client, latency counts; with 32, requests/s and that none fails.  Then the
memory of the server after more requests: it must not grow with them.

The server and wrk share the machine.  wrk is Debian's package of this name.  Without --export, a VAE of configs/vae.py
is trained for one epoch and exported: the arithmetic is that of a better one.
"""

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

_EXPORT = flags.DEFINE_string("export", None, "exports/NAME; by default one that is made for this.")
_SECONDS = flags.DEFINE_integer("seconds", 60, "Of load, for each row of the table.", lower_bound=1)
_REQUESTS = flags.DEFINE_integer("requests", 20_000, "Over which memory must stay flat.", lower_bound=1)

GENMNIST = [sys.executable, "-m", "keras_genmnist"]
TARGET_P50_MS, TARGET_REQUESTS_PER_S = 10.0, 300.0
BODIES = {
    "sample_rows": '{"instances": [SEED]}',
    "sample": '{"signature_name": "sample", "inputs": {"num_samples": 1, "seed": SEED}}',
}
SCRIPT = """
local seed = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  seed = seed + 1
  return wrk.format(nil, nil, nil, (string.gsub('BODY', "SEED", seed)))
end
done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("found %d %f %f %f %d\\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
"""


class Load(NamedTuple):
    """What wrk found: requests answered, seconds, latency of the median and the 99th percentile in ms, failures."""

    requests: int
    seconds: float
    p50: float
    p99: float
    failed: int


def load(url: str, signature: str, clients: int, seconds: int) -> Load:
    """Runs wrk."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.replace("BODY", BODIES[signature]))
        script.flush()
        command = ["wrk", "--threads=1", f"--connections={clients}", f"--duration={seconds}s", "--timeout=10s"]
        done = subprocess.run([*command, f"--script={script.name}", url], capture_output=True, text=True, check=True)
    requests, *times, failed = re.search("found (.*)", done.stdout)[1].split()
    return Load(int(requests), *map(float, times), int(failed))


def exported(folder: Path) -> Path:
    """An export of a VAE trained for one epoch on the 5,000 digits inside the package."""
    run = f"--workdir={folder / 'vae'}"
    genmnist("train", run, "--model=vae", "--config.dataset=mnist_5k", "--config.epochs=1")
    genmnist("export", run, f"--out={folder / 'exports'}")
    return folder / "exports" / "vae"


def genmnist(*arguments: str) -> None:
    """Runs `genmnist ARGUMENTS`."""
    subprocess.run([*GENMNIST, *arguments], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def serving(export: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """`genmnist serve` of an export on a free port, once it is ready; it and its address."""
    server = subprocess.Popen([*GENMNIST, "serve", f"--export={export}", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        address = re.search("http://.*", server.stdout.readline())[0]
        server.stdout.readline()  # it serves the version
        urllib.request.urlopen(f"{address}/readyz").close()
        yield server, address
    finally:
        server.terminate()
        server.wait()


def resident(server: subprocess.Popen) -> float:
    """The memory that a process holds, MB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    if not shutil.which("wrk"):
        raise app.UsageError("wrk is needed to make the load: install it (Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory() as folder:
        export = Path(_EXPORT.value) if _EXPORT.value else exported(Path(folder))
        with serving(export) as (server, address):
            url = f"{address}/v1/models/{export.name}:predict"
            start = resident(server)
            for signature in BODIES:
                load(url, signature, 32, 2)  # the first requests are not counted
            warm, total = resident(server), 0
            print(f"{'one image by':14} {'clients':>8} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'failed':>7}")
            for signature in BODIES:
                for clients in (1, 32):
                    found = load(url, signature, clients, _SECONDS.value)
                    total += found.requests
                    rate = found.requests / found.seconds
                    print(
                        f"{signature:14} {clients:8} {rate:11.0f} {found.p50:8.1f} {found.p99:8.1f} {found.failed:7}",
                        flush=True,
                    )
            print(f"asked: p50 below {TARGET_P50_MS:.0f} ms, {TARGET_REQUESTS_PER_S:.0f} requests/s, none failed")
            while total < _REQUESTS.value:
                total += load(url, "sample_rows", 32, 5).requests
            end = resident(server)
    print(f"memory: {start:.0f} MB at the start, {warm:.0f} MB warm, {end:.0f} MB after {total:,} more requests")


if __name__ == "__main__":
    app.run(main)
