#!/usr/bin/env python3
"""Puts tables into docs/performance.md, so that none is entered by hand.

    benches/document.py NAME ABOUT COMMAND [ARGUMENT...]

runs the command and shows what it prints. The tables in that (lines that begin with |) go between the marks of
NAME, once it has ended well; above them stand ABOUT, the machine, when it was measured, and of which commit.
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


def commit():
    """The last one that changed more than documents, and whether something else is changed."""
    def git(*words):
        return subprocess.run(["git", "-C", HERE, *words, "--", ".", ":!docs", ":!*.md"], capture_output=True, text=True).stdout.strip()

    of = git("log", "-1", "--format=%h") or "of no commit"
    return of + (" and changes" if git("status", "--porcelain") else "")


class Origin:
    """Where, when and of what something is measured: to be made before it is."""

    def __init__(self):
        self.begun, self.commit = self.now(), commit()

    @staticmethod
    def now():
        return time.strftime("%Y-%m-%d %H:%M", time.gmtime())

    def line(self, about):
        return f"{about}; {machine()}; from {self.begun} to {self.now()} UTC; {self.commit}."


def around(name):
    """The document up to the first mark of the name, and from the second one on."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    text = DOCUMENT.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        sys.exit(f"{DOCUMENT} has not one place for {name}")
    return text[:text.index(begin) + len(begin)], text[text.index(end):]


def write(name, lines):
    """Puts these lines where the marks of the name stand."""
    before, after = around(name)
    DOCUMENT.write_text(before + "\n".join(lines) + "\n" + after)


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
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    name, about, *command = sys.argv[1:]
    # That there is no place for it is to be known before it is measured.
    around(name)
    origin = Origin()
    measuring = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    tables = list(tables_in(measuring.stdout))
    if measuring.wait() or not tables:
        sys.exit(f"{name} was not measured: its tables stay as they are")
    write(name, [origin.line(about), *tables])


if __name__ == "__main__":
    main()
