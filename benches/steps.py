#!/usr/bin/env python3
"""What a step costs, beside Debian's docker (BuildKit) and buildah.

usage: benches/steps.py SLIPWAY [--rounds N] [-k WORD] [--json FILE] [--plots FOLDER]      (root)"""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import harness
import peers

# Busy for a while, alone with one processor: counting in the shell.
WORK = "RUN i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo {name} > /{name}\n"


def parallel_stages(names):
    text = "".join(f"FROM base AS {name}\n" + WORK.format(name=name) for name in names)
    return text + "FROM base\n" + "".join(f"COPY --from={name} /{name} /{name}\n" for name in names)


def stages_in_line(names):
    return "FROM base\n" + "".join(WORK.format(name=name) for name in names)


def main():
    options = peers.options(__doc__)
    rows, growths = [], []
    with peers.arena(options.slipway, "steps") as arena:

        def wanted(title):
            return options.k in title

        title = "20 x RUN true, cold"
        if wanted(title):
            path = arena.context("run20", "FROM base\n" + "RUN true\n" * 20)
            rows.append(harness.compare(title, 1 / 15, *arena.build("run20", path, "--no-cache"), options.rounds))
        title = "fully cached, 20 steps"
        if wanted(title):
            path = arena.context("cached", "FROM base\nCOPY files /files\n" + "".join(f"RUN echo {n} > /{n}\n" for n in range(19)))
            (path / "files").mkdir()
            for number in range(50):
                (path / "files" / f"{number}.txt").write_text("text\n" * number)
            rows.append(harness.compare(title, 1 / 5, *arena.build("cached", path), options.rounds))
        title = "four stages, to the same in line"
        if wanted(title):
            names = ["one", "two", "three", "four"]
            (_, side_by_side, env), _ = arena.build("stages", arena.context("stages", parallel_stages(names)), "--no-cache")
            (_, in_line, _), _ = arena.build("line", arena.context("line", stages_in_line(names)), "--no-cache")
            rows.append(harness.compare(title, 0.6, ("ours", side_by_side, env), [("in line", in_line, env)], options.rounds))

        def grow(title, sizes, dockerfile, flags, most):
            """Builds `dockerfile(size)`; `most[peer]` is what a peer can do (docker stacks 125 layers) or has time for."""
            if not wanted(title):
                return
            growth = harness.Growth(title, "step")
            for size in sizes:
                # buildah takes a comma in the path for the end of a mount's option
                path = arena.context(f"{title.replace(', ', '-')}-{size}", dockerfile(size))
                ours, others = arena.build(f"grow{size}", path, *flags)
                for name, command, env in [ours, *others]:
                    if size <= most.get(name, size):
                        if not flags:
                            harness.run(command(0), env)  # so that the cache has it
                        growth.measure(name, size, command, env, max(3, options.rounds - 2) if size < 1000 else 3)
            growths.append(growth)

        sizes = (10, 100, 1000)
        runs = lambda size: "FROM base\n" + "".join(f"RUN echo {n} > /{n}\n" for n in range(size))
        envs = lambda size: "FROM base\n" + "".join(f"ENV v{n}={n}\n" for n in range(size)) + "RUN true\n"
        grow("RUN, cold", sizes, runs, ["--no-cache"], {"docker": 100, "buildah": 10})
        grow("RUN, cached", sizes, runs, [], {"docker": 100, "buildah": 10})
        grow("ENV, cached", sizes, envs, [], {"buildah": 10})
    harness.finish(rows, growths, options.json, options.plots)


main()
