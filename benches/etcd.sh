#!/usr/bin/env bash
# Measures etcd's snapshots beside etcd's own tools, in one run on one server, and prints the tables of
# docs/performance.md ("Any revision").
#
#   benches/etcd.sh                    all parts
#   benches/etcd.sh changes database   some of: changes database anchor backlog many
#
# KEYS=1000000 keys of 256 bytes; ROUNDS=5 repetitions, of which the median counts; CALM="command" goes
# before what is timed. The program must be built (make build). Data lies in TMPDIR: some 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/lib.sh

export KEYS=${KEYS:-1000000} ROUNDS=${ROUNDS:-5} CALM=${CALM:-} TMP
ETCD=${ETCD:-3.6}
export ICECORE=${ICECORE:-$CARGO_TARGET_DIR/release/icecore}
[[ -x $ICECORE ]] || die "build it first: make build"
TOOLS=$(etcd_dir "$ETCD")
export TOOLS ICECORE_PASSPHRASE='a long sentence' ICECORE_CACHE_DIR=$TMP/cache

cat >"$TMP/measure.py" <<'PYTHON'
"""measure.py PART URL: one part, on a server that is there."""
import base64, http.client, json, os, random, shlex, statistics, subprocess, sys, time, urllib.parse

part, url = sys.argv[1:]
TMP, KEYS, ROUNDS = os.environ["TMP"], int(os.environ["KEYS"]), int(os.environ["ROUNDS"])
ICECORE, TOOLS = os.environ["ICECORE"], os.environ["TOOLS"]
CALM = shlex.split(os.environ["CALM"])
VALUE = 256
HOME = f"{TMP}/{part}"


# --- a server's keys ---

def b64(data):
    return base64.b64encode(data).decode()


def key(n):
    return f"/registry/{n % 7}/namespace-{n % 100:02}/{n:08}"


class Member:
    """etcd over its JSON gateway, on one kept connection."""

    def __init__(self):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=120)

    def call(self, path, body):
        self.connection.request("POST", "/v3/" + path, json.dumps(body))
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            sys.exit(f"etcd refused {path}: {said.decode(errors='replace')}")
        return json.loads(said)


def puts(numbers, rng):
    return [{"key": b64(key(n).encode()), "value": b64(rng.randbytes(VALUE))} for n in numbers]


def transactions(numbers, rng, each=1000):
    """Puts, so many in a revision."""
    member = Member()
    for at in range(0, len(numbers), each):
        batch = [{"request_put": put} for put in puts(numbers[at:at + each], rng)]
        member.call("kv/txn", {"success": batch})


def fill():
    """All keys, once."""
    started = time.perf_counter()
    transactions(range(KEYS), random.Random(1))
    say(f"{KEYS:,} keys in {time.perf_counter() - started:.0f} s")


def change(count, seed):
    """So many keys at random, in one revision."""
    rng = random.Random(seed)
    transactions(rng.sample(range(KEYS), count), rng, each=count)


def revisions(count, seed, writers=4):
    """So many puts at random, each in a revision of its own."""
    rng = random.Random(seed)
    numbers = [rng.randrange(KEYS) for _ in range(count)]
    for mine in range(writers):
        if os.fork() == 0:
            member = Member()
            for put in puts(numbers[mine::writers], random.Random(f"{seed} {mine}")):
                member.call("kv/put", put)
            os._exit(0)
    if any([os.waitpid(-1, 0)[1] for _ in range(writers)]):
        sys.exit("a writer failed")


def head():
    return int(Member().call("kv/range", {"key": b64(b"0"), "count_only": True})["header"]["revision"])


# --- what is timed ---

class Run:
    """A command: seconds, seconds of CPU, peak resident MB, and what it said."""

    def __init__(self, *command, calm=True):
        with open(f"{TMP}/out", "w+b") as out, open(f"{TMP}/error", "w+b") as error:
            begun = time.perf_counter()
            child = subprocess.Popen([*(CALM if calm else []), *map(str, command)], stdout=out, stderr=error)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            self.seconds = time.perf_counter() - begun
            out.seek(0), error.seek(0)
            self.said = out.read().decode(errors="replace")
            if child.returncode not in (0, 3):
                sys.exit(f"{shlex.join(map(str, command))}: {child.returncode}: {error.read().decode()}")
        self.cpu, self.peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def icecore(*words, calm=True):
    return Run(ICECORE, "-r", f"{HOME}/repository", *words, calm=calm)


def backup(*words, calm=True):
    run = icecore("backup", "--etcd", url, "--json", *words, calm=calm)
    run.report = json.loads(run.said)
    run.written, run.path = run.report["stored"]["written_bytes"], run.report["etcd"]["path"]
    return run


def save():
    saved = f"{HOME}/saved.db"
    run = Run(f"{TOOLS}/etcdctl", "--endpoints", url, "snapshot", "save", saved)
    run.written = os.path.getsize(saved)
    return run


def sizes(directory):
    """Bytes and files below it."""
    found = [os.path.join(at, name) for at, _, names in os.walk(directory) for name in names]
    return sum(map(os.path.getsize, found)), len(found)


def median(values):
    return statistics.median(values)


def middle(runs):
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


# --- what is printed ---

def say(what):
    print(what, file=sys.stderr, flush=True)


def table(*rows):
    print()
    for n, row in enumerate(rows):
        print("| " + " | ".join(row) + " |")
        if n == 0:
            print("|" + "---|" * len(row))
    print(flush=True)


def amount(size):
    for unit, of in (("MB", 1e6), ("KB", 1e3)):
        if size >= of:
            return f"{size / of:.1f} {unit}"
    return f"{size:.0f} B"


def seconds(run):
    return f"{run.seconds:.2f} s" if run.seconds < 10 else f"{run.seconds:.1f} s"


# --- the parts ---

def changes():
    """A backup after some changes, beside etcd's own snapshot of the same server."""
    first = backup()
    rows = [("", "wall", "CPU", "peak", "written", "`snapshot save` / this")]
    saves = [save() for _ in range(ROUNDS)]
    opening = median(icecore("snapshots").seconds for _ in range(ROUNDS))
    for count in (1000, 10_000, 0):
        runs = []
        for n in range(ROUNDS):
            if count:
                change(count, f"{count} {n}")
            runs.append(backup())
            saves.append(save())
        run, ratio = middle(runs), middle(saves).seconds / median(run.seconds for run in runs)
        name = f"{count:,} changed keys, {run.path}" if count else "nothing changed"
        rows.append((name, seconds(run), f"{run.cpu:.2f} s", f"{run.peak:.0f} MB", amount(run.written), f"{ratio:.1f}"))
        say(f"{name}: " + " ".join(f"{run.seconds:.3f}" for run in runs))
    saved = middle(saves)
    rows.insert(1, ("`etcdctl snapshot save`", seconds(saved), f"{saved.cpu:.2f} s", f"{saved.peak:.0f} MB", amount(saved.written), "1"))
    rows.insert(1, ("first backup, proved", seconds(first), f"{first.cpu:.2f} s", f"{first.peak:.0f} MB", amount(first.written), f"{saved.seconds / first.seconds:.1f}"))
    rows.append(("`icecore snapshots`: what opening takes", f"{opening:.2f} s", "", "", "", ""))
    table(*rows)
PYTHON

# measure PART SERVER
measure() {
  mkdir -p "$TMP/$1"
  "$ICECORE" -r "$TMP/$1/repository" init >/dev/null
  "$PYTHON" "$TMP/measure.py" "$1" "${URL[$2]}"
  rm -rf "${TMP:?}/$1"
}
