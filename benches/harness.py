"""Times whole commands, ours and its peers' in turns, and prints ratios, peak memory and growth.

A claim is always a ratio of medians from one run on one machine, never an absolute time: the machine is whatever it
is, and busy or not, all sides see the same of it. Beside several peers the ratio is to the faster one."""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

MIB = 2**20


class Side:
    """One contender: its name, and what it measured."""

    def __init__(self, name):
        self.name, self.times, self.peak = name, [], 0

    @property
    def median(self):
        return statistics.median(self.times)


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
    """Runs `ours` and each of `peers` in turns. Each is (name, function(round) -> command, env).

    `target` is the ratio to the fastest peer that must not be passed; `before(name, round)` is not timed. A peer that takes
    twice as long as another one in the first round is measured no further: the ratio is to the fastest.
    -> a row for `table`."""
    sides = [Side(name) for name, _, _ in [ours, *peers]]
    for round_ in range(rounds + 1):
        fastest = min((side.times[0] for side in sides[1:] if side.times), default=0)
        for side, (_, command, env) in zip(sides, [ours, *peers]):
            if side is not sides[0] and side.times and side.times[0] > 2 * fastest:
                continue
            if before:
                before(side.name, round_)
            seconds, peak = run(command(round_), env)
            if round_:  # the first round only warms up
                side.times.append(seconds)
                side.peak = max(side.peak, peak)
    return title, target, sides


def table(rows, most_memory=100 * MIB):
    """Prints the rows; -> whether every target was met."""
    width = max((len(title) for title, _, _ in rows), default=8)
    print(f"{'scenario':{width}}  {'ours':>9}  {'peer':>9}  {'ratio':>6}  {'target':>6}  {'peak':>8}  min..max of ours, of each peer")
    met = True
    for title, target, sides in rows:
        ours, peer = sides[0], min(sides[1:], key=lambda side: side.median)
        ratio = ours.median / peer.median
        good = ratio <= target and ours.peak <= most_memory
        met &= good
        spread = "  ".join(f"{s.name} {min(s.times):.3f}..{max(s.times):.3f}" for s in sides)
        print(f"{title:{width}}  {ours.median:8.3f}s  {peer.median:8.3f}s  {ratio:6.3f}  {target:6.3f}  {ours.peak / MIB:5.0f}MiB  {spread}  {'ok' if good else 'MISSED'}")
    return met


class Growth:
    """How one scenario's time grows with its size, for each side: `points[name]` is a list of (size, seconds), and
    `noise[name]` of how far from these the runs mostly were."""

    def __init__(self, title, unit):
        self.title, self.unit, self.points, self.noise = title, unit, {}, {}

    def measure(self, name, size, command, env, rounds, before=None):
        """Takes the median of `rounds` runs of `command` as the point of `name` at `size`."""
        side = Side(name)
        for round_ in range(rounds):
            if before:
                before(name, round_)
            side.times.append(run(command(round_), env)[0])
        self.points.setdefault(name, []).append((size, side.median))
        self.noise.setdefault(name, []).append(statistics.median(abs(seconds - side.median) for seconds in side.times))

    def costs(self, name):
        """-> (size, seconds, cost of one more unit since the size before; for the first, since nothing)."""
        before, costs = (0, 0.0), []
        for size, seconds in self.points[name]:
            costs.append((size, seconds, (seconds - before[1]) / (size - before[0])))
            before = size, seconds
        return costs

    def rises(self, name="ours", slack=1.25):
        """Whether one more unit ever costs more, by more than noise, than one of the smaller sizes did. A few units more may
        cost nothing that can be measured: then that is what they may have cost."""
        sizes, noise = [size for size, _ in self.points[name]], self.noise[name]
        lowest = float("inf")
        for place, (_, _, cost) in enumerate(self.costs(name)):
            blur = (noise[place] + noise[place - 1]) / (sizes[place] - sizes[place - 1]) if place else 0.0
            if cost - blur > slack * lowest:
                return True
            lowest = min(lowest, cost + blur)
        return False

    def print(self):
        print(f"\n{self.title}: seconds in all, and microseconds for one more {self.unit}")
        for name in self.points:
            figures = "   ".join(f"{size:>7,}: {seconds:8.3f} s {cost * 1e6:8.0f} µs" for size, seconds, cost in self.costs(name))
            print(f"  {name:8} {figures}  {'RISES' if name == 'ours' and self.rises() else ''}")

    def svg(self, path):
        """Draws all sides on logarithmic axes: a straight line at 45 degrees is a constant cost."""
        import math

        everything = [point for points in self.points.values() for point in points]
        low_x, high_x = (f(math.log10(size) for size, _ in everything) for f in (min, max))
        low_y, high_y = (f(math.log10(seconds) for _, seconds in everything) for f in (min, max))
        low_y, high_y = math.floor(low_y), math.ceil(high_y)
        place_x = lambda size: 70 + 420 * (math.log10(size) - low_x) / max(high_x - low_x, 1e-9)
        place_y = lambda seconds: 290 - 240 * (math.log10(seconds) - low_y) / max(high_y - low_y, 1e-9)
        text = lambda x, y, words, anchor="middle": f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{words}</text>'
        parts = [text(280, 24, self.title), text(280, 330, f"{self.unit}s")]
        for power in range(low_y, high_y + 1):
            y = place_y(10.0**power)
            parts += [f'<path d="M70 {y:.0f}H490" stroke="#ddd"/>', text(62, y + 4, f"{10.0**power:g} s", "end")]
        for size in sorted({size for size, _ in everything}):
            parts.append(text(place_x(size), 310, f"{size:,}"))
        for color, (name, points) in zip(("#c33", "#36c", "#393"), self.points.items()):
            line = " ".join(f"{place_x(size):.1f},{place_y(seconds):.1f}" for size, seconds in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
            parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{color}"/>' for x, y in (point.split(",") for point in line.split())]
            x, y = place_x(points[-1][0]), place_y(points[-1][1])
            parts.append(f'<g fill="{color}">{text(x + 8, y + 4, name, "start")}</g>')
        head = '<svg xmlns="http://www.w3.org/2000/svg" width="560" height="345" font-family="sans-serif" font-size="12">'
        pathlib.Path(path).write_text(head + '<rect width="560" height="345" fill="#fff"/>' + "".join(parts) + "</svg>\n")


def finish(rows, growths=(), json_file=None, plots=None):
    """Prints everything, writes what was asked for, and ends the program: 0 when every target was met."""
    met = table(rows) if rows else True
    for growth in growths:
        growth.print()
        met &= not growth.rises()
        if plots:
            pathlib.Path(plots).mkdir(parents=True, exist_ok=True)
            growth.svg(pathlib.Path(plots) / (growth.title.replace(" ", "-").replace(",", "") + ".svg"))
    if json_file:
        figures = [{"scenario": title, "target": target, "sides": {s.name: {"seconds": s.times, "peak": s.peak} for s in sides}} for title, target, sides in rows]
        figures += [{"growth": growth.title, "unit": growth.unit, "points": growth.points} for growth in growths]
        pathlib.Path(json_file).write_text(json.dumps(figures, indent=1))
    sys.exit(0 if met else 1)
