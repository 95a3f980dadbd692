#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
vhost-user-blk back-ends side by side: bulkhead and qemu-storage-daemon in several variants, on an image on tmpfs and on
one on a disk opened with O_DIRECT.

    tests/bench/vhost.py [--build build] [--repeats 3] [--seconds 2] [--disk FOLDER] [--json FILE] [--case NAME ...]

Each measurement starts a fresh server; the order of the servers rotates. Printed are medians and ranges of the server's
CPU time per request (utime + stime of its whole process tree) and of the requests per second; then what was asked for,
against the best variant of qemu-storage-daemon in each case. Ratios are what counts: absolute figures move with the
machine. The load comes from vhost-load, a lean front-end and driver in one.

With O_DIRECT each measurement starts with as much load again that is not measured, so that what the device allows
after a rest does not go to the server that took longest to start. Where the device is the bound results differ by
chance: "even" says that each median lies within the range of the other.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

from rounds import ACCOUNT, folder, give_to_account, rounds, serve, summary

TOP = pathlib.Path(__file__).resolve().parents[2]
IMAGE_MIB = 1024
WAIT_S = 20
POLL_NS = 50000

# name: arguments of vhost-load; "poll": both sides poll; "direct": on the disk, with O_DIRECT
CASES = {
    "4k randread, depth 1": dict(op="randread", depth=1),
    "4k randread, depth 1, both polling": dict(op="randread", depth=1, poll=True),
    "4k randread, depth 32": dict(op="randread", depth=32),
    "4k randwrite, depth 32": dict(op="randwrite", depth=32),
    "4k randread, depth 32, 2 queues": dict(op="randread", depth=32, queues=2),
    "1M read, depth 1": dict(op="read", bytes=1 << 20, depth=1),
    "1M read, depth 4": dict(op="read", bytes=1 << 20, depth=4),
    "1M write, depth 4": dict(op="write", bytes=1 << 20, depth=4),
    "O_DIRECT 4k randread, depth 1": dict(op="randread", depth=1, direct=True),
    "O_DIRECT 4k randread, depth 32": dict(op="randread", depth=32, direct=True),
    "O_DIRECT 4k randwrite, depth 32": dict(op="randwrite", depth=32, direct=True),
    "O_DIRECT 4k randread, depth 32, 2 queues": dict(op="randread", depth=32, queues=2, direct=True),
    "O_DIRECT 1M read, depth 4": dict(op="read", bytes=1 << 20, depth=4, direct=True),
    "O_DIRECT 1M write, depth 4": dict(op="write", bytes=1 << 20, depth=4, direct=True),
}

# What issue 4 asks for: (case, least ratio of requests per second, or most ratio of CPU time that does as well)
LATENCY = "4k randread, depth 1"
TARGETS = [("4k randread, depth 32", 4, 0.3), ("4k randwrite, depth 32", 4, 0.3), (LATENCY, 3, None),
           ("4k randread, depth 1, both polling", 3, None),
           ("4k randread, depth 32, 2 queues", 6, None)]
TARGETS += [(name, 1, None) for name in CASES if "1M" in name or "O_DIRECT" in name]


class Server:
    polls = False  # looks for requests for a while before it sleeps

    def __init__(self, options, directory, image, case):
        self.options, self.image, self.case = options, image, case
        self.path = directory / f"{self.name}.sock"
        self.popen = None

    def node(self):
        direct = ",cache.direct=on" if self.case.get("direct") else ""
        return f"driver=file,node-name=disk,filename={self.image}{direct}"

    def export(self):
        return (f"type=vhost-user-blk,id=exp,node-name=disk,writable=on,addr.type=unix,addr.path={self.path},"
                f"num-queues={self.case.get('queues', 1)}")

    def start(self):
        self.path.unlink(missing_ok=True)
        self.popen = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + WAIT_S
        while not self.path.exists():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} does not serve: {' '.join(map(str, self.argv()))}")
            time.sleep(0.02)
        time.sleep(0.1)

    def stop(self):
        if self.popen is None:
            return
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


class Bulkhead(Server):
    name = "bulkhead"
    poll_ns = 0

    def argv(self):
        poll_ns = POLL_NS if self.case.get("poll") else self.poll_ns
        poll = f",__org.bulkhead_poll-max-ns={poll_ns}" if poll_ns else ""
        words = [self.options.build / "bulkhead"]
        if os.getuid() == 0:
            words += ["--user", ACCOUNT]
        return words + ["--blockdev", self.node(), "--export", self.export() + poll]


class BulkheadPoll(Bulkhead):
    """With what an iothread object of qemu-storage-daemon has by default."""
    name = "bulkhead-poll"
    polls = True
    poll_ns = 32768


class Qsd(Server):
    name = "qsd"
    aio = "threads"
    iothread = False

    def argv(self):
        words = ["qemu-storage-daemon"]
        export = self.export()
        if self.iothread:
            poll = f",poll-max-ns={POLL_NS}" if self.case.get("poll") else ""
            words += ["--object", f"iothread,id=thread{poll}"]
            export += ",iothread=thread"
        return words + ["--blockdev", f"{self.node()},aio={self.aio}", "--export", export]


class QsdUring(Qsd):
    name = "qsd-uring"
    aio = "io_uring"


class QsdThread(Qsd):
    name = "qsd-iothread"
    iothread = polls = True


class QsdUringThread(Qsd):
    name = "qsd-uring-iothread"
    aio = "io_uring"
    iothread = polls = True


