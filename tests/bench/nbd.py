#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
NBD servers side by side: bulkhead, qemu-storage-daemon and nbdkit's file plugin, on one image on tmpfs.

    tests/bench/nbd.py [--build build] [--repeats 3] [--seconds 2] [--tcp | --tls psk|x509] [--json FILE]
                       [--case NAME ...]

Each measurement starts a fresh server; the order of the servers rotates. Printed are medians and ranges of the server's
CPU time per request (utime + stime of its whole process tree, with those of its processes that have ended) and of the
requests per second, the ratios of bulkhead to its peers, and in the end which targets are met. Ratios are what counts:
absolute figures move with the machine.

The load comes from nbd-load, which costs little itself, and from nbdcopy; with --tls, which is over TCP, from fio's nbd
engine in place of nbd-load. A request of nbdcopy counts as 256 KiB, as it is by default. All servers have the same
credentials and the same priority string (--priority; nbdkit knows only its own, which is NORMAL). fio takes no file of
shared keys, so that with --tls psk there are only the copies; what is encrypted is the same. A peer that is not
installed is left out, and said so.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

from rounds import ACCOUNT, folder, give_to_account, rounds, serve, summary

TOP = pathlib.Path(__file__).resolve().parents[2]
IMAGE_MIB = 1024
COPY_BYTES = 256 << 10
WAIT_S = 20
PSK_USER = "alice"

RANDREAD, RANDWRITE = "4k randread, depth 32", "4k randwrite, depth 32"
READ, WRITE = "1M read, depth 4", "1M write, depth 4"
COPY_OUT, COPY_FILE, COPY_IN = "nbdcopy image to null:", "nbdcopy image to file", "nbdcopy file to server"
COPIES = {
    COPY_OUT: dict(op="copy-out", bytes=COPY_BYTES),
    COPY_FILE: dict(op="copy-file", bytes=COPY_BYTES),
    COPY_IN: dict(op="copy-in", bytes=COPY_BYTES),
}

# name: arguments of nbd-load, or what nbdcopy does
CASES = {
    "4k randread, depth 1": dict(op="randread", bytes=4096, depth=1, connections=1),
    RANDREAD: dict(op="randread", bytes=4096, depth=32, connections=1),
    "4k randwrite, depth 1": dict(op="randwrite", bytes=4096, depth=1, connections=1),
    RANDWRITE: dict(op="randwrite", bytes=4096, depth=32, connections=1),
    "4k randread, depth 32, 2 conn": dict(op="randread", bytes=4096, depth=32, connections=2),
    "4k randread, depth 32, structured": dict(op="randread", bytes=4096, depth=32, connections=1, structured=True),
    "64k randread, depth 8": dict(op="randread", bytes=65536, depth=8, connections=1),
    READ: dict(op="read", bytes=1 << 20, depth=4, connections=1),
    WRITE: dict(op="write", bytes=1 << 20, depth=4, connections=1),
    **COPIES,
}
TLS_CASES = {name: CASES[name] for name in (RANDREAD, RANDWRITE, READ, WRITE)} | COPIES


class Target:
    """What is to be reached in a case: a ratio of throughputs to a peer or, if given, one of server CPU times."""

    def __init__(self, case, peer, faster, cpu=None):
        self.case, self.peer, self.faster, self.cpu = case, peer, faster, cpu

    def against(self, samples):
        """The peer's samples; "best" is the one with the most throughput."""
        peers = list(samples.items())[1:]
        if self.peer == "best":
            return max((row for row in peers if row[0] != "direct"), default=None,
                       key=lambda row: summary(row[1], "iops")[0])
        return next((row for row in peers if row[0] == self.peer), None)

    def show(self, samples):
        row = self.against(samples)
        if row is None:
            return
        first = next(iter(samples))
        peer, theirs = row
        faster = summary(samples[first], "iops")[0] / summary(theirs, "iops")[0]
        cpu = summary(samples[first], "server_us")[0] / summary(theirs, "server_us")[0]
        met = faster >= self.faster or (self.cpu is not None and cpu <= self.cpu)
        wanted = f"at least {self.faster:.2f}" + (f", or CPU at most {self.cpu:.2f}" if self.cpu else "")
        print(f"  {'met   ' if met else 'MISSED'} {self.case}: {faster:.2f} of {peer}'s throughput, {cpu:.2f} of its "
              f"server CPU (wanted: {wanted})")


