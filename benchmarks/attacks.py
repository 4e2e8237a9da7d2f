"""Attempts to break out of the sandbox, and what becomes of them.

Every attack is a program that runs in the sandbox; it has succeeded if it says so, or if its effect is seen on the host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tokengym.rewards.sandbox import Limits, Outcome, Run, Sandbox

WALL = 1.0  # seconds by which attacks are stopped
LIMITS = Limits(wall_seconds=WALL, cpu_seconds=WALL, memory_mb=256, processes=8, file_mb=16, output_bytes=1 << 16)
SLACK = 1.5  # seconds by which the end of a run may come late, on a busy machine

# What attacks are written with: `attempt` calls a function and tells if that worked.
PRELUDE = """
import ctypes, os, signal, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, function, *arguments):
    try:
        result = function(*arguments)
    except (Exception, SystemExit) as e:
        return None
    print("LEAK:", what, repr(result)[:200], flush=True)
def call(what, function, *arguments):
    if getattr(libc, function)(*arguments) != -1:
        print("LEAK:", what, flush=True)
"""


def verdict(run: Run, seconds: float, harm: str = "") -> str:
    """What became of an attack: "blocked", or what happened."""
    leaks = [line for line in run.stdout.splitlines() if line.startswith("LEAK")]
    if leaks or harm:
        return "; ".join([*leaks, *([harm] if harm else [])])
    if run.outcome is Outcome.ERROR:
        return f"the attack failed by itself: {run.stderr.strip().splitlines()[-1:]}"
    if seconds > WALL + SLACK:
        return f"took {seconds:.1f} s at a limit of {WALL:.0f} s"
    return "blocked"


def attack(sandbox: Sandbox, code: str, **names: object) -> tuple[Run, float]:
    """Run an attack, with some values as global names. Also gives the seconds it took."""
    values = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    started = time.perf_counter()
    run = sandbox.run(PRELUDE + values + code, limits=LIMITS)
    return run, time.perf_counter() - started


def network(sandbox: Sandbox) -> str:
    """Reach a server on this host by every kind of socket."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        tcp, abstract, path = (
            stack.enter_context(socket.socket(family)) for family in (socket.AF_INET, socket.AF_UNIX, socket.AF_UNIX)
        )
        tcp.bind(("127.0.0.1", 0))
        name, file = f"\0tokengym-{os.getpid()}", f"{folder}/socket"
        abstract.bind(name)
        path.bind(file)
        for server in (tcp, abstract, path):
            server.listen()
        code = """
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(0.2)
        s.connect(address)
attempt("TCP", connect, socket.AF_INET, ("127.0.0.1", port))
attempt("abstract socket", connect, socket.AF_UNIX, name)
attempt("path socket", connect, socket.AF_UNIX, file)
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 40, 16, 17, 38):  # vsock, netlink, packet, crypto
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        attempt("socket", socket.socket, family, kind)
attempt("datagram pair", socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM)
attempt("name service", socket.getaddrinfo, "example.org", 80)
"""
        return verdict(*attack(sandbox, code, port=tcp.getsockname()[1], name=name, file=file))


def host_files(sandbox: Sandbox) -> str:
    """Find a secret, read what a host has, write into the library that later runs would load."""
    work = Path.cwd() if os.access(Path.cwd(), os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=work) as here, tempfile.TemporaryDirectory() as there:
        secrets = [f"{folder}/secret" for folder in (here, there)]
        for secret in secrets:
            Path(secret).write_text("secret")
        code = """
for path in (*secrets, "/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/1/environ", "/proc/self/mountinfo"):
    attempt(path, lambda: open(path).read())
for folder in ("/proc", "/sys", "/home", "/var", "/proc/1/root", "/proc/self/root"):
    attempt(folder, os.listdir, folder)
for folder, _, names in os.walk("/"):
    if "secret" in names:
        print("LEAK:", folder)
for path in (os.__file__, sys.executable, "/usr/lib/evil", "/dev/evil", "/evil"):
    attempt("writing " + path, lambda: open(path, "a"))
    attempt("mode of " + path, os.chmod, path, 0o777)
for fd in range(3, 1024):
    attempt("inherited descriptor", os.fstat, fd)
"""
        return verdict(*attack(sandbox, code, secrets=secrets))