SERVERS = {server.name: server for server in (Bulkhead, BulkheadPoll, Qsd, QsdUring, QsdThread, QsdUringThread)}


def measure(options, server, case):
    words = [options.build / "tests/bench/vhost-load", "--socket", server.path, "--seconds", options.seconds, "--pid",
             server.popen.pid]
    for key, value in case.items():
        if key != "direct":
            words += [f"--{key}"] if value is True else [f"--{key}", value]
    run = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=options.seconds + 60)
    if run.returncode != 0:
        raise SystemExit(f"{server.name}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def measure_case(options, server, case):
    """After as much load that is not measured, if a device is the bound."""
    if case.get("direct"):
        measure(options, server, case)
    return measure(options, server, case)


def run_case(options, images, directory, name):
    """Repeats x servers, the first server of a round rotating."""
    case, kinds = CASES[name], options.servers
    results = {kind: [] for kind in kinds}
    for kind in rounds(options, kinds):
        server = SERVERS[kind](options, directory, images["disk" if case.get("direct") else "memory"], case)
        results[kind].append(serve(server, lambda: measure_case(options, server, case)))
    return results


def show_case(name, results):
    print(f"\n{name}")
    print(f"  {'server':<18} {'srv us':>8} {'(range)':>17} {'requests/s':>11} {'(range)':>21} {'MiB/s':>7}")
    for kind, samples in results.items():
        us, us_low, us_high = summary(samples, "server_us")
        iops, iops_low, iops_high = summary(samples, "iops")
        mib = statistics.median(sample["mib_per_s"] for sample in samples)
        print(f"  {kind:<18} {us:8.2f} {f'{us_low:.2f}-{us_high:.2f}':>17} {iops:11,.0f} "
              f"{f'{iops_low:,.0f}-{iops_high:,.0f}':>21} {mib:7,.0f}")
    sys.stdout.flush()


def best_of(kinds):
    return max(kinds, key=lambda kind: summary(kinds[kind], "iops")[0])


def compare(samples):
    """The best of bulkhead's variants and of qemu-storage-daemon's by requests per second, and how they differ."""
    ours = {kind: samples[kind] for kind in samples if kind.startswith("bulkhead")}
    peers = {kind: samples[kind] for kind in samples if kind not in ours}
    if not ours or not peers:
        return None
    own, peer = best_of(ours), best_of(peers)
    iops, cpu = (summary(ours[own], key)[0] / summary(peers[peer], key)[0] for key in ("iops", "server_us"))
    (own_mid, own_low, own_high), (mid, low, high) = summary(ours[own], "iops"), summary(peers[peer], "iops")
    return own, peer, iops, cpu, low <= own_mid <= high and own_low <= mid <= own_high


def like_with_like(samples):
    """At depth 1 whoever waits without sleeping wins, so also those that do against those that do, and the others."""
    for polls, what in ((False, "neither polls"), (True, "both servers poll")):
        found = compare({kind: samples[kind] for kind in samples if SERVERS[kind].polls == polls})
        if found is not None:
            own, peer, iops, cpu, _ = found
            print(f"  {f'{LATENCY}: {what}':<50} {iops:9.2f}x {cpu:8.2f}   ({own} / {peer})")


def verdicts(results):
    """The best of bulkhead's variants against the best of qemu-storage-daemon's, by requests per second, in each case."""
    print(f"\n{'bulkhead against qemu-storage-daemon, best variants':<52} {'requests/s':>10} {'srv CPU':>8}")
    missed = 0
    for name, least, most_cpu in TARGETS:
        found = compare(results.get(name, {}))
        if found is None:
            continue
        own, peer, iops, cpu, even = found
        met = iops >= least or (most_cpu is not None and cpu <= most_cpu)
        even = even and least == 1
        missed += not met and not even
        word = "met" if met else "even" if even else "MISSED"
        target = f"at least {least}x" + (f", or CPU at most {most_cpu}" if most_cpu else "")
        print(f"  {name:<50} {iops:9.2f}x {cpu:8.2f}   {word} ({target}; {own} / {peer})")
        if name == LATENCY:
            like_with_like(results[name])
    return missed


def make_image(path):
    with open(path, "wb") as file:
        for _ in range(IMAGE_MIB):
            file.write(os.urandom(1 << 20))
    give_to_account(path)
    return path


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=TOP / "build", help="build tree")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, at least 3")
    parser.add_argument("--seconds", type=float, default=2, help="of load in each measurement")
    parser.add_argument("--servers", nargs="+", default=list(SERVERS), choices=list(SERVERS))
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME",
                        help="; ".join(CASES))
    parser.add_argument("--disk", type=pathlib.Path, default=pathlib.Path("/var/tmp"), help="folder for O_DIRECT images")
    parser.add_argument("--json", type=pathlib.Path, help="write all samples there")
    return parser.parse_args()


def main():
    options = arguments()
    if shutil.which("qemu-storage-daemon") is None:
        raise SystemExit("qemu-storage-daemon is not installed")
    results = {}
    with folder() as memory, folder(options.disk) as disk:
        images = {"memory": make_image(memory / "image")}
        if any(CASES[name].get("direct") for name in options.case):
            images["disk"] = make_image(disk / "image")
        for name in options.case:
            results[name] = run_case(options, images, memory, name)
            show_case(name, results[name])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 1 if verdicts(results) else 0


if __name__ == "__main__":
    sys.exit(main())
