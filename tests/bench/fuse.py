#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
FUSE exports side by side: bulkhead, qemu-storage-daemon, and the bare image without any server.

    tests/bench/fuse.py [--build build] [--repeats 3] [--seconds 2] [--disk] [--json FILE] [--case NAME ...]

fio works on the mounted file with O_DIRECT, as the service account (a mount without allow_other lets nobody else in).
Each measurement starts a fresh server; the order of the servers rotates. Printed are medians and ranges of the requests
per second, of the server's CPU time per request (utime + stime of its whole process tree), and the ratios of bulkhead to
qemu-storage-daemon, with the target and whether it is met. Ratios are what counts: absolute figures move with the
machine.
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
WAIT_S = 20
TICK = os.sysconf("SC_CLK_TCK")

# name: (what fio is told, at least this many times the requests per second, or per CPU time, of qemu-storage-daemon)
CASES = {
    "4k randread, psync": (["--rw=randread", "--bs=4k", "--ioengine=psync"], 2),
    "4k randread, io_uring depth 32": (["--rw=randread", "--bs=4k", "--ioengine=io_uring", "--iodepth=32"], 3.5),
    "4k randwrite, psync": (["--rw=randwrite", "--bs=4k", "--ioengine=psync"], 2),
    "4k randwrite, io_uring depth 32": (["--rw=randwrite", "--bs=4k", "--ioengine=io_uring", "--iodepth=32"], 3.5),
    "1M read, psync": (["--rw=read", "--bs=1M", "--ioengine=psync"], 3),
    "1M write, psync": (["--rw=write", "--bs=1M", "--ioengine=psync"], 1.4),
    "4k randread, 4 jobs": (["--rw=randread", "--bs=4k", "--ioengine=psync", "--numjobs=4"], None),
}


def as_account(words):
    if os.getuid() != 0:
        return words
    return ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", *words]


def is_mounted(path):
    """Without asking whoever serves it."""
    with open("/proc/self/mountinfo") as table:
        return any(line.split(" ")[4] == str(path) for line in table)


def process_tree(pid):
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                ppid = int(pathlib.Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(ppid, []).append(int(name))
    found, queue = [], [pid]
    while queue:
        found.append(queue.pop())
        queue += children.get(found[-1], [])
    return found


def cpu_seconds(pid):
    total = 0
    for p in process_tree(pid):
        try:
            fields = pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / TICK


class Bare:
    name = "bare"

    def __init__(self, options, directory, image):
        self.options, self.image = options, image
        self.path = image
        self.mount = directory / f"{self.name}.mnt"
        self.popen = None

    @classmethod
    def missing(cls, options):
        return None

    def start(self):
        pass

    def stop(self):
        pass

    def cpu(self):
        return 0


class Server(Bare):
    def start(self):
        self.path = self.mount
        self.mount.touch()
        give_to_account(self.mount)
        self.popen = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + WAIT_S
        while not is_mounted(self.mount):
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} does not serve: {' '.join(self.argv())}")
            time.sleep(0.02)

    def stop(self):
        if self.popen is None:
            return
        self.popen.send_signal(signal.SIGTERM)
        try:
            self.popen.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def cpu(self):
        return cpu_seconds(self.popen.pid)

    def words(self):
        cache = ",cache.direct=on" if self.options.disk else ""
        return ["--blockdev", f"driver=file,node-name=disk,filename={self.image}{cache}{self.aio()}",
                "--export", f"type=fuse,id=exp,node-name=disk,mountpoint={self.mount},writable=on,allow-other=off"]

    def aio(self):
        return ""


class Bulkhead(Server):
    name = "bulkhead"

    @classmethod
    def missing(cls, options):
        return None if (options.build / "bulkhead").exists() else f"{options.build}/bulkhead is not built"

    def argv(self):
        account = ["--user", ACCOUNT] if os.getuid() == 0 else []
        return [str(self.options.build / "bulkhead"), *account, *self.words()]


class Qsd(Server):
    name = "qsd"

    @classmethod
    def missing(cls, options):
        return None if shutil.which("qemu-storage-daemon") else "qemu-storage-daemon is not installed"

    def argv(self):
        return as_account(["qemu-storage-daemon", *self.words()])


class QsdUring(Qsd):
    name = "qsd-io_uring"

    def aio(self):
        return ",aio=io_uring"


SERVERS = {s.name: s for s in (Bulkhead, Qsd, QsdUring, Bare)}


