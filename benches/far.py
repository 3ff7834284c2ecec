"""icecore beside restic, on a repository far away: started by far.sh, which has a MinIO for it.

All connections to the server go through a relay that holds back what it is given for half of --late milliseconds,
either way, whatever its amount: what takes long is to wait for an answer, not to move bytes. The data are those of
peers.py. At the end of each restore what came is compared by hash with what was backed up.
"""

import argparse
import asyncio
import multiprocessing
import shutil
import sys
import time

import document
import peers

STEPS = ["first backup", "nothing changed", "check, reading all", "restore", "restore, on another machine"]


# --- The relay ---------------------------------------------------------------

async def hold_back(reader, writer, seconds):
    waiting = asyncio.Queue(256)

    async def receive():
        while data := await reader.read(1 << 18):
            await waiting.put((time.monotonic() + seconds, data))
        await waiting.put((0, b""))

    receiving = asyncio.create_task(receive())
    while True:
        due, data = await waiting.get()
        if not data:
            break
        await asyncio.sleep(max(0, due - time.monotonic()))
        writer.write(data)
        await writer.drain()
    await receiving
    writer.close()


async def relay(server, late, told):
    host, port = server.removeprefix("http://").split(":")

    async def connected(reader, writer):
        onward = await asyncio.open_connection(host, int(port))
        ways = [(reader, onward[1]), (onward[0], writer)]
        # Whoever breaks a connection off ends only that.
        await asyncio.gather(*(hold_back(*way, late / 2000) for way in ways), return_exceptions=True)

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    told.send(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


def serve(*arguments):
    asyncio.run(relay(*arguments))


# --- The steps ---------------------------------------------------------------

def tools(url, access, secret):
    ours, restic = (kind(peers.DIRECTORY / kind.name) for kind in (peers.Icecore, peers.Restic))
    for tool in (ours, restic):
        tool.env |= {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    # A new repository each round.
    round_ = time.monotonic_ns()
    ours.env["ICECORE_REPOSITORY"] = f"s3://icecore/{round_}?endpoint={url}"
    restic.env["RESTIC_REPOSITORY"] = f"s3:{url}/restic/{round_}"
    return ours, restic


def go_through(tool, data, wanted, note):
    shutil.rmtree(tool.place, ignore_errors=True)
    tool.place.mkdir(parents=True)

    def timed(step, arguments):
        note(step, peers.measure(tool, arguments, tool.place))

    def restored(step):
        timed(step, tool.restore())
        if peers.apart(peers.Data(tool.restored(data.root), 0).digest) != wanted:
            sys.exit(f"{tool.name} did not restore what was backed up")
        shutil.rmtree(tool.place / "restored")

    peers.measure(tool, tool.init(), tool.place)
    timed("first backup", tool.backup(data.root))
    timed("nothing changed", tool.backup(data.root))
    timed("check, reading all", tool.check())
    restored("restore")
    shutil.rmtree(tool.place / "cache")
    restored("restore, on another machine")
    shutil.rmtree(tool.place)


def table(origin, options, names, lines):
    def figures(step, tool, key):
        return [line[key] for line in lines if (line["step"], line["tool"]) == (step, tool)]

    ours, theirs = names
    out = [f"{origin} The data of scale {options.scale:g}, answers {options.late:g} ms late. Median, and the least and the most.", "",
           f"| step | {ours}, s | {theirs}, s | {theirs} / {ours} | most resident, MiB: {ours} | {theirs} |", "|---|---|---|---|---|---|"]
    for step in STEPS:
        a, b = (figures(step, tool, "seconds") for tool in names)
        ratios = [theirs / ours for ours, theirs in zip(a, b)]
        resident = [peers.mib(max(figures(step, tool, "resident"))) for tool in names]
        out.append(f"| {step} | {peers.spread(a, peers.seconds)} | {peers.spread(b, peers.seconds)} | "
                   f"{peers.spread(ratios, lambda ratio: f'{ratio:.1f}')} | {' | '.join(resident)} |")
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("server", nargs=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--late", type=float, default=80)
    options = parser.parse_args()
    if not peers.Restic.program:
        sys.exit("restic is not there: scripts/servers.sh peers")
    server, *keys = options.server
    port, told = multiprocessing.Pipe(duplex=False)
    relaying = multiprocessing.Process(target=serve, args=(server, options.late, told), daemon=True)
    relaying.start()
    url = f"http://127.0.0.1:{port.recv()}"

    data = peers.Data(peers.DIRECTORY / "data", options.scale)
    peers.apart(data.make)
    wanted = peers.apart(data.digest)
    lines, origin = [], document.Origin()
    for _ in range(options.rounds):
        for tool in tools(url, *keys):
            def note(step, figures):
                lines.append({"tool": tool.name, "step": step} | figures)
                print(f"{tool.name:8} {step:28} {figures['seconds']:7.2f} s  {figures['resident'] / peers.MIB:6.0f} MiB", flush=True)

            go_through(tool, data, wanted, note)
    out = table(origin.line("Repository in MinIO, in memory"), options, ("icecore", "restic"), lines)
    print("\n".join(out))
    document.write("far", out)


if __name__ == "__main__":
    main()
