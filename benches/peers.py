#!/usr/bin/env python3
"""icecore beside its peers, on a directory of files in memory.

    benches/peers.py run [--rounds 3] [--scale 1] [--tools icecore,restic,borg,rustic]
    benches/peers.py report            # writes the table into docs/performance.md

Every tool goes through the same steps, one after another, as often as there are rounds: first backup,
nothing changed, churn, check of all data, restore, forget all but one and prune. What was restored is
compared by hash with what was backed up. Each measurement of a run is a line of peers.jsonl beside the build;
`report` makes the table of them, so that none is entered by hand.

The data (2,025 MiB in 100,048 files): 48 files of 32 MiB of float32 values, 100,000 of 1 to 8 KiB of
JSON. Churn: 1,000 small files rewritten, one of 32 MiB new, 1 MiB changed inside another. --scale 0.1
makes a tenth of it.

It needs about 4.5 GiB below /dev/shm (BENCH_DIR).
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import shutil
import statistics
import struct
import subprocess
import sys
import time

import document

CACHE = pathlib.Path(os.environ.get("ICECORE_CACHE", pathlib.Path.home() / ".cache/icecore"))
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or os.environ.get("ICECORE_TARGET_DIR") or CACHE / "target")
DIRECTORY = pathlib.Path(os.environ.get("BENCH_DIR", "/dev/shm"))
RESULTS = TARGET / "bench" / "peers.jsonl"
PASSWORD = "only for this measurement"
MIB = 1 << 20

STEPS = ["first backup", "nothing changed", "churn", "check, reading all", "restore", "forget and prune"]


# --- The data --------------------------------------------------------------

def float_bytes(count, rng):
    """Normally distributed float32 values, as their bytes: mantissas are noise, exponents are not."""
    sample = b"".join(struct.pack("<f", rng.gauss(0, 1)) for _ in range(1 << 16))
    table = bytes(sample[4 * at + 3] for at in rng.choices(range(1 << 16), k=256))
    out = bytearray(rng.randbytes(4 * count))
    out[3::4] = rng.randbytes(count).translate(table)
    return out


WORDS = "partition segment vector index field channel collection shard replica binlog delta statistics".split()


def json_bytes(length, rng):
    lines, size = [], 2
    while size < length:
        line = '{"id":%d,"name":"%s_%s","rows":%d,"ratio":%.6f,"path":"files/%s/%d/%d","live":%s}' % (
            rng.getrandbits(40), rng.choice(WORDS), rng.choice(WORDS), rng.getrandbits(16), rng.random(),
            rng.choice(WORDS), rng.getrandbits(20), rng.getrandbits(30), "true" if rng.random() < 0.7 else "false")
        lines.append(line)
        size += len(line) + 1
    return ("[" + ",".join(lines) + "]").encode()[:length]


class Data:
    """The files, and what they are to be before and after the churn."""

    def __init__(self, root, scale):
        self.root = root
        self.large = max(2, round(48 * scale))
        self.small = round(100_000 * scale)

    def name(self, number):
        return self.root / "json" / f"{number // 1000:03}" / f"{number:06}.json"

    def write_small(self, number, variant):
        rng = random.Random(f"{number} {variant}")
        path = self.name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(json_bytes(rng.randint(1 << 10, 8 << 10), rng))

    def write_large(self, number, variant=0):
        path = self.root / "vectors" / f"{number:02}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(float_bytes(8 * MIB, random.Random(f"large {number} {variant}")))

    def make(self):
        shutil.rmtree(self.root, ignore_errors=True)
        for number in range(self.large):
            self.write_large(number)
        for number in range(self.small):
            self.write_small(number, 0)

    def churn(self, variant):
        """The churn, or with variant 0 the way back."""
        for number in range(0, self.small, 100):
            self.write_small(number, variant)
        new = self.root / "vectors" / "new.bin"
        inside = random.Random(f"inside {variant}").randbytes(MIB) if variant else None
        if variant:
            new.write_bytes(float_bytes(8 * MIB, random.Random(f"new {variant}")))
            with open(self.root / "vectors" / "01.bin", "r+b") as file:
                file.seek(13 * MIB)
                file.write(inside)
        else:
            new.unlink(missing_ok=True)
            self.write_large(1)

    def sizes(self):
        """Bytes in large files and in small ones."""
        return {"large": size_of(self.root / "vectors"), "small": size_of(self.root / "json")}

    def digest(self):
        """A hash of all paths and contents."""
        hashed = hashlib.blake2b()
        for directory, below, names in os.walk(self.root):
            below.sort()
            for name in sorted(names):
                path = os.path.join(directory, name)
                hashed.update(os.path.relpath(path, self.root).encode() + b"\0")
                with open(path, "rb") as file:
                    hashed.update(hashlib.blake2b(file.read()).digest())
        return hashed.hexdigest()


# --- The tools ---------------------------------------------------------------

class Tool:
    """One tool in a place of its own."""

    def __init__(self, place):
        self.place = place
        self.repository = place / "repository"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(place / "home"), "LANG": "C.UTF-8"}

    def restored(self, source):
        """Where the restored source lies."""
        return self.place / "restored" / str(source).lstrip("/")


def find(name):
    for path in (CACHE / "peers" / "bin" / name,):
        if path.exists():
            return str(path)
    return shutil.which(name)


class Icecore(Tool):
    name = "icecore"
    program = str(TARGET / "release" / "icecore")

    def __init__(self, place):
        super().__init__(place)
        self.env |= {
            "ICECORE_REPOSITORY": str(self.repository),
            "ICECORE_CACHE_DIR": str(place / "cache"),
            "ICECORE_PASSPHRASE": PASSWORD,
        }

    def init(self):
        return ["init", "--quiet"]

    def backup(self, source):
        return ["backup", "--quiet", "--dir", source]

    def check(self):
        return ["check", "--quiet", "--read-data"]

    def restore(self):
        return ["restore", "latest", "--quiet", "--to-dir", self.place / "restored"]

    def restored(self, source):
        return self.place / "restored"

    def prune(self):
        return [["forget", "--quiet", "--keep-last", "1", "--prune"]]


class Restic(Tool):
    name = "restic"
    program = find("restic")

    def __init__(self, place):
        super().__init__(place)
        self.env |= {
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_CACHE_DIR": str(place / "cache"),
            "RESTIC_PASSWORD": PASSWORD,
        }

    def init(self):
        return ["init", "--quiet"]

    def backup(self, source):
        return ["backup", "--quiet", source]

    def check(self):
        return ["check", "--quiet", "--read-data"]

    def restore(self):
        return ["restore", "latest", "--quiet", "--target", self.place / "restored"]

    def prune(self):
        return [["forget", "--quiet", "--keep-last", "1", "--prune"]]


class Borg(Tool):
    name = "borg"
    program = find("borg")

    def __init__(self, place):
        super().__init__(place)
        self.env |= {
            "BORG_REPO": str(self.repository),
            "BORG_BASE_DIR": str(place / "cache"),
            "BORG_PASSPHRASE": PASSWORD,
        }
        self.archives = 0

    def init(self):
        return ["init", "--encryption", "repokey-blake2"]

    def backup(self, source):
        self.archives += 1
        return ["create", "--compression", "zstd,3", f"::a{self.archives}", source]

    def check(self):
        return ["check", "--verify-data"]

    def restore(self):
        (self.place / "restored").mkdir()
        return ["extract", f"::a{self.archives}"]

    def prune(self):
        return [["prune", "--keep-last", "1"], ["compact"]]


class Rustic(Tool):
    name = "rustic"
    program = find("rustic")

    def __init__(self, place):
        super().__init__(place)
        self.env |= {
            "RUSTIC_REPOSITORY": str(self.repository),
            "RUSTIC_CACHE_DIR": str(place / "cache"),
            "RUSTIC_PASSWORD": PASSWORD,
            "RUSTIC_NO_PROGRESS": "true",
            "RUSTIC_LOG_LEVEL": "warn",
        }

    def init(self):
        return ["init"]

    def backup(self, source):
        return ["backup", source]

    def check(self):
        return ["check", "--read-data"]

    def restore(self):
        return ["restore", "latest", self.place / "restored"]

    def prune(self):
        return [["forget", "--keep-last", "1"], ["prune", "--instant-delete", "--keep-delete", "0s"]]


TOOLS = {tool.name: tool for tool in (Icecore, Restic, Borg, Rustic)}


def version(tool):
    argument = {"restic": "version"}.get(tool.name, "--version")
    out = subprocess.run([tool.program, argument], capture_output=True, text=True).stdout
    return " ".join(out.split()[:2])


# --- Measuring ---------------------------------------------------------------

def apart(function, *arguments):
    """Does it in a process of its own: a child begins with the peak memory of who starts it."""
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def measure(tool, arguments, cwd):
    """Runs it once: seconds, CPU seconds, peak resident bytes, bytes through read and write calls."""
    command = [tool.program, *map(str, arguments)]
    log = tool.place / "log"
    begin = time.monotonic()
    with open(log, "wb") as out:
        child = subprocess.Popen(command, env=tool.env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        # Ended, and not yet gone: what it read and wrote is still told.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.monotonic() - begin
        counts = dict(line.split(": ") for line in pathlib.Path(f"/proc/{child.pid}/io").read_text().splitlines())
        _, status, usage = os.wait4(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    child.returncode = code
    if code:
        sys.exit(f"{' '.join(command)}: exit code {code}\n{log.read_text()[-2000:]}")
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "resident": usage.ru_maxrss << 10,
        "read": int(counts["rchar"]),
        "written": int(counts["wchar"]),
    }


def several(tool, commands, cwd):
    parts = [measure(tool, arguments, cwd) for arguments in commands]
    whole = {key: sum(part[key] for part in parts) for key in parts[0]}
    return whole | {"resident": max(part["resident"] for part in parts)}


def size_of(directory):
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(directory) for name in names)


def go_through(tool, data, wanted, note):
    """All steps of one tool. At the end what it restored is the data, as it was after the churn."""
    place = tool.place
    shutil.rmtree(place, ignore_errors=True)
    (place / "home").mkdir(parents=True)
    measure(tool, tool.init(), place)
    apart(data.churn, 0)
    # Files that changed an instant before are read again by whoever is careful.
    time.sleep(2.1)
    first = measure(tool, tool.backup(data.root), place)
    note("first backup", first | {"stored": size_of(tool.repository), "sizes": data.sizes()})
    note("nothing changed", measure(tool, tool.backup(data.root), place))
    apart(data.churn, 1)
    time.sleep(2.1)
    note("churn", measure(tool, tool.backup(data.root), place) | {"stored": size_of(tool.repository)})
    note("check, reading all", measure(tool, tool.check(), place))
    # There is no room for both the data and its copy.
    shutil.rmtree(data.root)
    arguments = tool.restore()
    note("restore", measure(tool, arguments, place / "restored" if tool.name == "borg" else place))
    tool.restored(data.root).rename(data.root)
    if apart(data.digest) != wanted:
        sys.exit(f"{tool.name} did not restore what was backed up")
    note("forget and prune", several(tool, tool.prune(), place))
    shutil.rmtree(place)


def run(options):
    names = options.tools.split(",") if options.tools else list(TOOLS)
    there = [TOOLS[name] for name in names if TOOLS[name].program and os.path.exists(TOOLS[name].program)]
    for name in set(names) - {tool.name for tool in there}:
        print(f"{name} is not there and is left out", file=sys.stderr)
    origin = document.Origin()
    work = DIRECTORY / f"icecore-bench.{os.getpid()}"
    data = Data(work / "data", options.scale)
    try:
        apart(data.make)
        apart(data.churn, 1)
        wanted = apart(data.digest)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        # With what was measured another time nothing can be said in the same table.
        RESULTS.unlink(missing_ok=True)
        for _ in range(options.rounds):
            for kind in there:
                tool, of = kind(work / kind.name), version(kind)

                def note(step, figures):
                    line = {"origin": origin.line("Files"), "tool": kind.name, "version": of, "step": step,
                            "scale": options.scale} | figures
                    with open(RESULTS, "a") as out:
                        out.write(json.dumps(line) + "\n")
                    print(f"{kind.name:8} {step:20} {figures['seconds']:7.2f} s  cpu {figures['cpu']:7.2f} s  "
                          f"{figures['resident'] / MIB:6.0f} MiB  read {figures['read'] / MIB:6.0f}  "
                          f"written {figures['written'] / MIB:6.0f}", flush=True)

                go_through(tool, data, wanted, note)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# --- The table -----------------------------------------------------------------

AIMS = {"first backup": 4, "nothing changed": 7, "churn": 5, "restore": 2.5, "check, reading all": 3}


def spread(values, form):
    low, middle, high = min(values), statistics.median(values), max(values)
    return form(middle) if len(values) == 1 else f"{form(middle)} ({form(low)}–{form(high)})"


def seconds(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def mib(value):
    return f"{value / MIB:,.0f}"


def cost(benchmark):
    """Seconds that a core needs for a byte, as the last run of `cargo bench` measured it."""
    place = TARGET / "criterion" / benchmark / "new"
    estimates, about = (json.loads((place / name).read_text()) for name in ("estimates.json", "benchmark.json"))
    return estimates["mean"]["point_estimate"] / 1e9 / about["throughput"]["Bytes"]


LARGE = ("content/cut 16 MiB", "content/name 1 MiB", "pack/encode floats, 1 MiB")
SMALL = ("content/name 4 KiB", "pack/encode JSON, 4 KiB")


def ingest(lines):
    """The row that says how near the first backup is to what its steps need, nothing else being done. Without
    reading and writing, walking, comparing, and the key."""
    sizes = lines[-1].get("sizes")
    try:
        large, small = (sum(map(cost, steps)) for steps in (LARGE, SMALL))
    except FileNotFoundError as error:
        print(f"no limit for the ingest: {error}; run benches/micro.py first", file=sys.stderr)
        return []
    if not sizes:
        return []
    limit = (sizes["large"] * large + sizes["small"] * small) / os.cpu_count()
    shares = [limit / line["seconds"] for line in lines if "sizes" in line]
    speed = lambda cost: f"{1 / cost / MIB:,.0f} MiB/s"
    return ["", "| ingest on all cores | a core: vectors | a core: small files | limit, s | limit / first backup | aim |",
            "|---|---|---|---|---|---|",
            f"| cut, name, compress, seal | {speed(large)} | {speed(small)} | {seconds(limit)} "
            f"| {spread(shares, lambda share: f'{share:.0%}')} | 80% |"]


def report(_):
    lines = [json.loads(line) for line in open(RESULTS)]
    found = collections.defaultdict(list)
    for line in lines:
        found[line["step"], line["tool"]].append(line)
    tools = [name for name in TOOLS if (STEPS[0], name) in found]
    peers = [name for name in tools if name != "icecore"]
    names = {name: found[STEPS[0], name][-1]["version"] for name in tools}
    rounds = {name: len(found[STEPS[0], name]) for name in tools}

    def of_tool(step, tool, key):
        return [line[key] for line in found[step, tool] if key in line]

    out = [f"{lines[-1]['origin']} Data of scale {lines[-1]['scale']:g}, in memory (tmpfs); "
           + ", ".join(f"{names[name]} ({rounds[name]} runs)" for name in tools)
           + ". Median, and the least and the most.", ""]
    out += ["| step | " + " | ".join(f"{name}, s" for name in tools) + " | fastest peer / icecore | aim |",
            "|---|" + "---|" * (len(tools) + 2)]
    for step in STEPS:
        cells = [spread(of_tool(step, tool, "seconds"), seconds) for tool in tools]
        ours = of_tool(step, "icecore", "seconds")
        best = min(statistics.median(of_tool(step, tool, "seconds")) for tool in peers)
        ratios = [best / value for value in ours]
        aim = f"{AIMS[step]:g} ×" if step in AIMS else ""
        out.append(f"| {step} | " + " | ".join(cells) + f" | {spread(ratios, lambda r: f'{r:.1f}')} | {aim} |")
    for step in ("first backup", "churn"):
        cells = [spread(of_tool(step, tool, "stored"), mib) for tool in tools]
        best = min(statistics.median(of_tool(step, tool, "stored")) for tool in peers)
        share = statistics.median(of_tool(step, "icecore", "stored")) / best
        out.append(f"| stored after {step}, MiB | " + " | ".join(cells) + f" | {share:.1%} of the smallest | 98% |")
    out += ingest(found["first backup", "icecore"])
    out += ["", "| step | tool | CPU, s | peak resident, MiB | read, MiB | written, MiB |", "|---|---|---|---|---|---|"]
    for step in STEPS:
        for tool in tools:
            of_step = lambda key: of_tool(step, tool, key)
            out.append(f"| {step} | {tool} | {spread(of_step('cpu'), seconds)} | {mib(max(of_step('resident')))} | "
                       f"{mib(statistics.median(of_step('read')))} | {mib(statistics.median(of_step('written')))} |")
    print("\n".join(out))
    document.write("peers", out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("--rounds", type=int, default=3)
    running.add_argument("--scale", type=float, default=1)
    running.add_argument("--tools")
    running.set_defaults(do=run)
    reporting = commands.add_parser("report")
    reporting.set_defaults(do=report)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
