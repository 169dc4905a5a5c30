#!/usr/bin/env python3
"""The life of containers, beside Debian's runc and docker, and crun where it runs: one from start to end, one more program
in one that runs, a step of a build, and a hundred at once.

usage: benches/life.py SLIPWAY [--bare PROGRAM] [--rounds N] [--count N] [-k WORD] [--json FILE]      (root)"""
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import harness
import peers

# What a supervisor may take while its container runs, in bytes.
MOST_RESIDENT = 3 * harness.MIB
# What a step may take above making namespaces, changing the root and running a program, in seconds.
MOST_ABOVE_BARE = 0.012
STEPS = 20


def call(command, env=None):
    """Runs a command to its end -> its output."""
    done = subprocess.run(command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def resident(pid):
    """Bytes that a process has in memory, with those that it shares."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def bundle(arena, name, *program):
    """A bundle of the base image with runc's own defaults, as `runc run` takes it."""
    path = arena.folder / name
    path.mkdir()
    (path / "rootfs").symlink_to(arena.folder / "base")
    call(["runc", "spec", "--bundle", str(path)])
    config = path / "config.json"
    spec = json.loads(config.read_text())
    spec["process"]["terminal"], spec["process"]["args"] = False, list(program)
    spec["root"]["path"] = str(arena.folder / "base")
    config.write_text(json.dumps(spec))
    return str(path)


def runtimes(arena, path):
    """The OCI runtimes that run here, with the bundle at `path`."""
    found = []
    for name in ("runc", "crun"):
        command = [name, "--root", f"{arena.folder}/{name}"]
        tried = shutil.which(name) and subprocess.run([*command, "run", "--bundle", path, "try"], stdin=subprocess.DEVNULL, capture_output=True)
        if tried and tried.returncode == 0:
            found.append((name, command))
        else:
            print(f"{name} does not run here: no peer of this name", file=sys.stderr)
    return found


def bench_run(arena, rounds):
    """One container from start to end: from a stored image, beside runtimes with a bundle and docker with its own store."""
    ours = ("ours", lambda _: [arena.slipway, "run", "--rm", "--network=none", "base", "true"], arena.home)
    path = bundle(arena, "bundle", "true")
    beside = [(name, lambda turn, command=command: [*command, "run", "--bundle", path, f"run{turn}"], None) for name, command in runtimes(arena, path)]
    docker = ("docker", lambda _: [peers.CLIENT, "run", "--rm", "--network=none", "base", "true"], arena.docker)
    return [
        harness.compare("run --rm of true, to a bundle's", 1 / 3, ours, beside, rounds),
        harness.compare("run --rm of true, to docker's", 1 / 15, ours, [docker], min(rounds, 10)),
    ]


def bench_exec(arena, rounds):
    """One more program in a container that runs."""
    call([arena.slipway, "run", "-d", "--name", "exec", "--network=none", "base", "sleep", "1000"], env=arena.home)
    path = bundle(arena, "sleeping", "sleep", "1000")
    command = ["runc", "--root", f"{arena.folder}/runc"]
    subprocess.run([*command, "run", "--detach", "--bundle", path, "exec"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    try:
        ours = ("ours", lambda _: [arena.slipway, "exec", "exec", "true"], arena.home)
        peer = ("runc", lambda _: [*command, "exec", "exec", "true"], None)
        return harness.compare("exec of true", 1 / 5, ours, [peer], rounds)
    finally:
        call([*command, "delete", "--force", "exec"])
        call([arena.slipway, "rm", "-f", "exec"], env=arena.home)


def bench_step(arena, bare, rounds):
    """What a RUN step takes above what `bare` does. -> the seconds of a step, and of `bare`."""
    sides = {}
    for name, steps in (("none", 0), ("steps", STEPS)):
        path = arena.context(name, "FROM base\nENV a=b\n" + "RUN true\n" * steps)
        sides[name] = arena.build(name, path, "--no-cache")[0][1], arena.home
    sides["bare"] = (lambda _: [bare, str(arena.folder / "base"), str(STEPS), "/bin/true"]), None
    times = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, (command, env) in sides.items():
            seconds, _ = harness.run(command(turn), env)
            if turn:
                times[name].append(seconds)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    return (median["steps"] - median["none"]) / STEPS, median["bare"] / STEPS


def bench_many(arena, count):
    """`count` containers: started by one command, then ended by one. -> the seconds of both, and the largest supervisor."""
    slipway, env = arena.slipway, arena.home
    names = [f"many{number}" for number in range(count)]
    for name in names:
        call([slipway, "create", "--name", name, "--network=none", "base", "sleep", "1000"], env=env)
    begun = time.perf_counter()
    call([slipway, "start", *names], env=env)
    started = time.perf_counter() - begun
    running = call([slipway, "ps", "-q"], env=env).split()
    if len(running) != count:
        sys.exit(f"{len(running)} of {count} containers run")
    time.sleep(2)  # they have started, and wait
    states = [json.loads(path.read_text()) for path in pathlib.Path(env["SLIPWAY_HOME"]).glob("containers/*/state.json")]
    largest = max(resident(state["supervisor"]["pid"]) for state in states)
    begun = time.perf_counter()
    call([slipway, "kill", *names], env=env)
    call([slipway, "wait", *names], env=env)
    ended = time.perf_counter() - begun
    call([slipway, "rm", *names], env=env)
    return started, ended, largest


def main():
    parser = peers.parser(__doc__, rounds=20)
    parser.add_argument("--bare", type=os.path.abspath, help="what `cargo build -p runtime --example bare` makes")
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    bare = options.bare or os.path.join(os.path.dirname(os.path.abspath(options.slipway)), "examples/bare")
    met, figures, rows = True, {}, []

    def claim(text, seconds_or_bytes, most):
        nonlocal met
        good = seconds_or_bytes <= most
        met &= good
        print(f"{text} ({'ok' if good else 'MISSED'})")

    wanted = lambda title: options.k in title
    with peers.arena(options.slipway, "life") as arena:
        if wanted("run"):
            rows += bench_run(arena, options.rounds)
        if wanted("exec"):
            rows.append(bench_exec(arena, options.rounds))
        met &= harness.table(rows) if rows else True
        if wanted("step"):
            step, floor = figures["step"], figures["bare"] = bench_step(arena, bare, max(3, options.rounds // 4))
            claim(f"RUN step: {step * 1e3:.1f} ms, {(step - floor) * 1e3:.1f} ms above the bare {floor * 1e3:.1f} ms", step - floor, MOST_ABOVE_BARE)
        if wanted("many"):
            started, ended, largest = figures["started"], figures["ended"], figures["resident"] = bench_many(arena, options.count)
            claim(f"{options.count} containers: started in {started:.2f} s, ended in {ended:.2f} s", started, options.count / 100)
            claim(f"largest supervisor: {largest / harness.MIB:.2f} MiB resident", largest, MOST_RESIDENT)
    if options.json:
        figures["rows"] = {title: {s.name: s.times for s in sides} for title, _, sides in rows}
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
