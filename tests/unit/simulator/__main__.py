"""Plays many schedules: `python -m tests.unit.simulator --seeds 100000`."""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.unit.simulator.histories import explain, play, tell
from tests.unit.simulator.schedule import schedule_for


def _batch(seeds: range) -> tuple[int, list[tuple[int, str]]]:
    failed = []
    for seed in seeds:
        violation = play(schedule_for(seed))
        if violation:
            failed.append((seed, violation.rule))
    return len(seeds), failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Seeded schedules of faults against both pure steps."
    )
    parser.add_argument("--seeds", type=int, default=2000, help="how many schedules")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--tell", action="store_true", help="print each schedule's history")
    parser.add_argument("--digest", action="store_true", help="print the digest of all histories")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args(argv)
    seeds = range(options.start, options.start + options.seeds)
    if options.tell:
        for seed in seeds:
            print(tell(schedule_for(seed)))
        return 0
    if options.digest:
        histories = "\n".join(tell(schedule_for(seed)) for seed in seeds)
        print(hashlib.sha256(histories.encode()).hexdigest())
        return 0
    began = said = time.monotonic()
    played, failed = 0, []
    batches = [seeds[i : i + 100] for i in range(0, len(seeds), 100)]
    with multiprocessing.Pool(options.jobs) as pool:
        for count, bad in pool.imap_unordered(_batch, batches):
            played += count
            failed += bad
            if time.monotonic() - said > 4:
                said = time.monotonic()
                print(f"{played} schedules, {len(failed)} broken", flush=True)
    seconds = time.monotonic() - began
    print(f"{played} schedules in {seconds:.1f} s, {len(failed)} broken")
    rules = Counter(rule for _, rule in failed)
    for rule, count in rules.most_common():
        print(f"  {rule}: {count}, as seeds {[s for s, r in sorted(failed) if r == rule][:8]}")
    if failed:
        print(explain(min(failed)[0]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
