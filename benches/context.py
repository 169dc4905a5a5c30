#!/usr/bin/env python3
"""What a file of the context costs, beside Debian's docker (BuildKit) and buildah: time, memory, and the bytes of an export.

BuildKit inside docker 20.10 compresses no layers itself; its gzip is measured where it does, in `docker push` to a registry
on this machine, and ours and buildah's the same way. For zstd there is buildah alone.

usage: benches/context.py SLIPWAY [--rounds N] [-k WORD] [--json FILE] [--plots FOLDER]      (root)"""
import json
import os
import pathlib
import random
import shutil
import sys
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import harness
import peers

MIB = harness.MIB
COPY = "FROM base\nCOPY src /src\n"


def lay(folder, count, size):
    """Files as a project has them: a hundred in a folder, of `size` bytes in the mean."""
    source = random.Random(count)
    pool = source.randbytes(MIB)
    for number in range(count):
        place = folder / "src" / f"folder{number // 100:04}" / f"module{number:06}.js"
        if number % 100 == 0:
            place.parent.mkdir(parents=True)
        start = source.randrange(MIB - 2 * size)
        place.write_bytes(b"%d\n" % number + pool[start : start + source.randrange(2 * size)])


def change(folder):
    """Gives one file other bytes; -> a `before` for the harness."""
    return lambda name, round_: (folder / "src/folder0003/module000345.js").write_text(f"{name} {round_} {os.urandom(8).hex()}\n")


def overwrite(path):
    """Gives a large file another beginning; -> a `before` for the harness, so that no side has the layer already."""

    def before(_name, _round):
        with open(path, "r+b") as file:
            file.write(os.urandom(32))

    return before


def exports(arena, rounds, kind):
    """Pushes 256 MiB that no side has seen, compressed as each does by itself; -> a row.

    Their gzip is of level 6 and ours is made for speed, so the bytes are printed, too; zstd is of level 3 everywhere."""
    port = peers.free_port()
    (arena.folder / "registry.yml").write_text(
        f'version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {arena.folder}/registry}}}}\nhttp: {{addr: "127.0.0.1:{port}"}}\n')
    title = f"{kind} and push of 256 MiB"
    path = arena.context("push", "FROM scratch\nCOPY payload /payload\n")
    sides = {"ours": ([arena.slipway, "build", "-t"], [arena.slipway, "push", "--compression", kind], arena.home)}
    if kind == "gzip":
        sides["docker"] = [peers.CLIENT, "build", "-t"], [peers.CLIENT, "push"], arena.docker
    if arena.buildah:
        send = [*arena.buildah, "push", "--tls-verify=false", "--compression-format", kind]
        sides["buildah"] = [*arena.buildah, "build", "-t"], send, {}
    results = [harness.Side(name) for name in sides]
    with peers.service(["docker-registry", "serve", str(arena.folder / "registry.yml")], arena.folder / "registry.log"):
        peers.wait_for(lambda: peers.listens(port), "docker-registry")
        for round_ in range(rounds):
            peers.payload(path / "payload", 256 * MIB, 100 + round_)
            for side, (build, send, env) in zip(results, sides.values()):
                reference = f"127.0.0.1:{port}/{side.name}:{kind}{round_}"
                harness.run([*build, reference, str(path)], env)
                seconds, peak = harness.run([*send, reference], env)
                side.times.append(seconds)
                side.peak = max(side.peak, peak)
        for side in results:
            accept = {"Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/{side.name}/manifests/{kind}0", headers=accept)
            layers = json.load(urllib.request.urlopen(request))["layers"]
            print(f"{title}: {side.name} sent {sum(layer['size'] for layer in layers):,} bytes", file=sys.stderr)
    return title, 1 / 10, results


def main():
    options = peers.options(__doc__)
    rows, growths, greedy = [], [], []
    with peers.arena(options.slipway, "context") as arena:

        def wanted(title):
            return options.k in title

        folder = arena.context("files10000", COPY)
        if options.k in "10,000 files, unchanged 10,000 files, one changed":
            lay(folder, 10_000, 8 << 10)
        ours, others = arena.build("files", folder)
        title = "10,000 files, unchanged"
        if wanted(title):
            rows.append(harness.compare(title, 1 / 5, ours, others, options.rounds))
        title = "10,000 files, one changed"
        if wanted(title):
            rows.append(harness.compare(title, 1 / 15, ours, others, options.rounds, change(folder)))
        shutil.rmtree(folder)
        title = "COPY of 512 MiB, cold"
        if wanted(title):
            path = arena.context("big", "FROM scratch\nCOPY payload /payload\n")
            peers.payload(path / "payload", 512 * MIB, 0)
            rows.append(harness.compare(title, 1 / 5, *arena.build("big", path, "--no-cache"), options.rounds, overwrite(path / "payload")))
            (path / "payload").unlink()
        for kind in ("gzip", "zstd"):
            if wanted(f"{kind} and push of 256 MiB") and (kind == "gzip" or arena.buildah):
                rows.append(exports(arena, options.rounds, kind))

        titles = ["files, cold", "files, unchanged", "files, one changed"]
        if any(wanted(title) for title in titles):
            plots = [harness.Growth(title, "file") for title in titles]
            for size in (1_000, 10_000, 100_000):
                path = arena.context(f"grow{size}", COPY)
                lay(path, size, 1 << 10)
                ours, others = arena.build(f"grow{size}", path)
                for name, command, env in [ours, *others]:
                    if size > {"docker": 10_000, "buildah": 1_000}.get(name, size):
                        continue  # they get there, but not while anybody waits
                    cold = lambda round_: [*command(round_)[:2], "--no-cache", *command(round_)[2:]]
                    if name == "buildah":
                        cold = lambda round_: [*command(round_)[:-1], "--no-cache", command(round_)[-1]]
                    rounds = options.rounds if name == "ours" else 3  # what is claimed of growth is ours
                    plots[0].measure(name, size, cold, env, rounds)
                    harness.run(command(0), env)  # so that the cache has it
                    plots[1].measure(name, size, command, env, rounds)
                    plots[2].measure(name, size, command, env, rounds, change(path))
                    if name == "ours":
                        for what, run in (("cold", cold), ("unchanged", command)):
                            peak = harness.run(run(0), env)[1]
                            print(f"peak memory, {size:,} files, {what}: {peak / MIB:.0f} MiB", file=sys.stderr)
                            greedy += [size] if peak > 100 * MIB else []
                shutil.rmtree(path)
            growths = [growth for growth in plots if wanted(growth.title)]
    if greedy:
        harness.table(rows)
        sys.exit("MISSED: more than 100 MiB of memory for " + ", ".join(f"{size:,} files" for size in greedy))
    harness.finish(rows, growths, options.json, options.plots)


main()
