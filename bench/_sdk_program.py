"""A supervised program that measures how long it waits for its client; `sdk_overhead` runs it."""

import json
import random
import sys
import time
from collections.abc import Callable

import handrail

PACED = 1_500
BURST = 3_000
APART_S = 0.001


def waits_ns(act: Callable[[], object], count: int, apart_s: float) -> list[int]:
    waited = []
    for _ in range(count):
        began_ns = time.perf_counter_ns()
        act()
        waited.append(time.perf_counter_ns() - began_ns)
        if apart_s:
            time.sleep(apart_s)
    return sorted(waited)


def main() -> None:
    # What the machine itself makes a program wait, before the client has a thread.
    text = json.dumps({"lines": list(range(200))})
    measured = {"none burst": waits_ns(lambda: json.loads(text), BURST, 0.0)}
    arguments = {"query": "a room in Leeds", "nights": 2, "limits": {"price": 120, "stars": [3, 4, 5]}}
    with handrail.execution("bench", timeout_s=600) as ex:
        acts: dict[str, Callable[[], object]] = {
            "ex.progress": lambda: ex.progress(random.random() * 100, "comparing prices"),
            "ex.call": lambda: ex.call(model="gpt-4o-mini", input_tokens=1200, output_tokens=80, latency_ms=900),
            "ex.tool": lambda: ex.tool("find_room", arguments, output="Room 7", duration_ms=12),
            "ex.check": ex.check,
        }
        for name, act in acts.items():
            act()
            for how, count, apart_s in (("apart", PACED, APART_S), ("burst", BURST, 0.0)):
                time.sleep(0.3)
                measured[f"{name} {how}"] = waits_ns(act, count, apart_s)
        began_ns = time.perf_counter_ns()
        for _ in range(200):
            with handrail.execution("inner"):
                pass
        measured["execution"] = [(time.perf_counter_ns() - began_ns) // 200] * 100
    json.dump({"waits_ns": measured, "dropped": handrail.client().dropped}, sys.stdout)


if __name__ == "__main__":
    main()
