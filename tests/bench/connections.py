#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
What a connection costs NBD servers: bulkhead, qemu-storage-daemon and nbdkit's file plugin side by side.

    tests/bench/connections.py [--build build] [--repeats 3] [--seconds 1] [--json FILE] [--case NAME ...]

Each measurement starts a fresh server; the order of the servers rotates. Printed are medians and ranges of connections
per second and of the server's CPU time per connection: utime + stime of the process and of all its children, those that
it has reaped included, since bulkhead makes a process for each handshake. The clients are a few threads of this
program, which bound what the fastest server shows; CPU time per connection does not depend on them.
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import struct
import sys
import threading
import time

import nbd
from rounds import folder, give_to_account, rounds, serve

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SETTLE_S = 2


def recv(sock, length):
    data = b""
    while len(data) < length:
        more = sock.recv(length - len(data))
        if not more:
            raise OSError(f"the server closed the connection after {len(data)} of {length} bytes")
        data += more
    return data


def handshake(sock, name):
    recv(sock, 18)
    data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    sock.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 7, len(data)) + data)  # NBD_OPT_GO
    while True:
        _, _, kind, length = struct.unpack(">QIII", recv(sock, 20))
        recv(sock, length)
        if kind == 1:  # NBD_REP_ACK
            return
        if kind & 0x80000000:
            raise OSError(f"refused: {kind:#x}")


def go_and_leave(sock, name):
    handshake(sock, name)
    sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0))  # NBD_CMD_DISC


def leave_at_once(sock, name):
    """As load balancers and scanners do; the greeting tells that the server has seen it."""
    recv(sock, 18)


# name: what a client does, how many do so at a time
CASES = {
    "connect, GO, leave": (go_and_leave, 1),
    "connect, GO, leave, 8 at a time": (go_and_leave, 8),
    "connect, leave without a word": (leave_at_once, 1),
}


def cpu_s(pid):
    """Of a process, its children that it has reaped, and those that live."""
    def fields(of):
        return pathlib.Path(f"/proc/{of}/stat").read_text().rsplit(")", 1)[1].split()

    total = sum(int(v) for v in fields(pid)[11:15])
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and int(fields(entry)[1]) == pid:
                total += sum(int(v) for v in fields(entry)[11:15])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total * TICK_S


def load(server, act, clients, seconds):
    family, where = (socket.AF_INET, ("127.0.0.1", server.port)) if server.port else (socket.AF_UNIX, str(server.unix))
    counts = [0] * clients
    failed = []
    end = time.monotonic() + seconds

    def run(number):
        try:
            while time.monotonic() < end and not failed:
                with socket.socket(family, socket.SOCK_STREAM) as sock:
                    sock.settimeout(nbd.WAIT_S)
                    sock.connect(where)
                    act(sock, server.export.encode())
                counts[number] += 1
        except OSError as error:
            failed.append(error)

    started = time.monotonic()
    threads = [threading.Thread(target=run, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"{server.name}: {failed[0]}")
    return sum(counts), time.monotonic() - started


def measure(options, server, case):
    act, clients = CASES[case]
    load(server, act, clients, 0.1)
    before = cpu_s(server.popen.pid)
    count, took_s = load(server, act, clients, options.seconds)
    last, deadline = -1, time.monotonic() + SETTLE_S
    while (now := cpu_s(server.popen.pid)) != last and time.monotonic() < deadline:  # processes that are still ending
        last = now
        time.sleep(0.1)
    return {"per_s": count / took_s, "server_us": (now - before) / count * 1e6}


def show(case, results):
    print(f"\n{case}")
    print(f"  {'server':<10} {'connections/s':>14} {'(range)':>17} {'srv us':>8} {'(range)':>17}")
    for kind, samples in results.items():
        per_s = [s["per_s"] for s in samples]
        us = [s["server_us"] for s in samples]
        print(f"  {kind:<10} {statistics.median(per_s):14,.0f} {f'{min(per_s):,.0f}-{max(per_s):,.0f}':>17} "
              f"{statistics.median(us):8.0f} {f'{min(us):.0f}-{max(us):.0f}':>17}")
    sys.stdout.flush()


def run_case(options, kinds, directory, image, case):
    results = {kind: [] for kind in kinds}
    for kind in rounds(options, kinds):
        server = nbd.SERVERS[kind](options, directory, image)
        results[kind].append(serve(server, lambda: measure(options, server, case)))
    return results


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=nbd.TOP / "build", help="build tree")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1, help="of load in each measurement")
    parser.add_argument("--servers", nargs="+", default=["bulkhead", "qsd", "nbdkit"], choices=sorted(nbd.SERVERS))
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME",
                        help="; ".join(CASES))
    parser.add_argument("--tcp", action="store_true", help="over TCP on the loopback interface")
    parser.add_argument("--json", type=pathlib.Path, help="write all samples there")
    return parser.parse_args()


def main():
    options = arguments()
    options.tls = options.priority = None
    kinds = []
    for kind in options.servers:
        reason = nbd.SERVERS[kind].missing(options)
        if reason:
            print(f"without {kind}: {reason}")
        else:
            kinds.append(kind)
    results = {}
    with folder() as directory:
        image = directory / "image"
        image.write_bytes(bytes(1 << 20))
        give_to_account(image)
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}, {'TCP' if options.tcp else 'unix socket'}, "
              f"{options.repeats} rounds of {options.seconds:g} s")
        for case in options.case:
            results[case] = run_case(options, kinds, directory, image, case)
            show(case, results[case])
    if options.json:
        options.json.write_text(json.dumps({"processors": os.cpu_count(), "tcp": options.tcp, "results": results},
                                           indent=1) + "\n")


if __name__ == "__main__":
    main()
