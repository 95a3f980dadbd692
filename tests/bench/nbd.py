#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
NBD servers side by side: bulkhead, qemu-storage-daemon and nbdkit's file plugin, on one image on tmpfs.

    tests/bench/nbd.py [--build build] [--repeats 3] [--seconds 2] [--tcp] [--json FILE] [--case NAME ...]

Each measurement starts a fresh server; the order of the servers rotates. Printed are medians and ranges of the server's
CPU time per request (utime + stime of its whole process tree) and of the requests per second, and the ratios of
bulkhead to its peers. Ratios are what counts: absolute figures move with the machine.

The load comes from nbd-load, which costs little itself. A peer that is not installed is left out, and said so.
"""

import argparse
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
ACCOUNT = "bulkhead"
IMAGE_MIB = 1024
WAIT_S = 20

# name: arguments of nbd-load
CASES = {
    "4k randread, depth 1": dict(op="randread", bytes=4096, depth=1, connections=1),
    "4k randread, depth 32": dict(op="randread", bytes=4096, depth=32, connections=1),
    "4k randwrite, depth 1": dict(op="randwrite", bytes=4096, depth=1, connections=1),
    "4k randwrite, depth 32": dict(op="randwrite", bytes=4096, depth=32, connections=1),
    "4k randread, depth 32, 2 conn": dict(op="randread", bytes=4096, depth=32, connections=2),
    "4k randread, depth 32, structured": dict(op="randread", bytes=4096, depth=32, connections=1, structured=True),
    "64k randread, depth 8": dict(op="randread", bytes=65536, depth=8, connections=1),
    "1M read, depth 4": dict(op="read", bytes=1 << 20, depth=4, connections=1),
    "1M write, depth 4": dict(op="write", bytes=1 << 20, depth=4, connections=1),
}
HEADLINE = "4k randread, depth 32"


class Server:
    """A server process that exports one image under the name "disk" (nbdkit: under any name)."""

    program = None
    export = "disk"

    def __init__(self, options, directory, image):
        self.options = options
        self.unix = directory / f"{self.name}.sock"
        self.port = free_port() if options.tcp else None
        self.image = image
        self.popen = None

    @classmethod
    def missing(cls, options):
        return None if shutil.which(cls.program) else f"{cls.program} is not installed"

    def address(self):
        return ["--tcp", f"127.0.0.1:{self.port}"] if self.port else ["--unix", str(self.unix)]

    def start(self):
        self.unix.unlink(missing_ok=True)
        self.popen = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + WAIT_S
        while not self.answers():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} does not serve: {' '.join(self.argv())}")
            time.sleep(0.02)

    def answers(self):
        """Whether a client gets its export: a server may listen before it has that."""
        family, where = (socket.AF_INET, ("127.0.0.1", self.port)) if self.port else (socket.AF_UNIX, str(self.unix))
        name = self.export.encode()
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(1)
            try:
                s.connect(where)
                if s.recv(18, socket.MSG_WAITALL)[:8] != b"NBDMAGIC":
                    return False
                s.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name)) + name)  # NBD_OPT_EXPORT_NAME
                return len(s.recv(10, socket.MSG_WAITALL)) == 10
            except OSError:
                return False

    def stop(self):
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def qsd_words(self):
        """What bulkhead and qemu-storage-daemon take alike."""
        if self.port:
            listen = f"addr.type=inet,addr.host=127.0.0.1,addr.port={self.port}"
        else:
            listen = f"addr.type=unix,addr.path={self.unix}"
        return ["--blockdev", f"driver=file,node-name=disk,filename={self.image}", "--nbd-server", listen,
                "--export", "type=nbd,id=exp,node-name=disk,name=disk,writable=on"]


class Bulkhead(Server):
    name = "bulkhead"

    @classmethod
    def missing(cls, options):
        return None if (options.build / "bulkhead").exists() else f"{options.build}/bulkhead is not built"

    def argv(self):
        words = [str(self.options.build / "bulkhead")]
        if os.getuid() == 0:
            words += ["--user", ACCOUNT]
        return words + self.qsd_words()


class Direct(Server):
    """The same data path without monitor and sandbox."""
    name = "direct"
    export = ""

    @classmethod
    def missing(cls, options):
        if options.tcp:
            return "nbd-direct has no TCP"
        return None if (options.build / "tests/bench/nbd-direct").exists() else "nbd-direct is not built"

    def argv(self):
        return [str(self.options.build / "tests/bench/nbd-direct"), str(self.unix), str(self.image), "2"]


class Qsd(Server):
    name = "qsd"
    program = "qemu-storage-daemon"

    def argv(self):
        return [self.program] + self.qsd_words()


class Nbdkit(Server):
    name = "nbdkit"
    program = "nbdkit"

    def argv(self):
        where = ["-i", "127.0.0.1", "-p", str(self.port)] if self.port else ["-U", str(self.unix)]
        return [self.program, "-f"] + where + ["file", str(self.image)]


SERVERS = {s.name: s for s in (Bulkhead, Qsd, Nbdkit, Direct)}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def measure(options, server, case):
    words = [str(options.build / "tests/bench/nbd-load"), *server.address(), "--export", server.export,
             "--seconds", str(options.seconds), "--pid", str(server.popen.pid)]
    for key, value in case.items():
        words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=options.seconds + 60)
    if run.returncode != 0:
        raise SystemExit(f"{server.name}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def run_case(options, kinds, directory, image, name):
    """Repeats x servers, the first server of a round rotating."""
    results = {kind: [] for kind in kinds}
    for round_number in range(options.repeats):
        shift = round_number % len(kinds)
        for kind in kinds[shift:] + kinds[:shift]:
            server = SERVERS[kind](options, directory, image)
            server.start()
            try:
                results[kind].append(measure(options, server, CASES[name]))
            finally:
                server.stop()
    return results


def summary(samples, key):
    values = [s[key] for s in samples]
    return statistics.median(values), min(values), max(values)


def show_case(name, results):
    print(f"\n{name}")
    print(f"  {'server':<10} {'srv us':>8} {'(range)':>17} {'requests/s':>11} {'(range)':>19} {'MiB/s':>7}")
    for kind, samples in results.items():
        us, us_low, us_high = summary(samples, "server_us")
        iops, iops_low, iops_high = summary(samples, "iops")
        mib = statistics.median(s["mib_per_s"] for s in samples)
        print(f"  {kind:<10} {us:8.2f} {f'{us_low:.2f}-{us_high:.2f}':>17} {iops:11,.0f} "
              f"{f'{iops_low:,.0f}-{iops_high:,.0f}':>19} {mib:7,.0f}")
    first = next(iter(results))
    for peer in list(results)[1:]:
        us = summary(results[first], "server_us")[0] / summary(results[peer], "server_us")[0]
        iops = summary(results[first], "iops")[0] / summary(results[peer], "iops")[0]
        print(f"  {first} / {peer}: server CPU {us:.2f}, requests per second {iops:.2f}")
    sys.stdout.flush()


def make_image(directory):
    image = directory / "image"
    with open(image, "wb") as f:
        for _ in range(IMAGE_MIB):
            f.write(os.urandom(1 << 20))
    return image


def make_folder():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="bh-bench-", dir="/dev/shm"))
    if os.getuid() == 0:
        account = pwd.getpwnam(ACCOUNT)
        os.chown(directory, account.pw_uid, account.pw_gid)
    return directory


def give_to_account(path):
    if os.getuid() == 0:
        account = pwd.getpwnam(ACCOUNT)
        os.chown(path, account.pw_uid, account.pw_gid)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=TOP / "build", help="build tree")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, at least 3")
    parser.add_argument("--seconds", type=float, default=2, help="of load in each measurement")
    parser.add_argument("--servers", nargs="+", default=["bulkhead", "qsd", "nbdkit"], choices=sorted(SERVERS),
                        help="the first one is compared to the others")
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME",
                        help="; ".join(CASES))
    parser.add_argument("--tcp", action="store_true", help="over TCP on the loopback interface")
    parser.add_argument("--json", type=pathlib.Path, help="write all samples there")
    return parser.parse_args()


def verdict(results):
    """The target of the data path: at most half of nbdkit's CPU time per 4k random read at depth 32."""
    case = results.get(HEADLINE, {})
    if "nbdkit" not in case or len(case) < 2:
        return
    first = next(iter(case))
    ratio = summary(case[first], "server_us")[0] / summary(case["nbdkit"], "server_us")[0]
    print(f"\n{HEADLINE}: {first} spends {ratio:.2f} of nbdkit's server CPU per request (target: at most 0.50): "
          f"{'met' if ratio <= 0.5 else 'MISSED'}")


def main():
    options = arguments()
    kinds = []
    for kind in options.servers:
        reason = SERVERS[kind].missing(options)
        if reason:
            print(f"without {kind}: {reason}")
        else:
            kinds.append(kind)
    if not kinds:
        raise SystemExit("nothing to measure")
    if options.repeats < 3:
        print("fewer than 3 rounds: figures for a look, not for a statement")
    directory = make_folder()
    results = {}
    try:
        image = make_image(directory)
        give_to_account(image)
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}, image {IMAGE_MIB} MiB on tmpfs, "
              f"{'TCP' if options.tcp else 'unix socket'}, {options.repeats} rounds of {options.seconds:g} s")
        for name in options.case:
            results[name] = run_case(options, kinds, directory, image, name)
            show_case(name, results[name])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    verdict(results)
    if options.json:
        options.json.write_text(json.dumps({"processors": os.cpu_count(), "tcp": options.tcp, "results": results},
                                           indent=1) + "\n")


if __name__ == "__main__":
    main()
