#!/usr/bin/env python3
"""The journey's scenarios beside Debian's docker (BuildKit) and docker-registry.

usage: benches/journey.py SLIPWAY [--rounds N] [-k WORD]      (root; starts a dockerd and two registries of its own)"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import harness

MIB = 2**20


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(check, what, seconds=60):
    for _ in range(seconds * 20):
        if check():
            return
        time.sleep(0.05)
    sys.exit(f"{what} did not start in {seconds} s")


def listens(port):
    with contextlib.closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def service(command, log, env=None):
    """A background process that ends with the block."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def payload(path, size, seed):
    """A file that compresses to about half, as binaries do: blocks of random bytes and of a repeated text in turns."""
    source = random.Random(seed)
    text = b"".join(b"%d the quick brown fox jumps over the lazy dog\n" % number for number in range(700))[:32768]
    with open(path, "wb") as file:
        for _ in range(size // 65536):
            file.write(source.randbytes(32768))
            file.write(text)


def base_image(folder):
    """A busybox root file system as a tar that `import` of both sides takes."""
    root = folder / "base"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "true", "cat", "ls", "echo", "mkdir"):
        os.link(root / "bin/busybox", root / "bin" / applet)
    for name in ("etc", "tmp", "proc", "sys", "dev"):
        (root / name).mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    subprocess.run(["tar", "-C", root, "--owner=0", "--group=0", "-cf", folder / "base.tar", "."], check=True)
    return folder / "base.tar"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slipway")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-k", default="", help="only scenarios whose title has this word")
    parser.add_argument("--json", help="write the figures to this file too")
    options = parser.parse_args()
    slipway, rows = os.path.realpath(options.slipway), []

    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="journey")))
        home = {"SLIPWAY_HOME": str(folder / "home")}
        sock = f"unix://{folder}/docker.sock"
        docker = {"DOCKER_BUILDKIT": "1", "DOCKER_HOST": sock, "DOCKER_CONFIG": str(folder)}
        client = "/usr/bin/docker"
        dockerd = ["dockerd", "--data-root", f"{folder}/docker", "--exec-root", f"{folder}/exec", "--host", sock, "--pidfile", f"{folder}/pid",
                   "--iptables=false", "--ip6tables=false", "--bridge=none", "--insecure-registry", "127.0.0.0/8"]
        stack.enter_context(service(dockerd, folder / "dockerd.log"))
        wait_for(lambda: subprocess.run([client, "info"], env={**os.environ, **docker}, capture_output=True).returncode == 0, "dockerd")

        ours_port, peer_port = free_port(), free_port()
        server = stack.enter_context(service([slipway, "serve", "--addr", f"127.0.0.1:{ours_port}", "--root", f"{folder}/registry"], folder / "serve.log"))
        (folder / "registry.yml").write_text(json.dumps({
            "version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": f"{folder}/peer-registry"}},
            "http": {"addr": f"127.0.0.1:{peer_port}"}}))
        stack.enter_context(service(["docker-registry", "serve", str(folder / "registry.yml")], folder / "peer.log"))
        for port in (ours_port, peer_port):
            wait_for(lambda: listens(port), f"the registry on port {port}")

        base = base_image(folder)
        harness.run([slipway, "import", str(base), "base:latest"], home)
        harness.run([client, "import", str(base), "base:latest"], docker)

        def build(tag, context, *flags):
            ours = ("ours", lambda _: [slipway, "build", "--progress=plain", *flags, "-t", tag, str(context)], home)
            peer = ("docker", lambda _: [client, "build", "--progress=plain", *flags, "--network=host", "-t", tag, str(context)], docker)
            return ours, [peer]

        def context(name, text):
            path = folder / name
            path.mkdir()
            (path / "Dockerfile").write_text(text)
            return path

        def wanted(title):
            return options.k in title

        title = "20 x RUN true, cold"
        if wanted(title):
            path = context("run20", "FROM base\n" + "RUN true\n" * 20)
            rows.append(harness.compare(title, 1 / 4, *build("run20", path, "--no-cache"), options.rounds))
        title = "fully cached, 20 steps"
        if wanted(title):
            path = context("cached", "FROM base\nCOPY files /files\n" + "".join(f"RUN echo {n} > /{n}\n" for n in range(19)))
            (path / "files").mkdir()
            for number in range(50):
                (path / "files" / f"{number}.txt").write_text("text\n" * number)
            rows.append(harness.compare(title, 1 / 2, *build("cached", path), options.rounds))
        title = "run --rm true"
        if wanted(title):
            ours = ("ours", lambda _: [slipway, "run", "--rm", "--network=none", "base", "true"], home)
            peer = ("docker", lambda _: [client, "run", "--rm", "--network=none", "base", "true"], docker)
            rows.append(harness.compare(title, 1 / 5, ours, [peer], options.rounds * 2))
        big = context("big", "FROM scratch\nCOPY payload /payload\n")
        payload(big / "payload", 512 * MIB, 0)
        title = "COPY of 512 MiB, cold"
        if wanted(title):
            rows.append(harness.compare(title, 1 / 3, *build("big", big, "--no-cache"), options.rounds))

        rounds = min(options.rounds, 3)
        if wanted("push of 512 MiB") or wanted("pull of 512 MiB"):
            names = {"ours": f"127.0.0.1:{ours_port}/big", "docker": f"127.0.0.1:{peer_port}/big"}
            tools = {"ours": (slipway, home), "docker": (client, docker)}
            push, pull = [[harness.Side(name) for name in names] for _ in range(2)]
            for round_ in range(rounds):
                payload(big / "payload", 512 * MIB, 1 + round_)  # new bytes, so that nothing is remembered
                for index, (side, name) in enumerate(names.items()):
                    tool, env = tools[side]
                    reference = f"{name}:{round_}"
                    harness.run([tool, "build", "-t", reference, str(big)], env)
                    seconds, peak = harness.run([tool, "push", reference], env)
                    push[index].times.append(seconds)
                    push[index].peak = max(push[index].peak, peak)
                    if side == "ours":
                        env = {"SLIPWAY_HOME": f"{folder}/other{round_}"}
                    else:
                        harness.run([tool, "rmi", "-f", reference], env)
                        harness.run([tool, "builder", "prune", "-af"], env)
                    seconds, peak = harness.run([tool, "pull", reference], env)
                    pull[index].times.append(seconds)
                    pull[index].peak = max(pull[index].peak, peak)
                    if side == "ours":
                        shutil.rmtree(env["SLIPWAY_HOME"])
            rows += [("push of 512 MiB", 1.0, push), ("pull of 512 MiB", 1.0, pull)]
            status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
            served = int(status.split("VmHWM:")[1].split()[0]) * 1024
            print(f"peak memory of `slipway serve`: {served / MIB:.0f} MiB")
            if served > 150 * MIB:
                sys.exit("`slipway serve` took more than 150 MiB")

    if options.json:
        figures = [{"scenario": title, "target": target, "sides": {s.name: {"seconds": s.times, "peak": s.peak} for s in sides}} for title, target, sides in rows]
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1))
    sys.exit(0 if harness.table(rows) else 1)


main()
