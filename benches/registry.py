"""Serving and taking in, ours beside Debian's docker-registry (and nginx, for a file of 1 GiB) in one run.

    benches/registry.py SLIPWAY [--load LOAD]        LOAD: cargo build --release -p registry --example load

Both answer the same load generator in turns, on one disk; a figure is the median of the rounds, a claim is a ratio. docker-registry
waits for no disk, ours does. Needs docker-registry, and nginx for its row."""
import argparse
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

import peers

MIB = 1 << 20
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


class Server:
    """A registry under test: its name, port and process."""

    def __init__(self, name, port, process):
        self.name, self.port, self.process = name, port, process

    @property
    def addr(self):
        return f"127.0.0.1:{self.port}"

    def ask(self, method, path, body=b"", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            sys.exit(f"{self.name}: {method} {path}: {answer.status} {content[:300]}")
        return answer

    def push(self, repository, content):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        location = self.ask("POST", f"/v2/{repository}/blobs/uploads/").getheader("location")
        location = location[location.index("/v2/"):]
        url = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        self.ask("PUT", url, content, content_type="application/octet-stream")
        return digest

    def image(self, repository, tags):
        config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
        digest = self.push(repository, config)
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": CONFIG, "digest": digest, "size": len(config)}, "layers": []})
        # One push at a time would mostly wait for the disk.
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda some: self.tag(repository, manifest, some), [tags[start::16] for start in range(16)]))

    def tag(self, repository, manifest, tags):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        for tag in tags:
            connection.request("PUT", f"/v2/{repository}/manifests/{tag}", manifest, {"content-type": MANIFEST})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 201, answer.status

    def memory(self, what):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split(what + ":")[1].split()[0]) * 1024


class Bench:
    """Rows of a table, made by a load generator in turns."""

    def __init__(self, load, rounds, only):
        self.load, self.rounds, self.only, self.rows = load, rounds, only, []

    def generate(self, kind, server, path, **options):
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        made = subprocess.run([self.load, kind, server.addr, path, *flags], capture_output=True, text=True)
        if made.returncode:
            sys.exit(f"{server.name}: {kind} {path}: {made.stderr[-500:]}")
        return json.loads(made.stdout)

    def wanted(self, title):
        return self.only in title

    def compare(self, title, target, kind, sides, figure="rate", **options):
        """Adds a row; `sides` is [(server, path)], ours first. `target` is the least ratio of ours to the best other."""
        if not self.wanted(title):
            return
        figures = {server.name: [] for server, _ in sides}
        for round_ in range(self.rounds + 1):
            for server, path in sides:
                made = self.generate(kind, server, path, **options)
                if round_ or self.rounds == 1:  # the first only warms up
                    figures[server.name].append(made)
        values = {name: statistics.median(made[figure] for made in all_) for name, all_ in figures.items()}
        ours, *others = values.values()
        self.add(title, target, ours / max(others), {name: self.shown(figure, values[name], all_) for name, all_ in figures.items()})

    @staticmethod
    def shown(figure, value, all_):
        unit = "MB/s" if figure == "mbPerSecond" else "/s"
        return f"{value:9.0f} {unit:4} p99 {statistics.median(made['p99'] for made in all_):8.2f} ms"

    def add(self, title, target, ratio, sides):
        good = ratio >= target
        self.rows.append({"title": title, "target": target, "ratio": ratio, "sides": sides, "met": good})
        sides = "   ".join(f"{name} {text}" for name, text in sides.items())
        print(f"{title:34} {ratio:7.2f} of {target:5.2f} {'ok    ' if good else 'MISSED'} {sides}", flush=True)

    def limit(self, title, most, value, unit):
        good = value <= most
        self.rows.append({"title": title, "target": most, "value": value, "met": good})
        print(f"{title:34} {value:7.1f} {unit} of at most {most} {'ok' if good else 'MISSED'}", flush=True)