TARGETS = [Target(RANDREAD, "nbdkit", 2.5, 0.4), Target(RANDWRITE, "nbdkit", 2.5, 0.4), Target(READ, "nbdkit", 1.25),
           Target(WRITE, "nbdkit", 1.25), Target(COPY_OUT, "best", 1), Target(COPY_FILE, "best", 1),
           Target(COPY_IN, "best", 1)]
TLS_TARGETS = [Target(case, "qsd", 1) for case in TLS_CASES]


class Server:
    """A server process that exports one image under the name "disk" (nbdkit: under any name)."""

    program = None
    export = "disk"

    def __init__(self, options, directory, image):
        self.options = options
        self.directory = directory
        self.unix = directory / f"{self.name}.sock"
        self.port = free_port() if options.tcp else None
        self.image = image
        self.popen = None

    @property
    def credentials(self):
        return self.directory / "server"

    @classmethod
    def missing(cls, options):
        return None if shutil.which(cls.program) else f"{cls.program} is not installed"

    def address(self):
        return ["--tcp", f"127.0.0.1:{self.port}"] if self.port else ["--unix", str(self.unix)]

    def uri(self):
        """As libnbd's clients take it."""
        client = self.directory / "client"
        if self.options.tls == "x509":
            return f"nbds://localhost:{self.port}/{self.export}?tls-certificates={client}"
        if self.options.tls == "psk":
            return f"nbds://{PSK_USER}@localhost:{self.port}/{self.export}?tls-psk-file={client}/keys.psk"
        if self.port:
            return f"nbd://127.0.0.1:{self.port}/{self.export}"
        return f"nbd+unix:///{self.export}?socket={self.unix}"

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
        if self.options.tls:
            run = subprocess.run(["nbdinfo", "--size", self.uri()], capture_output=True, timeout=WAIT_S)
            return run.returncode == 0
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
        if self.popen is None:
            return
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
        creds = []
        if self.options.tls:
            creds = ["--object", f"tls-creds-{self.options.tls},id=tls,endpoint=server,dir={self.credentials}"
                     + (f",priority={self.options.priority}" if self.options.priority else "")]
            listen += ",tls-creds=tls"
        return creds + ["--blockdev", f"driver=file,node-name=disk,filename={self.image}", "--nbd-server", listen,
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
            return "nbd-direct has neither TCP nor TLS"
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
        tls = {"psk": ["--tls=require", f"--tls-psk={self.credentials}/keys.psk"],
               "x509": ["--tls=require", f"--tls-certificates={self.credentials}", "--tls-verify-peer"]}
        return [self.program, "-f"] + where + tls.get(self.options.tls, []) + ["file", str(self.image)]


SERVERS = {s.name: s for s in (Bulkhead, Qsd, Nbdkit, Direct)}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---- Measuring ----

def processes():
    """pid -> (parent, ticks, ticks of its children that have ended)"""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(path.parent.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]),
                                        int(fields[13]) + int(fields[14]))
    return found


def tree_cpu_us(root):
    """
    utime + stime of a process and all its descendants, ended ones included: the relays of a TLS server end with their
    clients.
    """
    all_of_them = processes()
    ticks, todo = 0, [root]
    while todo:
        pid = todo.pop()
        ticks += sum(all_of_them[pid][1:]) if pid in all_of_them else 0
        todo += [child for child, row in all_of_them.items() if row[0] == pid]
    return ticks * 1e6 / os.sysconf("SC_CLK_TCK")


def run_client(server, argv, timeout, **kwargs):
    run = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=timeout, **kwargs)
    if run.returncode != 0:
        raise SystemExit(f"{server.name}: {' '.join(map(str, argv))}: {run.stderr.strip()}")
    return run.stdout


