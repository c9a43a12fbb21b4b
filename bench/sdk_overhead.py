"""What a program waits for its client: nanoseconds on the caller's path, with the server up and away.

Once as agents report, a millisecond apart, and once in a burst, in which the program and the client's threads want the
interpreter at the same time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from launcher.child import Child
from launcher.web import SERVE

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(__file__).parent / "_sdk_program.py"
PORT = 18_765
READY_WITHIN_S = 60


def main() -> None:
    key = _manage("create_key", "bench", "--scopes", "ingest", "--ingest-per-minute", "0")
    command = [sys.executable, "-W", "ignore", *SERVE, "config.asgi:application"]
    command += ["--port", str(PORT), "--no-access-log", "--log-level", "warning"]
    web = Child(command, env=os.environ | {"HANDRAIL_STANDBY": "0"}, grace_s=5)
    try:
        _wait_until_ready()
        _show("server up", _measure(f"http://127.0.0.1:{PORT}", key))
    finally:
        web.stop()
    _show("server away", _measure(f"http://127.0.0.1:{PORT}", key))


def _manage(*words: str) -> str:
    done = subprocess.run([sys.executable, "manage.py", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _wait_until_ready() -> None:
    until_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until_s:
        try:
            if httpx.get(f"http://127.0.0.1:{PORT}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the web process did not answer")


def _measure(url: str, key: str) -> dict[str, list[int]]:
    with tempfile.TemporaryDirectory() as spool:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "sdk/src"),
            "HANDRAIL_URL": url,
            "HANDRAIL_API_KEY": key,
            "HANDRAIL_SPOOL": spool,
        }
        done = subprocess.run(
            [sys.executable, str(PROGRAM)], env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300
        )
    told = json.loads(done.stdout)
    assert told["dropped"] == 0, f"{told['dropped']} events were dropped"
    return told["waits_ns"]


def _show(title: str, waits_ns: dict[str, list[int]]) -> None:
    print(f"  {title:<24}{'p50':>9}{'p99':>9}{'max':>9}  µs")
    for name, waited in waits_ns.items():
        p50, p99, most = (waited[min(len(waited) - 1, int(len(waited) * share))] / 1000 for share in (0.5, 0.99, 1))
        print(f"    {name:<22}{p50:>9.1f}{p99:>9.1f}{most:>9.1f}")