def measure(options, server, words):
    command = as_account(["fio", "--name=bench", f"--filename={server.path}", f"--size={options.mib}M", "--direct=1",
                          f"--runtime={options.seconds}", "--time_based", "--group_reporting",
                          "--output-format=json", "--randrepeat=0", *words])
    if server.name == "bare" and not options.disk:
        command.remove("--direct=1")  # older kernels have no O_DIRECT on tmpfs; it would mean the same
    before = server.cpu()
    run = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds + 60)
    spent = server.cpu() - before
    if run.returncode != 0:
        raise SystemExit(f"{server.name}: fio: {run.stderr.strip()} {run.stdout[-400:]}")
    job = json.loads(run.stdout)["jobs"][0]
    requests = job["read"]["total_ios"] + job["write"]["total_ios"]
    return {"iops": job["read"]["iops"] + job["write"]["iops"],
            "mib_per_s": (job["read"]["bw"] + job["write"]["bw"]) / 1024, "server_us": spent * 1e6 / max(requests, 1)}


def run_case(options, kinds, directory, image, name):
    results = {kind: [] for kind in kinds}
    for kind in rounds(options, kinds):
        server = SERVERS[kind](options, directory, image)
        results[kind].append(serve(server, lambda: measure(options, server, CASES[name][0])))
    return results


def median(samples, key):
    return summary(samples, key)[0]


def show_case(name, results):
    print(f"\n{name}")
    print(f"  {'server':<13} {'requests/s':>11} {'(range)':>19} {'MiB/s':>7} {'srv us':>8} {'(range)':>17}")
    for kind, samples in results.items():
        us, us_low, us_high = summary(samples, "server_us")
        iops, iops_low, iops_high = summary(samples, "iops")
        mib = statistics.median(s["mib_per_s"] for s in samples)
        print(f"  {kind:<13} {iops:11,.0f} {f'{iops_low:,.0f}-{iops_high:,.0f}':>19} {mib:7,.0f} {us:8.2f} "
              f"{f'{us_low:.2f}-{us_high:.2f}':>17}")
    verdict(name, results)
    sys.stdout.flush()


def verdict(name, results):
    """
    Against qemu-storage-daemon as it comes, and against the better of its engines (which may be another one for the
    requests than for the CPU time). The target counts for requests or for requests per CPU time.
    """
    peers = [kind for kind in results if kind.startswith("qsd")]
    target = CASES[name][1]
    if "bulkhead" not in results or not peers:
        return
    for label, against in (("qsd's default", peers[:1]), ("qsd's better engine", peers)):
        ratios = {
            "requests": median(results["bulkhead"], "iops") / max(median(results[p], "iops") for p in against),
            "requests per CPU time": min(median(results[p], "server_us") for p in against) /
            max(median(results["bulkhead"], "server_us"), 1e-9)}
        text = ", ".join(f"{ratio:.2f} times the {what}" for what, ratio in ratios.items())
        if target is not None:
            met = [what for what, ratio in ratios.items() if ratio >= target]
            text += f"; target {target}: {'met in ' + ' and '.join(met) if met else 'MISSED'}"
        print(f"  against {label}: {text}")


def make_image(directory, mib):
    image = directory / "image"
    with open(image, "wb") as f:
        for _ in range(mib):
            f.write(os.urandom(1 << 20))
    give_to_account(image)
    return image


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=TOP / "build", help="build tree")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, at least 3")
    parser.add_argument("--seconds", type=float, default=2, help="of load in each measurement")
    parser.add_argument("--mib", type=int, default=1024, help="size of the image")
    parser.add_argument("--disk", action="store_true", help="image on disk with cache.direct instead of on tmpfs")
    parser.add_argument("--servers", nargs="+", default=["bulkhead", "qsd", "qsd-io_uring", "bare"],
                        choices=sorted(SERVERS))
    parser.add_argument("--case", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME",
                        help="; ".join(CASES))
    parser.add_argument("--json", type=pathlib.Path, help="write all samples there")
    return parser.parse_args()


def main():
    options = arguments()
    kinds = []
    for kind in options.servers:
        reason = SERVERS[kind].missing(options)
        if reason:
            print(f"without {kind}: {reason}")
        else:
            kinds.append(kind)
    if shutil.which("fio") is None:
        raise SystemExit("fio is not installed")
    results = {}
    with folder("/var/tmp" if options.disk else "/dev/shm") as directory:
        image = make_image(directory, options.mib)
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}, image {options.mib} MiB on "
              f"{'disk, cache.direct' if options.disk else 'tmpfs'}, {options.repeats} rounds of {options.seconds:g} s")
        for name in options.case:
            results[name] = run_case(options, kinds, directory, image, name)
            show_case(name, results[name])
    if options.json:
        options.json.write_text(json.dumps({"processors": os.cpu_count(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