def with_cpu(server, work):
    """work() -> requests, seconds, bytes of a request. As nbd-load prints it."""
    before = tree_cpu_us(server.popen.pid)
    requests, seconds, size = work()
    time.sleep(0.1)  # what served the client ends, and is accounted to its parent
    cpu_us = tree_cpu_us(server.popen.pid) - before
    rate = requests / seconds
    return dict(requests=requests, seconds=seconds, iops=rate, mib_per_s=rate * size / (1 << 20),
                server_us=cpu_us / requests)


def measure_load(options, server, case):
    words = [options.build / "tests/bench/nbd-load", *server.address(), "--export", server.export,
             "--seconds", options.seconds, "--pid", server.popen.pid]
    for key, value in case.items():
        words += [f"--{key}"] if value is True else [f"--{key}", value]
    return json.loads(run_client(server, words, options.seconds + 60))


def measure_fio(options, server, case):
    """fio lets libnbd read no file that its URI names; libnbd itself looks below HOME, unless it is root's."""
    uri = server.uri().partition("?")[0]
    words = ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", f"--rw={case['op']}", f"--bs={case['bytes']}",
             f"--iodepth={case['depth']}", f"--size={IMAGE_MIB}m", "--time_based",
             f"--runtime={options.seconds * 1000:.0f}ms", "--randrepeat=0", "--norandommap", "--output-format=json"]
    if os.getuid() == 0:
        words = ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups"] + words

    def work():
        home = server.directory / "client"
        out = run_client(server, words, options.seconds + 60, cwd=home, env={**os.environ, "HOME": str(home)})
        side = json.loads(out[out.index("{"):])["jobs"][0]["write" if "write" in case["op"] else "read"]
        return side["total_ios"], side["runtime"] / 1000, case["bytes"]
    return with_cpu(server, work)


def measure_copy(options, server, case):
    """Copies of the whole image, one after the other, each by a process of its own."""
    source, target = {"copy-out": (server.uri(), "null:"), "copy-file": (server.uri(), server.directory / "copy"),
                      "copy-in": (server.directory / "source", server.uri())}[case["op"]]

    def work():
        count, start = 0, time.monotonic()
        while count == 0 or time.monotonic() - start < options.seconds:
            run_client(server, ["nbdcopy", source, target], 120)
            count += 1
        return count * (IMAGE_MIB << 20) // COPY_BYTES, time.monotonic() - start, COPY_BYTES
    return with_cpu(server, work)


def measure(options, server, case):
    if case["op"].startswith("copy-"):
        return measure_copy(options, server, case)
    return measure_fio(options, server, case) if options.tls else measure_load(options, server, case)


def run_case(options, kinds, directory, image, name):
    """Repeats x servers, the first server of a round rotating."""
    results = {kind: [] for kind in kinds}
    for kind in rounds(options, kinds):
        server = SERVERS[kind](options, directory, image)
        results[kind].append(serve(server, lambda: measure(options, server, CASES[name])))
    return results


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


def make_image(path):
    with open(path, "wb") as f:
        for _ in range(IMAGE_MIB):
            f.write(os.urandom(1 << 20))
    return path


CERTIFICATES = """
certtool --generate-privkey --key-type ecdsa --curve secp256r1 --outfile ca-key.pem
certtool --generate-self-signed --load-privkey ca-key.pem --template ca.info --outfile ca-cert.pem
certtool --generate-privkey --key-type ecdsa --curve secp256r1 --outfile {0}/{0}-key.pem
certtool --generate-certificate --load-ca-certificate ca-cert.pem --load-ca-privkey ca-key.pem --load-privkey \
{0}/{0}-key.pem --template {0}.info --outfile {0}/{0}-cert.pem
"""


