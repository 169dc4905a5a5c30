"""The peers beside which we are measured, each with folders of its own: Debian's docker (BuildKit) and buildah.

    with peers.arena(slipway) as arena:
        path = arena.context("name", "FROM base\\n…")            # a folder with a Dockerfile; put further files into it
        rows.append(harness.compare(title, 1 / 15, *arena.build("tag", path, "--no-cache"), rounds))
    harness.finish(rows)

All three have the image `base`, a small busybox. Needs root."""
import argparse
import contextlib
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

import harness

CLIENT = "/usr/bin/docker"
RUNC = "/usr/sbin/runc"


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
    for applet in ("sh", "true", "cat", "ls", "echo", "mkdir", "sleep"):
        os.link(root / "bin/busybox", root / "bin" / applet)
    for name in ("etc", "tmp", "proc", "sys", "dev"):
        (root / name).mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    subprocess.run(["tar", "-C", root, "--owner=0", "--group=0", "-cf", folder / "base.tar", "."], check=True)
    return folder / "base.tar"


class Arena:
    """Ours and the peers, ready to build."""

    def __init__(self, slipway, folder):
        self.slipway, self.folder = os.path.realpath(slipway), folder
        self.home = {"SLIPWAY_HOME": str(folder / "home")}
        self.socket = f"unix://{folder}/docker.sock"
        self.docker = {"DOCKER_BUILDKIT": "1", "DOCKER_HOST": self.socket, "DOCKER_CONFIG": str(folder)}
        self.buildah = None

    def start(self, stack):
        dockerd = ["dockerd", "--data-root", f"{self.folder}/docker", "--exec-root", f"{self.folder}/exec", "--host", self.socket,
                   "--pidfile", f"{self.folder}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none", "--insecure-registry", "127.0.0.0/8"]
        stack.enter_context(service(dockerd, self.folder / "dockerd.log"))
        wait_for(lambda: subprocess.run([CLIENT, "info"], env={**os.environ, **self.docker}, capture_output=True).returncode == 0, "dockerd")
        base = base_image(self.folder)
        harness.run([self.slipway, "import", str(base), "base:latest"], self.home)
        harness.run([CLIENT, "import", str(base), "base:latest"], self.docker)
        if shutil.which("buildah"):
            self.start_buildah(base)
        else:
            print("buildah is not installed: no peer of this name", file=sys.stderr)

    def start_buildah(self, base):
        (self.folder / "buildah-base").mkdir()
        shutil.copy(base, self.folder / "buildah-base/base.tar")
        (self.folder / "buildah-base/Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        for driver in ("overlay", "vfs"):  # whichever works; overlay is the faster
            command = ["buildah", "--root", f"{self.folder}/buildah", "--runroot", f"{self.folder}/buildah-run", "--storage-driver", driver]
            made = subprocess.run([*command, "build", "-t", "localhost/base", str(self.folder / "buildah-base")], capture_output=True)
            if made.returncode == 0:
                self.buildah = command
                return print(f"buildah runs with the storage driver {driver} and {RUNC}", file=sys.stderr)
        print(f"buildah does not work here: {made.stderr.decode(errors='replace')[-300:]}", file=sys.stderr)

    def context(self, name, dockerfile):
        """A folder with this Dockerfile. buildah looks for the base among its own images, as it has no default registry."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        (path / "Dockerfile").write_text(dockerfile)
        (path / "Containerfile.buildah").write_text(dockerfile.replace("FROM base", "FROM localhost/base"))
        (path / ".dockerignore").write_text("Dockerfile\nContainerfile.buildah\n.dockerignore\n")
        return path

    def build(self, tag, path, *flags):
        """-> (ours, [peers]) as `harness.compare` takes them: each builds the folder with a layer for each step, as docker does."""
        ours = ("ours", lambda _: [self.slipway, "build", "--progress=plain", *flags, "-t", tag, str(path)], self.home)
        peers = [("docker", lambda _: [CLIENT, "build", "--progress=plain", *flags, "--network=host", "-t", tag, str(path)], self.docker)]
        if self.buildah:
            command = [*self.buildah, "build", "--layers", "--isolation=oci", "--runtime", RUNC, "--network=host", *flags, "-t", tag]
            peers.append(("buildah", lambda _: [*command, "-f", str(path / "Containerfile.buildah"), str(path)], {}))
        return ours, peers


@contextlib.contextmanager
def arena(slipway, prefix="bench"):
    """Starts the peers; their processes and folders end with the block."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # also then
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)))
        ready = Arena(slipway, folder)
        ready.start(stack)
        ready.stack = stack
        yield ready


def parser(description, rounds=5):
    """The command line that every bench has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slipway")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("-k", default="", help="only scenarios whose title has this word")
    parser.add_argument("--json", help="write the figures to this file too")
    parser.add_argument("--plots", help="write the growth plots (SVG) to this folder")
    return parser


def options(description):
    """What the command line says."""
    return parser(description).parse_args()
