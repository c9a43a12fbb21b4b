"""A real agent: works under the client for as long as it is let, then ends well.

python agent.py NUMBER FINISH_FILE      prints the id of its execution as soon as it has one
"""

import sys
import time
from pathlib import Path

import handrail


def main(number: str, finish: Path) -> None:
    client = {"heartbeat_s": 10, "timeout_s": 3600, "max_retries": 0}
    with handrail.execution(f"chaos-{int(number) % 5}", run_id="chaos", task=f"Work {number}", **client) as work:
        sys.stdout.write(f"{work.id}\n")
        sys.stdout.flush()
        done = 0
        while not finish.exists():
            done += 1
            work.progress(done % 100, f"piece {done}")
            time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
