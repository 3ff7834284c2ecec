"""icecore beside rclone, on a bucket: started by minio.sh, which has a MinIO for it.

The data are those of peers.py, as objects. `list` is what the server needs to list them all, with
nothing else done. Server and client share the cores and keep them busy: the limit of a row is what it
would be if icecore itself took no CPU, the whole CPU time of the other step over the server's in icecore's.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import sys
import time
import urllib.request

import document
import peers

ROWS = [("first backup", "rclone sync to a directory", 2.0),
        ("first backup into MinIO", "first backup", 1 / 1.3),
        ("nothing changed", "list", 1 / 1.2),
        ("restore", "rclone copy", 2.0)]


class Rclone(peers.Tool):
    name = "rclone"
    program = peers.find("rclone")

    def __init__(self, place, url, access, secret):
        super().__init__(place)
        self.env |= {
            "RCLONE_CONFIG": str(place / "rclone.conf"),
            "RCLONE_CONFIG_M_TYPE": "s3",
            "RCLONE_CONFIG_M_PROVIDER": "Minio",
            "RCLONE_CONFIG_M_ENDPOINT": url,
            "RCLONE_CONFIG_M_ACCESS_KEY_ID": access,
            "RCLONE_CONFIG_M_SECRET_ACCESS_KEY": secret,
            "RCLONE_TRANSFERS": "16",
            "RCLONE_FAST_LIST": "true",
        }


class Icecore(peers.Icecore):
    def __init__(self, place, url, access, secret):
        super().__init__(place)
        self.url = url
        for prefix in ("ICECORE_S3", "ICECORE_REPOSITORY"):
            self.env |= {f"{prefix}_ACCESS_KEY_ID": access, f"{prefix}_SECRET_ACCESS_KEY": secret}

    def source(self):
        return ["--s3", self.url, "--bucket", "a-bucket"]

    def elsewhere(self, bucket):
        """The same with its repository on the server."""
        other = Icecore(self.place, self.url, "", "")
        other.env = self.env | {"ICECORE_REPOSITORY": f"s3://{bucket}/{time.monotonic_ns()}?endpoint={self.url}"}
        return other


def cpu_of(process):
    """Seconds of CPU that it has taken so far."""
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(") ")[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests_to(url):
    """Requests of S3 that the server has answered so far."""
    with urllib.request.urlopen(f"{url}/minio/metrics/v3/api/requests", timeout=60) as said:
        lines = said.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("minio_api_requests_total{"))


def go_through(ours, rclone, server, note):
    def timed(step, tool, *arguments):
        cpu, requests = cpu_of(server), requests_to(ours.url)
        figures = peers.measure(tool, arguments, tool.place)
        server_cpu = cpu_of(server) - cpu
        note(tool.name, step, figures | {"server_cpu": server_cpu, "requests": requests_to(ours.url) - requests})

    for tool in (ours, rclone):
        shutil.rmtree(tool.place, ignore_errors=True)
        tool.place.mkdir(parents=True)
    timed("list", rclone, "lsf", "-R", "M:a-bucket")
    timed("rclone sync to a directory", rclone, "sync", "M:a-bucket", rclone.place / "copy")
    shutil.rmtree(rclone.place / "copy")
    peers.measure(ours, ours.init(), ours.place)
    timed("first backup", ours, "backup", "--quiet", *ours.source())
    timed("nothing changed", ours, "backup", "--quiet", *ours.source())
    remote = ours.elsewhere("repository")
    peers.measure(remote, remote.init(), ours.place)
    timed("first backup into MinIO", remote, "backup", "--quiet", *ours.source())
    timed("nothing changed, repository on MinIO", remote, "backup", "--quiet", *ours.source())
    to = ["--to-s3", ours.url, "--to-bucket", "restored"]
    timed("restore", ours, "restore", "latest", "--quiet", *to)
    peers.measure(rclone, ["purge", "M:restored"], rclone.place)
    # Back onto the server, from a directory: what a copy that was fetched before needs.
    peers.measure(rclone, ["sync", "M:a-bucket", rclone.place / "copy"], rclone.place)
    timed("rclone copy", rclone, "copy", "--no-check-dest", rclone.place / "copy", "M:restored")
    for bucket in ("restored", "repository"):
        peers.measure(rclone, ["purge", f"M:{bucket}"], rclone.place)
        peers.measure(rclone, ["mkdir", f"M:{bucket}"], rclone.place)


def table(origin, scale, lines):
    def figures(step, key):
        return [line[key] for line in lines if line["step"] == step]

    out = [f"{origin} The data of scale {scale:g} as objects in MinIO, in memory. Median, and the least and the most.", "",
           "| step | s | CPU of it, s | CPU of MinIO, s | requests | peak resident, MiB |", "|---|---|---|---|---|---|"]
    for step in dict.fromkeys(line["step"] for line in lines):
        out.append(f"| {step} | {peers.spread(figures(step, 'seconds'), peers.seconds)} | "
                   f"{peers.spread(figures(step, 'cpu'), peers.seconds)} | "
                   f"{peers.spread(figures(step, 'server_cpu'), peers.seconds)} | "
                   f"{statistics.median(figures(step, 'requests')):,.0f} | {peers.mib(max(figures(step, 'resident')))} |")
    out += ["", "| row | beside | times as fast | limit | aim |", "|---|---|---|---|---|"]
    times = lambda ratios: peers.spread(ratios, lambda ratio: f"{ratio:.2f}")
    for ours, theirs, aim in ROWS:
        beside = figures(theirs, "seconds")
        ratios = [b / a for a, b in zip(figures(ours, "seconds"), beside)]
        whole = map(sum, zip(figures(theirs, "cpu"), figures(theirs, "server_cpu")))
        limits = [b / a for a, b in zip(figures(ours, "server_cpu"), whole)]
        out.append(f"| {ours} | {theirs} | {times(ratios)} | {times(limits)} | {aim:.2f} |")
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("process", type=int, help="the server's")
    parser.add_argument("server", nargs=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1)
    options = parser.parse_args()
    if not Rclone.program:
        sys.exit("rclone is not there: scripts/servers.sh peers")
    rclone, ours = (kind(peers.DIRECTORY / kind.name, *options.server) for kind in (Rclone, Icecore))
    data = peers.Data(pathlib.Path(peers.DIRECTORY) / "data", options.scale)
    peers.apart(data.make)
    rclone.place.mkdir(parents=True)
    peers.measure(rclone, ["copy", "--no-check-dest", data.root, "M:a-bucket"], rclone.place)
    shutil.rmtree(data.root)

    lines, origin = [], document.Origin()

    def note(tool, step, figures):
        lines.append({"step": step} | figures)
        print(f"{tool:8} {step:36} {figures['seconds']:7.2f} s  cpu {figures['cpu']:7.2f} s  "
              f"{figures['resident'] / peers.MIB:6.0f} MiB  MinIO {figures['server_cpu']:7.2f} s", flush=True)

    for _ in range(options.rounds):
        go_through(ours, rclone, options.process, note)
    out = table(origin.line("MinIO"), options.scale, lines)
    print("\n".join(out))
    document.write("minio", out)


main()
