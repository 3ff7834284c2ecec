#!/usr/bin/env python3
"""Runs the examples of the documentation and compares what they print.

  examples.py [--update] PAGE…

In each page's ```console blocks a line "$ COMMAND" is run, in one shell for all
pages, and the lines after it are what it should print, stdout and stderr together.
A line "> MORE" goes on with the command. What differs from run to run may differ:
ids, times, durations, sizes, rates, ports; "…" stands for any text, a line of only
"…" for any lines. --update writes what was printed into the pages where it differs.
"""

import re
import subprocess
import sys

END = "<<<end of example>>>"

# What may differ, and the shape it must have.
VOLATILE = [
    r"[0-9a-f]{24}-\d+",  # a snapshot
    r"\b[0-9a-f]{64}\b",  # a chunk
    r"\b[0-9a-f]{32}\b",  # a repository, a pack, an ETag
    r"\b[0-9a-f]{16}\b",  # a key, a cluster
    r"\b[0-9a-f]{8}\b",  # the short form of an id
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)",
    r"\b\d+:\d\d (?:min|h)\b|\b\d+(?:\.\d+)? s\b",
    r"\b\d+(?:\.\d+)? (?:B|KiB|MiB|GiB)\b(?:/s)?",
    r"127\.0\.0\.1:\d+",
    r"(?<= on )\S+$",  # a host
    r"(?<=packs/data/)[0-9a-f]{2}(?=/)",
    r'(?<=bytes":)\d+',
    r'(?<=seconds":)[\d.]+',
]
TOKEN = re.compile("|".join(f"({pattern})" for pattern in [*VOLATILE, "…"]))


def line_pattern(line):
    """A regular expression for one expected line."""
    pattern, at = "", 0
    for found in TOKEN.finditer(line):
        pattern += re.escape(line[at : found.start()])
        pattern += " *" if line[found.start() - 1 : found.start()] == " " and pattern.endswith("\\ ") else ""
        pattern += "(?:.*?)" if found.group() == "…" else f"(?:{(VOLATILE + [''])[found.lastindex - 1]})"
        at = found.end()
    # Columns move with the width of what stands in them.
    return re.sub(r"(?:\\ ){2,}", r"\\ +", pattern + re.escape(line[at:]))


def matches(expected, printed):
    """Whether the printed lines are the expected ones."""
    pattern = ""
    for line in expected:
        pattern += "(?:.*\n)*?" if line.strip() == "…" else line_pattern(line.rstrip()) + "[ ]*\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in printed), re.MULTILINE) is not None


def examples(lines):
    """(index after the command, index after its output, command) of each example."""
    inside, found, at = False, [], 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("```"):
            inside = not inside and line.strip() == "```console"
        elif inside and line.startswith("$ "):
            command = line[2:]
            while lines[at].startswith("> "):
                command += "\n" + lines[at][2:]
                at += 1
            begin = at
            while not lines[at].startswith(("$ ", "```")):
                at += 1
            found.append((begin, at, command))
    return found


class Shell:
    """One bash for all examples."""

    def __init__(self):
        self.bash = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, command):
        self.bash.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s\\n' '{END}'\n")
        self.bash.stdin.flush()
        printed = []
        for line in self.bash.stdout:
            if line.rstrip("\n") == END:
                break
            printed.append(line.rstrip("\n").rstrip())
        else:
            sys.exit(f"the shell ended in: {command}")
        # The line break before the end mark, unless the output had none of its own.
        return printed[:-1] if printed and not printed[-1] else printed


def check(page, shell, update):
    """Runs a page's examples; gives how many there are and how many differ."""
    with open(page, encoding="utf-8") as file:
        lines = file.read().split("\n")
    found, failed, moved = examples(lines), 0, 0
    for begin, end, command in found:
        expected = lines[begin + moved : end + moved]
        printed = shell.run(command)
        if matches(expected, printed):
            continue
        failed += 1
        print(f"{page}: $ {command}")
        print("".join(f"  expected  {line}\n" for line in expected), end="")
        print("".join(f"  printed   {line}\n" for line in printed), end="")
        if update:
            lines[begin + moved : end + moved] = printed
            moved += len(printed) - len(expected)
    if update and failed:
        with open(page, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))
    return len(found), failed


def self_test():
    """A comparison that overlooks a difference proves nothing."""
    same = ["a 1.5 KiB  x", "…", "id 0123456789abcdef01234567-0 in 1.2 s"]
    assert matches(same, ["a 22 MiB  x", "b", "c", "id ffffffffffffffffffffffff-3 in 12 s"])
    assert matches(same, ["a 1 B  x", "id ffffffffffffffffffffffff-3 in 12 s"])
    assert not matches(same, ["a 1 B  y", "id ffffffffffffffffffffffff-3 in 12 s"])
    assert not matches(same, ["a 1 B  x", "id fff-3 in 12 s"])
    assert not matches(["a", "b"], ["a"]) and not matches([], ["a"]) and matches([], [])
    assert not matches(["2 snapshots"], ["3 snapshots"])


def main():
    self_test()
    pages = [page for page in sys.argv[1:] if page != "--update"]
    shell, all_found, all_failed = Shell(), 0, 0
    for page in pages:
        found, failed = check(page, shell, "--update" in sys.argv)
        if not found:
            print(f"{page}: no example")
            failed = 1
        all_found, all_failed = all_found + found, all_failed + failed
    print(f"{all_found - all_failed} examples as printed, {all_failed} not")
    sys.exit(all_failed > 0)


main()
