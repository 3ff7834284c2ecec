#!/usr/bin/env python3
"""Puts tables into docs/performance.md, so that none is entered by hand.

    SOMETHING | benches/document.py NAME

shows what SOMETHING prints, and puts the tables in it (lines that begin with |) between the marks of NAME.
Above them stand the machine, when it was measured, and of which commit.
"""

import os
import pathlib
import platform
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = HERE / "docs" / "performance.md"


def machine():
    cpu = next((line.split(": ")[1] for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")) >> 20
    return f"{os.cpu_count()} cores ({cpu.strip()}), {memory} GiB, Linux {platform.release()}"


def now():
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())


def commit():
    """The last one that changed more than documents, and whether something else is changed."""
    def git(*words):
        return subprocess.run(["git", "-C", HERE, *words, "--", ".", ":!docs", ":!*.md"], capture_output=True, text=True).stdout.strip()

    of = git("log", "-1", "--format=%h") or "of no commit"
    return of + (" and changes" if git("status", "--porcelain") else "")


def write(name, lines):
    """Puts these lines where the marks of the name stand."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = DOCUMENT.read_text().split(begin)
    after = rest.split(end)[1]
    DOCUMENT.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after)


def tables_in(lines):
    """The lines of tables, an empty one before each."""
    inside = False
    for line in lines:
        print(line, end="", flush=True)
        row = line.startswith("|")
        if row and not inside:
            yield ""
        inside = row
        if row:
            yield line.rstrip("\n")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    begun = now()
    tables = list(tables_in(sys.stdin))
    if not tables:
        sys.exit(f"nothing was measured for {sys.argv[1]}: its tables stay as they are")
    write(sys.argv[1], [f"{machine()}; from {begun} to {now()} UTC; {commit()}.", *tables])


if __name__ == "__main__":
    main()
