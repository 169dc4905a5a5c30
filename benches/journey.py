#!/usr/bin/env python3
"""The journey's scenarios beside Debian's docker (BuildKit) and docker-registry.

usage: benches/journey.py SLIPWAY [--rounds N] [-k WORD]      (root; starts a dockerd and two registries of its own)"""
import json
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import harness
import peers
from harness import MIB
from peers import CLIENT, free_port, listens, payload, service, wait_for


def main():
    options, rows = peers.options(__doc__), []

    with peers.arena(options.slipway, "journey") as arena:
        folder, home, docker, slipway, stack = arena.folder, arena.home, arena.docker, arena.slipway, arena.stack
        client, context = CLIENT, arena.context
        ours_port, peer_port = free_port(), free_port()
        server = stack.enter_context(service([slipway, "serve", "--addr", f"127.0.0.1:{ours_port}", "--root", f"{folder}/registry"], folder / "serve.log"))
        (folder / "registry.yml").write_text(json.dumps({
            "version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": f"{folder}/peer-registry"}},
            "http": {"addr": f"127.0.0.1:{peer_port}"}}))
        stack.enter_context(service(["docker-registry", "serve", str(folder / "registry.yml")], folder / "peer.log"))
        for port in (ours_port, peer_port):
            wait_for(lambda: listens(port), f"the registry on port {port}")

        def build(tag, path, *flags):
            ours, others = arena.build(tag, path, *flags)
            return ours, others[:1]

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

    harness.finish(rows, json_file=options.json)


main()
