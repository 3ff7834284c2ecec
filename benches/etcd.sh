#!/usr/bin/env bash
# Measures etcd's snapshots beside etcd's own tools, in one run on one server, and writes the tables of
# docs/performance.md ("Any revision").
#
#   benches/etcd.sh                    all parts
#   benches/etcd.sh changes database   some of: changes database anchor backlog compacted many
#
# KEYS=1000000 keys of 256 bytes; ROUNDS=5 repetitions, of which the median counts. The program must be
# built (make build). Data lies in TMPDIR: some 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/lib.sh

export KEYS=${KEYS:-1000000} ROUNDS=${ROUNDS:-5} TMP
ETCD=${ETCD:-3.6}
export ICECORE=${ICECORE:-$CARGO_TARGET_DIR/release/icecore}
[[ -x $ICECORE ]] || die "build it first: make build"
TOOLS=$(etcd_dir "$ETCD")
# As a schedule would have it: a generated passphrase. "changes" also measures one that somebody chose.
export TOOLS ICECORE_PASSPHRASE_FILE=$TMP/generated CHOSEN=$TMP/chosen ICECORE_CACHE_DIR=$TMP/cache
"$ICECORE" --quiet key generate "$ICECORE_PASSPHRASE_FILE"
echo 'a long sentence' >"$CHOSEN"

cat >"$TMP/measure.py" <<'PYTHON'
"""measure.py PART URL: one part, on a server that is there."""
import base64, http.client, json, os, random, shlex, shutil, statistics, subprocess, sys, time, urllib.parse

part, url = sys.argv[1:]
TMP, KEYS, ROUNDS = os.environ["TMP"], int(os.environ["KEYS"]), int(os.environ["ROUNDS"])
ICECORE, TOOLS = os.environ["ICECORE"], os.environ["TOOLS"]
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

    def __init__(self, *command):
        with open(f"{TMP}/out", "w+", errors="replace") as out, open(f"{TMP}/error", "w+", errors="replace") as error:
            begun = time.perf_counter()
            child = subprocess.Popen([*map(str, command)], stdout=out, stderr=error)
            _, status, usage = os.wait4(child.pid, 0)
            self.seconds = time.perf_counter() - begun
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0), error.seek(0)
            self.said = out.read()
            if child.returncode not in (0, 3):
                sys.exit(f"{shlex.join(map(str, command))}: {child.returncode}: {error.read()}")
        self.cpu, self.peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def icecore(*words):
    return Run(ICECORE, "-r", f"{HOME}/repository", *words)


def backup(*words):
    run = icecore("backup", "--etcd", url, "--json", *words)
    run.report = json.loads(run.said)
    run.written, run.path = run.report["stored"]["written_bytes"], run.report["etcd"]["path"]
    return run


def first_backup():
    """Into a repository of its own."""
    place = f"{HOME}/first"
    Run(ICECORE, "-r", place, "init")
    run = Run(ICECORE, "-r", place, "backup", "--etcd", url, "--json")
    run.written = json.loads(run.said)["stored"]["written_bytes"]
    shutil.rmtree(place)
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
    pairs = [(first_backup(), save()) for _ in range(3)]
    first, saves = middle([pair[0] for pair in pairs]), [pair[1] for pair in pairs]
    of_first = median(saved.seconds / first.seconds for first, saved in pairs)
    say("first backups: " + " ".join(f"{first.seconds:.2f} beside {saved.seconds:.2f}" for first, saved in pairs))
    backup()
    rows = [("", "wall", "CPU", "peak", "written", "`snapshot save` / this")]
    chosen = ["--passphrase-file", os.environ["CHOSEN"]]
    opening = [median(icecore(*words, "snapshots").seconds for _ in range(ROUNDS)) for words in ([], chosen)]
    for count, words in ((1000, []), (1000, chosen), (10_000, []), (0, [])):
        runs = []
        for n in range(ROUNDS):
            if count:
                change(count, f"{count} {n} {words}")
            runs.append(backup(*words))
            saves.append(save())
        run, ratio = middle(runs), middle(saves).seconds / median(run.seconds for run in runs)
        name = f"{count:,} changed keys, {run.path}" if count else "nothing changed"
        if words:
            name += ", under a passphrase that somebody chose"
        rows.append((name, seconds(run), f"{run.cpu:.2f} s", f"{run.peak:.0f} MB", amount(run.written), f"{ratio:.1f}"))
        say(f"{name}: " + " ".join(f"{run.seconds:.3f}" for run in runs))
    saved = middle(saves)
    rows.insert(1, ("`etcdctl snapshot save`", seconds(saved), f"{saved.cpu:.2f} s", f"{saved.peak:.0f} MB", amount(saved.written), "1"))
    rows.insert(1, ("first backup, proved (of three)", seconds(first), f"{first.cpu:.2f} s", f"{first.peak:.0f} MB", amount(first.written), f"{of_first:.2f}"))
    rows.append(("`icecore snapshots`: what opening takes", f"{opening[0]:.2f} s", "", "", "", ""))
    rows.append(("the same under a passphrase that somebody chose", f"{opening[1]:.2f} s", "", "", "", ""))
    table(*rows)