def start(stack, folder, slipway):
    port = peers.free_port()
    ours = stack.enter_context(peers.service([slipway, "serve", "--addr", f"127.0.0.1:{port}", "--root", str(folder / "ours")], folder / "ours.log"))
    ours = Server("ours", port, ours)
    port = peers.free_port()
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {folder}/theirs}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    theirs = Server("docker-registry", port, stack.enter_context(peers.service(["docker-registry", "serve", str(config)], folder / "theirs.log")))
    for server in (ours, theirs):
        peers.wait_for(lambda: peers.listens(server.port), server.name)
    return ours, theirs


def start_nginx(stack, folder):
    port = peers.free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr; user root;\nevents {{}}\nhttp {{ access_log off; sendfile on; tcp_nopush on; "
        f"server {{ listen 127.0.0.1:{port}; root {folder}/files; }} }}\n"
    )
    server = Server("nginx", port, stack.enter_context(peers.service(["nginx", "-e", "stderr", "-c", str(config)], folder / "nginx.log")))
    peers.wait_for(lambda: peers.listens(port), "nginx")
    return server


def reading(bench, ours, theirs, nginx, folder):
    both = (ours, theirs)
    if bench.wanted("GET 32 MiB, 4 at once"):
        large = random.Random(1).randbytes(32 * MIB)
        digest = [server.push("bench/large", large) for server in both][0]
        bench.compare("GET 32 MiB, 4 at once", 1.2, "get", [(server, f"/v2/bench/large/blobs/{digest}") for server in both], "mbPerSecond", connections=4, seconds=3)
    small = random.Random(2).randbytes(16384)
    digest = [server.push("bench/small", small) for server in both][0]
    blob = [(server, f"/v2/bench/small/blobs/{digest}") for server in both]
    bench.compare("GET 16 KiB, 32 at once", 10, "get", blob, connections=32, seconds=2)
    bench.compare("HEAD of a blob, 32 at once", 5, "head", blob, connections=32, seconds=2)
    for server in both:
        server.image("bench/image", ["latest"])
    manifest = [(server, "/v2/bench/image/manifests/latest") for server in both]
    bench.compare("GET of a manifest, 32 at once", 5, "get", manifest, connections=32, seconds=2)
    if bench.wanted("GET 1 GiB beside nginx") and nginx:
        content = random.Random(3).randbytes(64 * MIB) * 16
        digest = ours.push("bench/huge", content)
        (folder / "files").mkdir()
        (folder / "files/huge").write_bytes(content)
        del content
        bench.compare("GET 1 GiB beside nginx", 1, "get", [(ours, f"/v2/bench/huge/blobs/{digest}"), (nginx, "/huge")], "mbPerSecond", connections=1, requests=3)
    title = "100 of 10,000 tags"
    if bench.wanted(title):
        for server in both:
            server.image("bench/tags", [f"v{number}" for number in range(10_000)])
        # docker-registry 2.8 pays no heed to `n`, and answers with all of them each time.
        path = "/v2/bench/tags/tags/list?n=100&last=v5"
        bench.compare(title, 10, "get", [(server, path) for server in both], connections=2, seconds=4)
        # By pages of 1,000, where pages are known: a request is the whole list.
        path = "/v2/bench/tags/tags/list?n=1000"
        bench.compare("all of 10,000 tags", 10, "pages", [(server, path) for server in both], connections=2, seconds=4)


def writing(bench, ours, theirs):
    both = (ours, theirs)
    bench.compare("push 16 KiB, 8 at once, durable", 4, "push", [(server, "bench/pushed") for server in both], connections=8, seconds=4)
    title = "PUT 1 GiB"
    if bench.wanted(title):
        bench.compare(title, 2, "push", [(server, "bench/pushed") for server in both], "mbPerSecond", connections=1, requests=1, size=1 << 30)
        hashing = statistics.median(bench.generate("hash", ours, "-", size=1 << 30)["mbPerSecond"] for _ in range(3))
        taken = float(bench.rows[-1]["sides"]["ours"].split()[0])
        bench.add("PUT 1 GiB beside hashing alone", 0.4, taken / hashing, {"hashing": f"{hashing:.0f} MB/s"})


def collecting(bench, folder, slipway):
    """The slowest of pushes and pulls while another process collects 100,000 blobs, beside those before and after."""
    if not bench.wanted("p99 beside a collection"):
        return
    storage = str(folder / "collected")
    port = peers.free_port()
    with peers.service([slipway, "serve", "--addr", f"127.0.0.1:{port}", "--storage", storage], folder / "collected.log") as process:
        server = Server("ours", port, process)
        peers.wait_for(lambda: peers.listens(port), "ours")
        server.image("bench/image", ["latest"])
        bench.generate("push", server, "bench/many", connections=64, requests=100_000, size=64)
        loads = {"push": "bench/pushed", "get": "/v2/bench/image/manifests/latest"}
        free, beside = ({kind: [] for kind in loads} for _ in range(2))

        def measure(figures):
            for kind, path in loads.items():
                figures[kind].append(bench.generate(kind, server, path, connections=4, seconds=2))

        measure({kind: [] for kind in loads})  # warms up
        for _ in range(3):
            measure(free)
        collector = subprocess.Popen([slipway, "registry", "gc", "--grace", "0", "--storage", storage], stdout=subprocess.DEVNULL)
        while not beside["get"] or (collector.poll() is None and len(beside["get"]) < 12):
            measure(beside)
        if collector.poll():
            sys.exit(f"the collection failed: {collector.poll()}")
        print(f"collected for {4 * len(beside['get'])} s, {'and is done' if collector.poll() is not None else 'not to the end'}")
        collector.kill()
        collector.wait()
        for _ in range(3):
            measure(free)
    for kind, name in (("push", "pushes of 16 KiB"), ("get", "pulls of a manifest")):
        without, with_ = (statistics.median(made["p99"] for made in figures[kind]) for figures in (free, beside))
        sides = {"alone": bench.shown("rate", statistics.median(made["rate"] for made in free[kind]), free[kind])}
        sides["beside"] = bench.shown("rate", statistics.median(made["rate"] for made in beside[kind]), beside[kind])
        bench.add(f"{name}, p99 beside a collection", 1 / 1.1, without / with_, sides)


def memory(bench, ours):
    if bench.wanted("memory"):
        bench.limit("memory, idle, after all this", 40, ours.memory("VmRSS") / MIB, "MiB")
        pathlib.Path(f"/proc/{ours.process.pid}/clear_refs").write_text("5")  # the peak from now on
        bench.generate("push", ours, "bench/many", connections=200, requests=200, size=100 * MIB)
        bench.limit("memory, 200 pushes of 100 MiB", 120, ours.memory("VmHWM") / MIB, "MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slipway")
    parser.add_argument("--load", help="the load generator [default: examples/load beside slipway]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", default="", help="only rows whose title has this text")
    parser.add_argument("--folder", help="where the bench's folder is to be, on the disk that is to be measured")
    parser.add_argument("--json", help="write the figures to this file too")
    parser.add_argument("--plots", help="not used; here because other benches draw")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    bench = Bench(os.path.realpath(options.load or pathlib.Path(options.slipway).parent / "examples/load"), options.rounds, options.k)
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench", dir=options.folder, ignore_cleanup_errors=True)))
        ours, theirs = start(stack, folder, os.path.realpath(options.slipway))
        nginx = start_nginx(stack, folder) if shutil.which("nginx") else print("nginx is not installed: no row beside it", file=sys.stderr)
        idle = ours.memory("VmRSS") / MIB
        reading(bench, ours, theirs, nginx, folder)
        writing(bench, ours, theirs)
        if bench.wanted("memory"):
            bench.limit("memory, idle, at the start", 40, idle, "MiB")
        memory(bench, ours)
        collecting(bench, folder, os.path.realpath(options.slipway))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(bench.rows, indent=1))
    sys.exit(0 if all(row["met"] for row in bench.rows) else 1)


if __name__ == "__main__":
    main()