def environment(sandbox: Sandbox) -> str:
    """Look for the host's environment variables: in the environment, in C's, in those of processes."""
    code = """
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
variables, i = [], 0
while environ[i] is not None:
    variables.append(environ[i].decode())
    i += 1
for process in ("self", "1", os.getppid()):
    try:
        variables += open(f"/proc/{process}/environ").read().split("\\0")
    except OSError:
        pass
for variable in variables:
    name, _, value = variable.partition("=")
    if (name, value) in host:
        print("LEAK:", name)
"""
    known = {"PATH", "LANG", "LC_CTYPE"}  # the sandbox has its own, which may have the same value
    host = {(name, value) for name, value in os.environ.items() if name not in known and "THREADS" not in name}
    return verdict(*attack(sandbox, code, host=host))


def other_processes(sandbox: Sandbox) -> str:
    """See, stop and slow down a process of the same user."""
    with victim() as process:
        code = """
attempt("list of processes", os.listdir, "/proc")
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
    attempt("signal", os.kill, victim, number)
    call("tgkill", "syscall", 234, victim, victim, int(number)) if os.uname().machine == "x86_64" else None
attempt("affinity", os.sched_setaffinity, victim, [0])
attempt("priority", os.setpriority, os.PRIO_PROCESS, victim, 19)
attempt("pidfd", os.pidfd_open, victim)
import resource
attempt("limits", resource.prlimit, victim, resource.RLIMIT_CPU)
"""
        run, seconds = attack(sandbox, code, victim=process.pid)
        return verdict(run, seconds, "" if process.poll() is None else "the victim is gone")


@contextlib.contextmanager
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process for an attack to find."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        try:
            yield process
        finally:
            process.kill()


def fork_bomb(sandbox: Sandbox) -> str:
    """Fork for ever, in new sessions, deaf to signals."""
    before = processes_of_sandboxes()
    code = """
for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
count = 1
while True:
    try:
        if os.fork() == 0:
            os.setsid()
            count = 0
        else:
            count += 1
    except OSError:
        pass
    if count > 64:
        print("LEAK: 64 processes", flush=True)
"""
    run, seconds = attack(sandbox, code)
    time.sleep(0.2)
    left = processes_of_sandboxes() - before
    return verdict(run, seconds, f"{len(left)} processes are left" if left else "")