def make_credentials(kind, directory):
    """Folders `server` and `client`."""
    for role in ("server", "client"):
        (directory / role).mkdir()
    if kind == "psk":
        line = f"{PSK_USER}:{os.urandom(32).hex()}\n"
        for role in ("server", "client"):
            (directory / role / "keys.psk").write_text(line)
    else:
        (directory / "ca.info").write_text("cn = CA\nca\ncert_signing_key\n")
        for role in ("server", "client"):
            info = f"cn = localhost\ndns_name = localhost\ntls_www_{role}\nsigning_key\nencryption_key\n"
            (directory / f"{role}.info").write_text(info)
            lines = CERTIFICATES.format(role).replace("\\\n", "").strip().splitlines()
            for line in lines[0 if role == "server" else 2:]:
                subprocess.run(line.split(), cwd=directory, check=True, capture_output=True)
            shutil.copy(directory / "ca-cert.pem", directory / role)
        (directory / "client/.pki").mkdir()
        (directory / "client/.pki/libnbd").symlink_to(directory / "client")
    for role in ("server", "client"):
        for path in [directory / role, *(directory / role).iterdir()]:
            give_to_account(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=TOP / "build", help="build tree")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, at least 3")
    parser.add_argument("--seconds", type=float, default=2, help="of load in each measurement")
    parser.add_argument("--servers", nargs="+", default=["bulkhead", "qsd", "nbdkit"], choices=sorted(SERVERS),
                        help="the first one is compared to the others")
    parser.add_argument("--case", nargs="+", choices=list(CASES), metavar="NAME", help="; ".join(CASES))
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--tcp", action="store_true", help="over TCP on the loopback interface")
    how.add_argument("--tls", choices=["psk", "x509"], help="over TCP, encrypted; cases: " + "; ".join(TLS_CASES) +
                     "; with psk the copies only")
    parser.add_argument("--priority", default="NORMAL", help="GnuTLS's, of all servers; '': each server's default")
    parser.add_argument("--json", type=pathlib.Path, help="write all samples there")
    options = parser.parse_args()
    there = {None: CASES, "psk": COPIES, "x509": TLS_CASES}[options.tls]
    options.tcp = options.tcp or options.tls is not None
    options.case = options.case or list(there)
    if not set(options.case) <= set(there):
        parser.error(f"with --tls {options.tls} there is no case " + ", ".join(sorted(set(options.case) - set(there))))
    return options


def needed_tools(options):
    """What the chosen cases run, beside the servers."""
    copies = {name for name in options.case if name in COPIES}
    tools = {"nbdcopy": copies, "nbdinfo": options.tls, "fio": options.tls and set(options.case) - copies,
             "certtool": options.tls == "x509"}
    return [tool for tool, needed in tools.items() if needed]


def verdict(options, results):
    print("\ntargets:")
    for target in TLS_TARGETS if options.tls else TARGETS:
        if target.case in results:
            target.show(results[target.case])


def servers(options):
    kinds = []
    for kind in options.servers:
        reason = SERVERS[kind].missing(options)
        if reason:
            print(f"without {kind}: {reason}")
        else:
            kinds.append(kind)
    if not kinds:
        raise SystemExit("nothing to measure")
    return kinds


def prepare(options, directory):
    image = make_image(directory / "image")
    give_to_account(image)
    if any(name in COPIES for name in options.case):
        shutil.copy(image, directory / "source")
    if options.tls:
        make_credentials(options.tls, directory)
    return image


def main():
    options = arguments()
    kinds = servers(options)
    for tool in needed_tools(options):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is not installed (Debian: libnbd-bin, fio, gnutls-bin)")
    if options.repeats < 3:
        print("fewer than 3 rounds: figures for a look, not for a statement")
    how = f"TLS ({options.tls}) over TCP" if options.tls else "TCP" if options.tcp else "unix socket"
    results = {}
    with folder() as directory:
        image = prepare(options, directory)
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.2f}, image {IMAGE_MIB} MiB on tmpfs, {how}, "
              f"{options.repeats} rounds of {options.seconds:g} s")
        for name in options.case:
            results[name] = run_case(options, kinds, directory, image, name)
            show_case(name, results[name])
    verdict(options, results)
    if options.json:
        options.json.write_text(json.dumps({"processors": os.cpu_count(), "tcp": options.tcp, "tls": options.tls,
                                            "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