def database():
    """An exact database file, beside `etcdutl snapshot restore` of a saved one, which makes the same member."""
    backup()
    save()
    revision = head()

    def fresh(name):
        path = f"{HOME}/{name}"
        subprocess.run(["rm", "-rf", path], check=True)
        return path

    def etcdutl(file):
        return Run(f"{TOOLS}/etcdutl", "snapshot", "restore", file, "--data-dir", fresh("member"))

    runs = {"ours": [], "theirs": [], "both": []}
    for _ in range(ROUNDS):
        runs["theirs"].append(etcdutl(f"{HOME}/saved.db"))
        runs["ours"].append(icecore("restore", f"rev:{revision}", "--to-etcd-file", fresh("exact.db")))
        runs["both"].append(etcdutl(f"{HOME}/exact.db"))
    names = {
        "ours": "`icecore restore rev:N --to-etcd-file`",
        "both": "`etcdutl snapshot restore` of that file",
        "theirs": "`etcdutl snapshot restore` of what `etcdctl snapshot save` wrote",
    }
    base = middle(runs["theirs"]).seconds
    rows = [("", "wall", "CPU", "peak", "beside `etcdutl`")]
    for name, of in runs.items():
        run = middle(of)
        rows.append((names[name], seconds(run), f"{run.cpu:.2f} s", f"{run.peak:.0f} MB", f"{run.seconds / base:.2f}"))
    table(*rows)


def backlog():
    """What a backlog costs by each path, and which one is chosen. Each path has a series of its own."""
    rows = [("revisions since the last backup", "whole file", "watch", "chosen")]
    paths = {"file": ["--etcd-capture", "snapshot"], "watch": ["--etcd-capture", "watch"], "chosen": []}
    for name, words in paths.items():
        backup("--series", name, *words)
    for count in map(int, os.environ.get("BACKLOGS", "1000 10000 100000 400000").split()):
        revisions(count, f"backlog {count}")
        runs = {name: backup("--series", name, *words) for name, words in paths.items()}
        chosen = runs["chosen"]
        rows.append((f"{count:,}", seconds(runs["file"]), seconds(runs["watch"]), f"{chosen.path}, {seconds(chosen)}"))
        say(rows[-1])
    table(*rows)


