#!/usr/bin/env python3
"""Writes the corpora of all targets to fuzz/corpus/TARGET: seeds, recorded cases, and tars of every kind.

    fuzz/corpus.py [SHARED]     SHARED is the folder of recorded cases, beside the checkout unless told
"""

import base64, bz2, gzip, hashlib, io, json, lzma, pathlib, shutil, sys, tarfile

HERE = pathlib.Path(__file__).resolve().parent
SHARED = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent / "shared"


def put(target, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)


def records(folder, name):
    path = SHARED / folder / name
    if not path.exists():
        print(f"skipped: {path} is not there", file=sys.stderr)
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def put_dockerfile(data):
    if len(data) <= 16 << 10:
        put("dockerfile", data)
    for line in data.split(b"\n"):
        if b"$" in line and len(line) < 400:
            put("expand", line.strip())


def parsed():
    for name in ["real.jsonl", "buildkit.jsonl", "edge.jsonl"]:
        for record in records("dockerfile-parse", name):
            put_dockerfile(bytes.fromhex(record["bytes"]) if "bytes" in record else record.get("text", "").encode())


def tables():
    for name in ["envVarTest", "wordsTest"]:
        path = SHARED / "dockerfile-parse" / name
        for line in path.read_text().splitlines() if path.exists() else []:
            cells = line.split("|")
            if len(cells) > 1 and not line.startswith("#"):
                text = cells[1] if name == "envVarTest" else cells[0]
                put("expand", f"PWD=/home\nSHELL=bash\nNULL=\0{text.strip()}".encode())


def ignored():
    for record in records("dockerfile-parse", "dockerignore.jsonl"):
        paths = (record.get("excluded") or []) + (record.get("included") or [])
        put("ignore", "\0".join([record["ignore"], "\n".join(paths)]).encode())


def built():
    for path in sorted((SHARED / "dockerfile-cases").glob("*.jsonl")):
        for record in records("dockerfile-cases", path.name):
            for file in record.get("context", []):
                name, data = file.get("file"), file.get("data")
                if name and name.endswith("Dockerfile") and data is not None:
                    put_dockerfile(data.encode())
                elif name and name.endswith(".dockerignore") and data is not None:
                    put("ignore", data.encode())
                elif name and "b64" in file:
                    put("tar", b"\x1e" + base64.b64decode(file["b64"]))


def a_tar(form, members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, kind, rest in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.mode = kind, 1_600_000_000.25 if form == tarfile.PAX_FORMAT else 1, 0o755
            if kind == tarfile.REGTYPE:
                info.size = len(rest)
                info.pax_headers = {"SCHILY.xattr.user.note": "x"} if form == tarfile.PAX_FORMAT else {}
                tar.addfile(info, io.BytesIO(rest))
            else:
                info.linkname = rest
                tar.addfile(info)
    return out.getvalue().rstrip(b"\0") + bytes(1536)


def tars():
    d, f, l, h, p, c = (
        tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
    )
    sets = [
        [("./", d, ""), ("a", d, ""), ("a/f", f, b"text"), ("a/l", l, "f"), ("a/h", h, "a/f"), ("p", p, ""), ("c", c, "")],
        [("a", d, ""), ("a/.wh.b", f, b""), ("a/.wh..wh..opq", f, b""), (".wh.x", f, b"")],
        [("up", l, ".."), ("up/outside/secret", f, b"gone"), ("up/outside", l, "root")],
        [("x", l, "/"), ("x/tmp/y", f, b"gone"), ("h", h, "x/etc/passwd")],
        [("../outside/secret", f, b"gone"), ("h", h, "../outside/secret")],
        [("d/" * 60 + "long", f, b"long"), ("l", l, "t" * 150), ("ü", f, "ü".encode())],
    ]
    for form in [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]:
        for members in sets:
            try:
                tar = a_tar(form, members)
            except ValueError:  # USTAR has no long names.
                continue
            for how in [b"\x00", b"\x3c", b"\x7e", b"\x54"]:
                put("tar", how + tar)
    for pack in [gzip.compress, bz2.compress, lzma.compress]:
        put("tar", b"\x18" + pack(a_tar(tarfile.PAX_FORMAT, sets[0])))


def main():
    shutil.rmtree(HERE / "corpus", ignore_errors=True)
    for seed in sorted(HERE.glob("seeds/*/*")):
        put(seed.parent.name, seed.read_bytes())
    for write in [parsed, tables, ignored, built, tars]:
        write()
    for folder in sorted((HERE / "corpus").iterdir()):
        print(f"{folder.name}: {sum(1 for _ in folder.iterdir())} files")


main()
