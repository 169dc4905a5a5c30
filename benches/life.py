#!/usr/bin/env python3
"""The life of containers: exec beside Debian's runc, a hundred containers at once, and what a supervisor takes.

usage: benches/life.py SLIPWAY [--rounds N] [--count N]      (root)"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import harness

# What a supervisor may take while its container runs, in bytes.
MOST_RESIDENT = 3 * harness.MIB


def call(*command, env=None, stdin=None):
    """Runs a command to its end -> its output."""
    done = subprocess.run(command, env={**os.environ, **(env or {})}, stdin=stdin, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def static_busybox():
    for path in ("/bin/busybox", "/usr/bin/busybox"):
        if os.path.exists(path):
            return path
    sys.exit("busybox-static is missing: scripts/setup test installs it")


def make_root(folder):
    """A root file system of busybox and its links."""
    (folder / "bin").mkdir(parents=True)
    for name in ("dev", "etc", "proc", "sys", "tmp"):
        (folder / name).mkdir()
    shutil.copy(static_busybox(), folder / "bin/busybox")
    for name in ("sh", "sleep", "true"):
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")


def resident(pid):
    """Bytes that a process has in memory, with those that it shares."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def bench_exec(slipway, env, root, folder, rounds):
    """One `exec` of true in a running container of ours and of runc's."""
    call(slipway, "run", "-d", "--name", "exec", "--network=none", "base", "sleep", "1000", env=env)
    bundle = folder / "bundle"
    shutil.copytree(root, bundle / "rootfs", symlinks=True)
    call("runc", "spec", "--bundle", str(bundle))
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"]["terminal"], spec["process"]["args"] = False, ["sleep", "1000"]
    (bundle / "config.json").write_text(json.dumps(spec))
    name = f"slipway-bench-{os.getpid()}"
    subprocess.run(["runc", "run", "--detach", "--bundle", str(bundle), name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    try:
        ours = ("slipway", lambda _: [slipway, "exec", "exec", "true"], env)
        peer = ("runc", lambda _: ["runc", "exec", name, "true"], None)
        return harness.compare("exec of true", 1 / 5, ours, [peer], rounds)
    finally:
        subprocess.run(["runc", "delete", "--force", name], check=False)
        call(slipway, "rm", "-f", "exec", env=env)


def bench_many(slipway, env, count):
    """`count` containers: started by one command, then stopped by one. -> the seconds of both, and the largest supervisor."""
    names = [f"many{number}" for number in range(count)]
    for name in names:
        call(slipway, "create", "--name", name, "--network=none", "base", "sleep", "1000", env=env)
    begun = time.perf_counter()
    call(slipway, "start", *names, env=env)
    started = time.perf_counter() - begun
    running = call(slipway, "ps", "-q", env=env).split()
    if len(running) != count:
        sys.exit(f"{len(running)} of {count} containers run")
    time.sleep(2)
    home = pathlib.Path(env["SLIPWAY_HOME"])
    states = [json.loads(path.read_text()) for path in home.glob("containers/*/state.json")]
    largest = max(resident(state["supervisor"]["pid"]) for state in states)
    begun = time.perf_counter()
    call(slipway, "kill", *names, env=env)
    call(slipway, "wait", *names, env=env)
    stopped = time.perf_counter() - begun
    call(slipway, "rm", *names, env=env)
    return started, stopped, largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slipway", type=os.path.abspath)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="slipway-life-"))
    env = {"SLIPWAY_HOME": str(folder / "home")}
    try:
        root = folder / "root"
        make_root(root)
        call("tar", "-C", str(root), "-cf", str(folder / "root.tar"), ".")
        call(options.slipway, "import", str(folder / "root.tar"), "base", env=env)
        met = harness.table([bench_exec(options.slipway, env, root, folder, options.rounds)])
        started, stopped, largest = bench_many(options.slipway, env, options.count)
        fast, small = started <= 1.0 * options.count / 100, largest <= MOST_RESIDENT
        print(f"{options.count} containers: started in {started:.2f}s ({'ok' if fast else 'MISSED'}), ended in {stopped:.2f}s")
        print(f"largest supervisor: {largest / harness.MIB:.2f} MiB resident ({'ok' if small else 'MISSED'})")
        return 0 if met and fast and small else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
