#!/usr/bin/env python3
"""What one core does in a second, of each step that content goes through: runs benches/micro.rs and writes its table
into docs/performance.md."""

import json
import os
import subprocess
import sys
import time

import document
import peers


def rate(throughput, nanoseconds):
    """How much of it in a second."""
    if not throughput:
        return ""
    (kind, count), = throughput.items()
    each = count * 1e9 / nanoseconds
    if kind == "Bytes":
        return f"{each / (1 << 30):.2f} GiB/s" if each > 1 << 30 else f"{each / (1 << 20):.0f} MiB/s"
    return f"{each / 1e6:.2f} million/s" if each > 1e6 else f"{each / 1e3:.0f} thousand/s"


def duration(nanoseconds):
    unit, of = next((unit, of) for unit, of in (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1)) if nanoseconds >= of)
    return f"{nanoseconds / of:.3g} {unit}"


def main():
    began, origin = time.time(), document.Origin()
    of_build = os.environ | {"CARGO_TARGET_DIR": str(peers.TARGET)}
    subprocess.run(["cargo", "bench", "--locked", "--bench", "micro"], check=True, cwd=document.HERE, env=of_build)
    # What a run before has left lies beside it.
    measured = [place for place in (peers.TARGET / "criterion").glob("*/*/new/estimates.json")
                if place.stat().st_mtime >= began]
    if not measured:
        sys.exit("nothing was measured: the table stays as it is")
    out = [origin.line("One core"), "", "| step | time | in a second |", "|---|---|---|"]
    for place in sorted(measured, key=lambda place: place.stat().st_mtime):
        about = json.loads(place.with_name("benchmark.json").read_text())
        mean = json.loads(place.read_text())["mean"]["point_estimate"]
        out.append(f"| {about['group_id']}: {about['function_id']} | {duration(mean)} | {rate(about['throughput'], mean)} |")
    document.write("micro", out)


main()