def processes_of_sandboxes() -> set[str]:
    """The processes of this process's sandboxes, wherever they fled to: they are forks of zygotes, and have the command line
    of one, which names a folder of its own."""
    lines: dict[str, tuple[bytes, int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes()
                if b"sandbox.zygote" in line:
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    lines[folder.name] = line, int(parent)
    ours = {line for line, parent in lines.values() if parent == os.getpid()}
    return {pid for pid, (line, _) in lines.items() if line in ours}


def memory_bomb(sandbox: Sandbox) -> str:
    """Take memory in every way that a limit could miss."""
    code = """
import mmap
def take(size):
    block = mmap.mmap(-1, size)
    for i in range(0, size, 4096):
        block[i] = 1
attempt("2 GB at once", lambda: bytearray(2 << 30))
attempt("512 MB mapped", take, 512 << 20)
attempt("memory file", os.memfd_create, "x")
call("System V segment", "shmget", 0, 1 << 30, 0o1600)
def rest():
    blocks = []
    while len(blocks) < 2000:
        blocks.append(bytearray(1 << 20))
    return len(blocks)
attempt("2 GB in pieces", rest)
"""
    return verdict(*attack(sandbox, code))


def disk_filling(sandbox: Sandbox) -> str:
    """Write without end: one file, many files, sparse files, in every folder."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    code = """
def fill():
    written = 0
    for folder in (".", "/tmp", "/dev/shm", "/var/tmp", "/"):
        for number in range(64):
            try:
                with open(f"{folder}/{len(folder)}-{number}", "wb") as file:
                    for _ in range(64):
                        written += file.write(bytes(1 << 20))
                        file.flush()
            except OSError:
                pass
    return written
written = fill()
if written > 20 << 20:
    print("LEAK:", written, "bytes")
def inodes():
    for number in range(100_000):
        open(f"i{number}", "w").close()
attempt("100 000 files", inodes)
attempt("a file of 1 GB", os.truncate, "1-0", 1 << 30)
"""
    run, seconds = attack(sandbox, code)
    lost = free - shutil.disk_usage(tempfile.gettempdir()).free
    return verdict(run, seconds, f"the host's disk lost {lost >> 20} MB" if lost > 100 << 20 else "")


def infinite_loop(sandbox: Sandbox) -> str:
    """Loop in Python with all signals ignored, in C without ever looking for one, and asleep."""
    loops = {
        "Python": "for n in range(1, 32):\n try: signal.signal(n, signal.SIG_IGN)\n except Exception: pass\nwhile True: pass",
        "C": "9 ** 9 ** 8",
        "sleep": "time.sleep(600)",
    }
    for name, code in loops.items():
        run, seconds = attack(sandbox, code)
        if run.outcome is not Outcome.TIMEOUT or seconds > WALL + SLACK:
            return f"{name}: {run.outcome} after {seconds:.1f} s"
    return "blocked"


def output_flood(sandbox: Sandbox) -> str:
    """Write without end to stdout and stderr."""
    for stream in ("stdout", "stderr"):
        run, _ = attack(sandbox, f"while True: sys.{stream}.write('x' * 65536)")
        size = len(run.stdout) + len(run.stderr)
        if run.outcome is not Outcome.OUTPUT_LIMIT or size > 2 * LIMITS.output_bytes:
            return f"{stream}: {run.outcome}, {size} characters"
    return "blocked"


def signals_to_the_parent(sandbox: Sandbox) -> str:
    """Signal the parent, the group and everybody; then see whether the same sandbox goes on."""
    before = processes_of_sandboxes()
    code = """
attempt("parent", lambda: os.kill(os.getppid(), signal.SIGKILL) if os.getppid() else 1 / 0)
try:
    os.kill(-1, signal.SIGKILL)
    os.killpg(0, signal.SIGKILL)
except OSError:
    pass
"""
    run, seconds = attack(sandbox, code)
    again = sandbox.run("print('hello')")
    harm = "" if again.outcome is Outcome.OK and before <= processes_of_sandboxes() else "the zygote is gone"
    return verdict(run, seconds, harm)


def ptrace(sandbox: Sandbox) -> str:
    """Trace and read other processes, one's own children among them."""
    with victim() as process:
        code = """
call("PTRACE_ATTACH", "ptrace", 16, victim, 0, 0)
call("PTRACE_SEIZE", "ptrace", 0x4206, victim, 0, 0)
call("PTRACE_TRACEME", "ptrace", 0, 0, 0, 0)
buffer = ctypes.create_string_buffer(8)
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
part = Part(ctypes.cast(buffer, ctypes.c_void_p), 8)
for pid in (victim, os.getpid(), 1):
    call("process_vm_readv", "process_vm_readv", pid, ctypes.byref(part), 1, ctypes.byref(part), 1, 0)
    attempt("memory of a process", lambda: open(f"/proc/{pid}/mem", "rb"))
"""
        return verdict(*attack(sandbox, code, victim=process.pid))


def nested_namespaces(sandbox: Sandbox) -> str:
    """Make namespaces and mounts, which would bring privileges back."""
    code = """
for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
    call(f"unshare {flag:x}", "unshare", flag)
call("setns", "setns", 0, 0)
call("mount", "mount", b"none", b"/tmp", b"tmpfs", 0, None)
call("umount", "umount2", b"/tmp", 2)
call("chroot", "chroot", b"/tmp")
if os.uname().machine == "x86_64":
    for flag in (0x10000000, 0x20000):
        call("clone", "syscall", 56, flag | 17, 0, 0, 0, 0)
    call("clone3", "syscall", 435, ctypes.create_string_buffer(88), 88)
attempt("root", os.setuid, 0)
"""
    return verdict(*attack(sandbox, code))


def leftovers(sandbox: Sandbox) -> str:
    """Leave files and a daemon that holds the output open, and look for them in the next run."""
    before = processes_of_sandboxes()
    leave = """
for path in ("/tmp/left", "/dev/shm/left", "left", os.path.expanduser("~/left")):
    try:
        open(path, "w").write("left")
    except OSError:
        pass
sys.modules["math"].left = True
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
except OSError:
    pass
"""
    look = """
for path in ("/tmp/left", "/dev/shm/left", "left", os.path.expanduser("~/left")):
    attempt(path, os.stat, path)
attempt("module", lambda: sys.modules["math"].left)
if os.listdir("."):
    print("LEAK:", os.listdir("."))
"""
    run, seconds = attack(sandbox, "import math\n" + leave)
    left = processes_of_sandboxes() - before
    again, more = attack(sandbox, "import math\n" + look)
    if (first := verdict(run, seconds, f"{len(left)} processes are left" if left else "")) != "blocked":
        return first
    return verdict(again, more)


ATTACKS: dict[str, Callable[[Sandbox], str]] = {
    "network": network,
    "host files": host_files,
    "environment variables": environment,
    "other processes": other_processes,
    "fork bomb": fork_bomb,
    "memory bomb": memory_bomb,
    "disk filling": disk_filling,
    "infinite loop": infinite_loop,
    "output flood": output_flood,
    "signals to the parent": signals_to_the_parent,
    "ptrace": ptrace,
    "nested namespaces": nested_namespaces,
    "leftovers between runs": leftovers,
}
