"""durable.py backup|restore TRACE REPOSITORY|DIRECTORY: were the durable steps made, and in order?

TRACE is of `strace -f -y -e trace=link,linkat,rename,renameat,renameat2,fsync,fdatasync,syncfs`.

backup: every file of the repository was written out before it got its name, and its directory after, by
the thread that made it. restore: a syncfs before the files get their names, and one after.
"""
import os
import re
import sys

CALL = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
UNFINISHED = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
SYNCS = ("fsync", "fdatasync")


def calls(trace):
    """(thread, call, arguments) of those that succeeded, in the order in which they ended."""
    begun = {}
    for line in open(trace):
        line = line.rstrip("\n")
        if part := UNFINISHED.match(line):
            begun[part[1]] = part[2]
            continue
        if part := RESUMED.match(line):
            line = f"{part[1]} {begun.pop(part[1])}{part[2]}"
        if (call := CALL.match(line)) and call[4] == "0":
            yield call[1], call[2], call[3]


def backup(trace, repository):
    threads = {}
    for thread, call, words in calls(trace):
        threads.setdefault(thread, []).append((call, words))
    named = set()
    for steps in threads.values():
        for n, (call, words) in enumerate(steps):
            if not call.startswith("link"):
                continue
            temporary, name = re.findall(r'"([^"]*)"', words)
            before, after = steps[n - 1] if n else ("nothing", ""), [*steps[n + 1:], ("nothing", "")][0]
            if before[0] not in SYNCS or os.path.basename(temporary) not in before[1]:
                sys.exit(f"before {name} got its name: {before}")
            if after[0] not in SYNCS or not after[1].rstrip(">").endswith(os.path.dirname(name)):
                sys.exit(f"after {name} got its name: {after}")
            named.add(name)
    files = {os.path.join(at, name) for at, _, names in os.walk(repository) for name in names}
    if not files or files - named:
        sys.exit(f"never seen to get its name: {sorted(files - named)[:3] or 'anything'}")
    print(f"{len(files)} files, each written out before it got its name, its directory after")


def restore(trace, directory):
    steps = [call for _, call, words in calls(trace) if call == "syncfs" or directory in words]
    named = sum(call.startswith(("rename", "link")) for call in steps)
    if not named or steps[0] != "syncfs" or steps[-1] != "syncfs":
        sys.exit(f"{named} files got their names; first {steps[:1]}, last {steps[-1:]}")
    print(f"{named} files got their names, after a syncfs and before another")


{"backup": backup, "restore": restore}[sys.argv[1]](*sys.argv[2:])
