#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""
`./dev demo`: the main job, shown to a person. Makes an image, exports it through a sandboxed worker, lets real NBD
clients use it, kills the worker, and shows what an operator sees of all that. Cleans up after itself.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from support.qmp import Qmp  # noqa: E402

ACCOUNT = "bulkhead"


def headline(text):
    print(f"\n\033[1m=== {text}\033[0m" if sys.stdout.isatty() else f"\n=== {text}")


def show(*argv):
    """Run a command as a person would type it, with what it prints."""
    words = [str(word) for word in argv]
    print("$ " + " ".join(word if word.isascii() and not set(word) & set(" ?&*'\"{}") else f"'{word}'" for word in words))
    sys.stdout.flush()
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
                          env={**os.environ, "COLUMNS": "120"})  # for ps
    print(done.stdout, end="")
    return done.returncode


class Demo:
    def __init__(self, build):
        self.program = pathlib.Path(build) / "bulkhead"
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bulkhead-demo-"))
        self.dir.chmod(0o755)
        self.image = self.dir / "disk.img"
        self.monitor = None

    def path(self, name):
        return str(self.dir / name)

    def prepare(self):
        for name in ("disk.img", "other.img"):
            with open(self.dir / name, "wb") as image:
                image.truncate(64 << 20)
                image.write(b"This is the start of the disk.\n")
            if os.getuid() == 0:
                shutil.chown(self.dir / name, ACCOUNT)
        if os.getuid() == 0:
            shutil.chown(self.dir, ACCOUNT)

    def start(self):
        argv = [str(self.program)] + (["--user", ACCOUNT] if os.getuid() == 0 else [])
        argv += ["--chardev", f"socket,id=qmp0,path={self.path('qmp')},server=on,wait=off", "--monitor", "qmp0",
                 "--blockdev", f"file,node-name=disk,filename={self.image},discard=unmap",
                 "--blockdev", f"file,node-name=other,filename={self.path('other.img')}",
                 "--nbd-server", f"addr.type=unix,addr.path={self.path('nbd')}",
                 "--export", "nbd,id=exp0,node-name=disk,writable=on,description=a disk for the demo",
                 "--export", "nbd,id=exp1,node-name=other",
                 "--pidfile", self.path("pid")]
        print("$ " + " ".join(argv).replace(" --", " \\\n      --"))
        self.log = open(self.path("log"), "w+")
        self.monitor = subprocess.Popen(argv, stderr=self.log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not os.path.exists(self.path("pid")):
            if self.monitor.poll() is not None or time.monotonic() > deadline:
                sys.exit("bulkhead did not start:\n" + pathlib.Path(self.path("log")).read_text())
            time.sleep(0.01)
        self.qmp = Qmp.connect(self.path("qmp"))

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.path('nbd')}"

    def workers(self):
        return self.qmp.cmd("__org.bulkhead_query-workers")

    def processes(self):
        """What ps shows: one monitor, and a process for each export and each waiting negotiator."""
        pids = [self.monitor.pid] + [row["pid"] for row in self.workers()]
        show("ps", "-o", "user,pid,ppid,nlwp,rss,args", "--forest", "-p", ",".join(map(str, pids)))

    def layers(self):
        rows = self.workers()
        print(f"{'ROLE':15} {'PID':>8} {'EXPORT':7} {'ENGINE':9} {'FDS image/client/internal':26} LAYERS IN FORCE")
        for row in rows:
            held = row["descriptors"]
            fds = f"{held['images']}/{held['clients']}/{held['internal']}"
            print(f"{row['role']:15} {row['pid']:8} {row.get('export', '-'):7} {row.get('engine', '-'):9} {fds:26} "
                  f"{len(row['sandbox'])} of 14")
        for role in dict.fromkeys(row["role"] for row in rows):
            row = next(row for row in rows if row["role"] == role)
            print(f"  {role}: {', '.join(row['sandbox'])}")

    def clients(self):
        show("nbdinfo", self.uri("disk"))
        show("nbdinfo", "--map", self.uri("disk"))
        show("qemu-io", "-f", "raw", "-c", "write -P 0x42 1M 2M", "-c", "read -P 0x42 1M 2M", self.uri("disk"))
        show("nbdcopy", self.uri("disk"), self.path("copy.img"))
        show("qemu-img", "compare", "-f", "raw", "-F", "raw", self.uri("disk"), self.path("copy.img"))

    def kill(self):
        worker = next(row for row in self.workers() if row.get("export") == "exp0")
        print(f"$ kill -9 {worker['pid']}    # the worker of export exp0")
        self.qmp.drain_events()
        os.kill(worker["pid"], signal.SIGKILL)
        for name in ("__org.bulkhead_WORKER_GONE", "BLOCK_EXPORT_DELETED"):
            print("event:", json.dumps(self.qmp.wait_event(name)))
        print("query-block-exports:", json.dumps(self.qmp.cmd("query-block-exports")))
        headline("The other export does not notice, and the id can be used again")
        show("nbdinfo", "--size", self.uri("other"))
        self.qmp.cmd("block-export-add", {"type": "nbd", "id": "exp0", "node-name": "disk", "writable": True})
        show("qemu-io", "-f", "raw", "-c", "read -P 0x42 1M 2M", self.uri("disk"))

    def stop(self):
        self.qmp.cmd("quit")
        status = self.monitor.wait(30)
        left = sorted(p.name for p in self.dir.iterdir() if p.is_socket() or p.name == "pid")
        print(f"exit status {status}; sockets and pid files left: {left or 'none'}")
        print("its log:")
        self.log.seek(0)
        print("".join(f"  {line}" for line in self.log), end="")
        return status

    def run(self):
        self.prepare()
        headline("Start it: two images, each exported through a worker process of its own")
        self.start()
        headline("The processes")
        self.processes()
        headline("The sandbox of each worker, as observed from within")
        self.layers()
        headline("NBD clients that nobody here wrote use the disk")
        self.clients()
        headline("A worker dies")
        self.kill()
        headline("quit")
        return self.stop()

    def clean(self):
        if self.monitor is not None and self.monitor.poll() is None:
            self.monitor.kill()
            self.monitor.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build", help="build tree")
    demo = Demo(parser.parse_args().build)
    try:
        return demo.run()
    finally:
        demo.clean()


if __name__ == "__main__":
    sys.exit(main())