def anchor():
    """What snapshots of scattered changes write: their events, and now and then a new anchor. Values are
    random, so that events cannot be compressed."""
    rows = [("changed keys in a snapshot", "their keys and values", "a snapshot, median", "a new anchor", "snapshots to the next anchor", "written, with its share of the anchor / keys and values")]
    backup()
    made = due = None
    for count in (1000, 100):
        written = []
        while len(written) < (2 * KEYS // count if made is None else 100):
            before = head()
            change(count, f"anchor {count} {len(written)}")
            written.append(backup().written)
            # It is an order of magnitude more than the events.
            if len(written) > 5 and written[-1] > 10 * median(written):
                made, due = written.pop(), (len(written) + 1) * count
                last = before
                break
        if made is None:
            sys.exit("no new anchor was made")
        events, each, between = count * (VALUE + len(key(0))), median(written), due // count
        cost = f"{(each + made / between) / events:.2f}"
        rows.append((f"{count:,}", amount(events), amount(each), amount(made), f"{between:,}", cost))
        say(rows[-1])
    table(*rows)
    # The revision before a new anchor has most events to read, the one after it none.
    point, one = f"rev:{last}", key(random.Random(7).randrange(KEYS))
    rows = [("read at the worst moment before a new anchor", "wall", "CPU", "peak")]
    for name, words in {"one key": ["cat", point, "etcd", one], "every key": ["ls", point, "etcd"]}.items():
        run = middle([icecore(*words) for _ in range(ROUNDS)])
        rows.append((name, seconds(run), f"{run.cpu:.2f} s", f"{run.peak:.0f} MB"))
    table(*rows)


def compacted():
    """Nothing changed but how the file lies, beside etcd's own snapshot of it."""
    backup()
    Member().call("kv/compaction", {"revision": head(), "physical": True})
    Member().call("maintenance/defragment", {})
    rows = [("after a compaction and a defragmentation", "path", "wall", "CPU", "written", "`snapshot save` / this")]
    run, saved = backup(), save()
    rows.append(("one backup", run.path, seconds(run), f"{run.cpu:.2f} s", amount(run.written), f"{saved.seconds / run.seconds:.2f}"))
    table(*rows)


def many():
    """A thousand snapshots: does the last cost what the first did, and how fast are single keys then?"""
    global KEYS
    KEYS, snapshots, each = 20_000, 1000, 100
    transactions(range(KEYS), random.Random(1))
    backup()
    first, last = [], []
    for n in range(snapshots):
        change(each, f"many {n}")
        run = backup()
        (first if n < 10 else last if n >= snapshots - 10 else []).append(run)
        if n == snapshots // 2:
            middle_revision = head()
    saved = save()
    stored, files = sizes(f"{HOME}/repository")
    one = key(random.Random(f"many {snapshots // 2}").sample(range(KEYS), 1)[0])

    def latency(*words):
        return median(icecore(*words).seconds for _ in range(ROUNDS))

    for words in (["init"], ["snapshots"]):
        opening = Run(ICECORE, "-r", f"{HOME}/empty", *words).seconds
    rows = [("", "")]
    for name, runs in (("the first ten backups, median", first), ("the last ten", last)):
        rows.append((name, f"{median(run.seconds for run in runs):.2f} s, {median(run.cpu for run in runs):.2f} s of CPU, {amount(median(run.written for run in runs))} written"))
    rows += [
        ("repository", f"{amount(stored)} in {files:,} files"),
        ("one `etcdctl snapshot save`", amount(saved.written)),
        ("`snapshots` of an empty repository: what opening takes", f"{opening:.3f} s"),
        ("`snapshots` of the thousand", f"{latency('snapshots'):.3f} s"),
        ("`cat rev:N` of one key, in the middle", f"{latency('cat', f'rev:{middle_revision}', 'etcd', one):.3f} s"),
        ("`cat latest` of it", f"{latency('cat', 'latest', 'etcd', one):.3f} s"),
        ("`log` of it", f"{latency('log', 'etcd', one):.3f} s"),
    ]
    table(*rows)


globals()[part]()
PYTHON

# measure PART SERVER
measure() {
  mkdir -p "$TMP/$1"
  "$ICECORE" -r "$TMP/$1/repository" init >/dev/null
  "$ICECORE" -r "$TMP/$1/repository" key add --new-passphrase-file "$CHOSEN" >/dev/null
  local about="etcd $ETCD, $KEYS keys of 256 bytes, median of $ROUNDS"
  case $1 in
    compacted) about="etcd $ETCD, $KEYS keys of 256 bytes, one run" ;;
    many) about="etcd $ETCD, 20000 keys of 256 bytes" ;;
  esac
  benches/document.py "etcd-$1" "$about" "$PYTHON" "$TMP/measure.py" "$1" "${URL[$2]}"
  rm -rf "${TMP:?}/$1"
}

parts=("$@")
((${#parts[@]})) || parts=(changes database anchor backlog compacted many)
# Large transactions fill it faster.
options=(-- --max-txn-ops=20000 --max-request-bytes=20000000)
for part in "${parts[@]}"; do
  case $part in
    changes | database | anchor | backlog | compacted)
      # One server for all: each part goes on from what the one before left.
      if [[ -z ${PID[big]:-} ]]; then
        start_etcd big "$ETCD" "${options[@]}"
        "$PYTHON" "$TMP/measure.py" fill "${URL[big]}"
      fi
      measure "$part" big
      ;;
    many)
      start_etcd small "$ETCD" "${options[@]}" --auto-compaction-mode=revision --auto-compaction-retention=1000
      measure many small
      stop small
      ;;
    *) die "no part $part: changes database anchor backlog compacted many" ;;
  esac
done
