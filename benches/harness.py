"""Times whole commands, ours and a peer's in turns, and prints ratios and peak memory as a table.

A claim is always a ratio of medians from one run on one machine, never an absolute time: the machine is whatever it
is, and busy or not, both sides see the same of it."""
import os
import statistics
import subprocess
import sys
import time


class Side:
    """One contender: its name, and what it measured."""

    def __init__(self, name):
        self.name, self.times, self.peak = name, [], 0


def run(command, env=None, quiet=True):
    """Runs one command to its end -> (seconds, peak resident bytes of the process or the largest of its children)."""
    sink = subprocess.DEVNULL if quiet else None
    started = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.PIPE, env={**os.environ, **(env or {})})
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\nended with {process.returncode}: {errors.decode(errors='replace')[-2000:]}")
    return seconds, usage.ru_maxrss * 1024


def compare(title, target, ours, peers, rounds, before=None):
    """Runs `ours` and each of `peers` in turns. Each is (name, function(round) -> command or [commands], env).

    `target` is the ratio to the first peer that must not be passed. -> a row for `table`."""
    sides = [Side(name) for name, _, _ in [ours, *peers]]
    for round_ in range(rounds + 1):
        for side, (_, command, env) in zip(sides, [ours, *peers]):
            if before:
                before(side.name, round_)
            seconds, peak = run(command(round_), env)
            if round_:  # the first round only warms up
                side.times.append(seconds)
                side.peak = max(side.peak, peak)
    return title, target, sides


def table(rows):
    """Prints the rows; -> whether every target was met."""
    width = max(len(title) for title, _, _ in rows)
    print(f"{'scenario':{width}}  {'ours':>9}  {'peer':>9}  {'ratio':>6}  {'target':>6}  {'peak':>8}  min..max of ours, of the peer")
    met = True
    for title, target, sides in rows:
        ours, peer = sides[0], sides[1]
        mine, theirs = statistics.median(ours.times), statistics.median(peer.times)
        ratio = mine / theirs
        good = ratio <= target and ours.peak <= 150 * 2**20
        met &= good
        spread = "  ".join(f"{min(s.times):.3f}..{max(s.times):.3f}" for s in (ours, peer))
        print(f"{title:{width}}  {mine:8.3f}s  {theirs:8.3f}s  {ratio:6.3f}  {target:6.3f}  {ours.peak / 2**20:5.0f}MiB  {spread}  {'ok' if good else 'MISSED'}")
    return met
