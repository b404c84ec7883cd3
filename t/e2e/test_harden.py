"""A worker that serves is confined: what a module tries beyond what the
configuration needs fails, and is logged; a module that crashes is named."""

from __future__ import annotations

import ctypes
import errno
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kit
import wire

pytestmark = pytest.mark.core

ASAN = "asan" in str(kit.BINARY)

# GET /try?WHAT does it, and answers with the errno: 0 if it could be done.
SOURCE = r"""
#include "kars_module.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

typedef struct {
    kars_str_t folder;
} intruder_conf_t;

static int
try_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);

    if (fd == -1) {
        return errno;
    }
    close(fd);
    return 0;
}

static int
try_connect(int type, const char *port)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t) atoi(port)),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    int rc = fd == -1 || connect(fd, (struct sockaddr *) &to, sizeof(to)) == -1
                 ? errno : 0;

    if (fd != -1) {
        close(fd);
    }
    return rc;
}

static int
try_listen(int do_bind)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int rc = fd == -1 ? errno : 0;

    if (rc == 0 && do_bind &&
        bind(fd, (struct sockaddr *) &at, sizeof(at)) == -1) {
        rc = errno;
    }
    if (rc == 0 && !do_bind && listen(fd, 1) == -1) {
        rc = errno;
    }
    if (fd != -1) {
        close(fd);
    }
    return rc;
}

static int
try_socket(int family, int type, int protocol)
{
    int fd = socket(family, type, protocol);
    int rc = fd == -1 ? errno : 0;

    if (fd != -1) {
        close(fd);
    }
    return rc;
}

static int
try_exec_memory(void)
{
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return mprotect(p, 4096, PROT_READ | PROT_EXEC) == -1 ? errno : 0;
}

static int
try_map_exec(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? errno : 0;
}

static int
try_fork(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        _exit(0);
    }
    return pid == -1 ? errno : 0;
}

static int
try_fexecve(void)
{
    char *const argv[] = { "x", NULL };
    int fd = memfd_create("x", 0);

    if (fd == -1) {
        return errno;
    }
    fexecve(fd, argv, argv);
    return errno;
}

static int
try_signal_by_fd(void)
{
    int p[2];

    if (pipe2(p, O_CLOEXEC) == -1) {
        return errno;
    }
    return fcntl(p[0], F_SETOWN, getppid()) == -1 ? errno : 0;
}

static int
result(long rc)
{
    return rc == -1 ? errno : 0;
}

static int
try_what(const char *what, const char *arg)
{
    char *const argv[] = { "true", NULL };

#define IF(name, code) if (strcmp(what, name) == 0) { return (code); }
    IF("execve", result(execve("/bin/true", argv, argv)))
    IF("execveat", result(syscall(SYS_execveat, -1, "/bin/true", argv, argv, 0)))
    IF("fexecve", try_fexecve())
    IF("fork", try_fork())
    IF("clone3", result(syscall(SYS_clone3, NULL, 0)))
    IF("traceme", result(ptrace(PTRACE_TRACEME, 0, 0, 0)))
    IF("attach", result(ptrace(PTRACE_ATTACH, getppid(), 0, 0)))
    IF("peek", result(syscall(SYS_process_vm_readv, getppid(), 0, 0, 0, 0, 0)))
    IF("read", try_path(arg, O_RDONLY))
    IF("write", try_path(arg, O_WRONLY))
    IF("create", try_path(arg, O_WRONLY | O_CREAT))
    IF("readdir", try_path(arg, O_RDONLY | O_DIRECTORY))
    IF("mkdir", result(mkdir(arg, 0700)))
    IF("unlink", result(unlink(arg)))
    IF("symlink", result(symlink("/etc", arg)))
    IF("truncate", result(truncate(arg, 0)))
    IF("chmod", result(chmod(arg, 0777)))
    IF("connect", try_connect(SOCK_STREAM, arg))
    IF("bind", try_listen(1))
    IF("listen", try_listen(0))
    IF("route", try_socket(AF_NETLINK, SOCK_RAW, 0))
    IF("diag", try_socket(AF_NETLINK, SOCK_RAW, 4))
    IF("packet", try_socket(AF_PACKET, SOCK_RAW, 0))
    IF("raw", try_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP))
    IF("udp", try_socket(AF_INET, SOCK_DGRAM, 0))
    IF("unix", try_socket(AF_UNIX, SOCK_STREAM, 0))
    IF("vsock", try_socket(40, SOCK_STREAM, 0))
    IF("mprotect", try_exec_memory())
    IF("mmap", try_map_exec())
    IF("kill", result(kill(getppid(), SIGTERM)))
    IF("killall", result(kill(-1, 0)))
    IF("owner", try_signal_by_fd())
    IF("dumpable", result(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)))
    IF("unshare", result(unshare(CLONE_NEWUSER)))
    IF("setns", result(setns(0, 0)))
    IF("memfd", result(memfd_create("x", 0)))
    IF("io_uring", result(syscall(SYS_io_uring_setup, 1, NULL)))
    IF("bpf", result(syscall(SYS_bpf, 0, NULL, 0)))
    IF("keyctl", result(syscall(SYS_keyctl, 0, 0, 0, 0, 0)))
    IF("userfaultfd", result(syscall(SYS_userfaultfd, 0)))
    IF("setuid", result(setuid(0)))
    IF("chroot", result(chroot("/")))
    IF("mount", result(syscall(SYS_mount, "x", "/", "tmpfs", 0, NULL)))
    return -1;
}

/* Every caller is somebody: no other module is loaded that would say so. */
static int
intruder_access(kars_req_t *r, const void *conf, void *ctx)
{
    return kars_grant(r, KARS_STR("agent"), KARS_STR("anybody"));
}

static void
intruder_work(void *ctx)
{
    *(volatile int *) 8 = 1;
}

static int
intruder_worked(kars_req_t *r, int error, const void *conf, void *ctx)
{
    return KARS_ERROR;
}

static int
intruder_content(kars_req_t *r, const void *conf, void *ctx)
{
    kars_str_t q = kars_req_var(r, KARS_STR("query"));
    char text[512], answer[16];
    char *arg;

    if (q.len == 0) {
        return KARS_DECLINED;
    }
    snprintf(text, sizeof(text), "%.*s", KARS_STR_ARG(q));
    if (strcmp(text, "crash") == 0) {
        *(volatile int *) 8 = 1;
    }
    if (strcmp(text, "crash_on_thread") == 0) {
        return kars_offload(r, intruder_work, intruder_worked);
    }
    if (strcmp(text, "abort") == 0) {
        abort();
    }
    arg = strchr(text, '=');
    if (arg != NULL) {
        *arg++ = '\0';
    }
    snprintf(answer, sizeof(answer), "%d", try_what(text, arg));
    return kars_respond(r, 200, KARS_STR("text/plain"),
                        (kars_str_t){ answer, strlen(answer) });
}

/* clang-format off */
static const kars_directive_t intruder_directives[] = {
    { .name = "intruder", .at = KARS_AT_ROUTE, .type = KARS_T_PATH,
      .offset = offsetof(intruder_conf_t, folder), .doc = "its folder" },
    { 0 },
};
static const kars_hook_t intruder_hooks[] = {
    { .phase = KARS_PHASE_ACCESS, .run = intruder_access },
    { .phase = KARS_PHASE_CONTENT, .run = intruder_content },
    { 0 },
};
static const kars_os_need_t intruder_needs[] = { NEEDS { 0 } };
/* clang-format on */

KARS_MODULE(intruder) = {
    KARS_MODULE_HEAD,
    .name = "intruder",
    .version = "1.0.0",
    .flags = KARS_ALWAYS,
    .ctx_size = 8,
    .conf_size = sizeof(intruder_conf_t),
    .directives = intruder_directives,
    .hooks = intruder_hooks,
    .os_needs = intruder_needs,
#ifdef START
    .worker_start = intruder_start,
#endif
};
"""

START_THREAD = r"""
#include <pthread.h>
static pthread_t intruder_thread;
static int
intruder_start(kars_cycle_t *cycle, kars_err_t *err)
{
    return pthread_create(&intruder_thread, NULL, (void *(*)(void *)) pause,
                          NULL) == 0 ? KARS_OK : KARS_ERROR;
}
"""
START_CRASH = r"""
static int
intruder_start(kars_cycle_t *cycle, kars_err_t *err)
{
    *(volatile int *) 8 = 1;
    return KARS_OK;
}
"""


# Finds the worker's channel to the master among the descriptors and asks for
# files that only root has; logs what comes of it.
START_ASK = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

typedef struct {
    unsigned kind;
    int error;
    unsigned long long number;
    char text[512];
} ask_t;

static int
intruder_start(kars_cycle_t *cycle, kars_err_t *err)
{
    for (int fd = 3; fd < 64; fd++) {
        int type = 0;
        socklen_t len = sizeof(type);

        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 ||
            type != SOCK_SEQPACKET) {
            continue;
        }
        for (unsigned kind = 1; kind < 10; kind++) {
            ask_t m = { kind, 0, 0, "%s" };
            char space[64];
            struct iovec iov = { &m, sizeof(m) };
            struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
                                  .msg_control = space,
                                  .msg_controllen = sizeof(space) };

            if (send(fd, &m, sizeof(m), 0) < 0 || recvmsg(fd, &msg, 0) <= 0) {
                break;
            }
            kars_cycle_log(cycle, KARS_LOG_NOTICE, "asked kind=%%u error=%%d "
                           "given=%%d", kind, m.error,
                           msg.msg_controllen != 0);
        }
    }
    return KARS_OK;
}
"""


class Intruder:
    """A module that does on request what no module should, and its router:
    no other module, one upstream, so that little is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = kit.Site(folder)
        self.own = folder / "own"
        self.own.mkdir()
        (self.own / "file").write_text("x")
        (self.own / "link").symlink_to("/etc/passwd")
        (folder / "secret").write_text("x")
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.other = socket.create_server(("127.0.0.1", 0))
        self.other_port = self.other.getsockname()[1]
        self.module = folder / "intruder.so"
        self.running: list[kit.Router] = []

    def close(self) -> None:
        for r in self.running:
            if not r.stopped:   # its test has failed
                r.kill()
        self.server.close()
        self.other.close()

    def build(self, needs: str = "", start: str = "") -> None:
        c, h = self.folder / "intruder.c", self.folder / "start.h"
        c.write_text(SOURCE)
        h.write_text('#include "kars_module.h"\n#include <unistd.h>\n' + start)
        subprocess.run(
            ["cc", "-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC",
             "-I", str(kit.TOP / "core"), f"-DNEEDS={needs}",
             *(["-DSTART", "-include", str(h)] if start else []),
             "-o", str(self.module), str(c)], check=True)

    def conf(self, main: str = "", modules: str = "", access: str = ""
             ) -> str:
        s = self.site
        return f"""
module_path {kit.MODULES};
{modules}
load_module {self.module};
{main}
upstream model {{ server 127.0.0.1:{self.port}; }}
server {{
    listen 127.0.0.1:{s.port} class=agent;
    route GET /healthz {{ respond 200 "ok"; {access} }}
    route GET /try {{ intruder {self.own}; {access} }}
    route GET /model {{ pass model; {access} }}
}}
"""

    def start(self, **conf: str) -> kit.Router:
        r = kit.Router(self.site, self.conf(**conf))
        self.running.append(r)
        return r


@pytest.fixture
def intruder(tmp_path: Path) -> Iterator[Intruder]:
    i = Intruder(tmp_path)
    yield i
    i.close()


def attempt(r: kit.Router, what: str, arg: object = None) -> int:
    a = r.ask("GET", f"/try?{what}" + (f"={arg}" if arg is not None else ""))
    assert a.status == 200, a
    return int(a.body)


def refused(r: kit.Router, layer: str) -> int:
    """EACCES of Landlock; where the kernel has less of it, the router said
    that it does not hold, and then things can be done."""
    lines = re.findall(r"not-held=(.*)", r.log())
    return 0 if layer in lines[-1].split(" (")[0].split() else errno.EACCES


# By system call: these fail on every kernel.
FORBIDDEN = {
    "execve": errno.EPERM, "execveat": errno.EPERM, "fexecve": errno.EPERM,
    "fork": errno.EPERM, "clone3": errno.ENOSYS, "traceme": errno.EPERM,
    "attach": errno.EPERM, "peek": errno.EPERM, "listen": errno.EPERM,
    "bind": errno.EPERM, "route": errno.EPERM, "diag": errno.EPERM,
    "packet": errno.EPERM, "raw": errno.EPERM, "udp": errno.EPERM,
    "unix": errno.EPERM, "vsock": errno.EPERM, "mprotect": errno.EPERM,
    "mmap": errno.EPERM, "kill": errno.EPERM, "killall": errno.EPERM,
    "owner": errno.EPERM, "dumpable": errno.EPERM, "unshare": errno.EPERM,
    "setns": errno.EPERM, "memfd": errno.EPERM, "io_uring": errno.EPERM,
    "bpf": errno.EPERM, "keyctl": errno.EPERM, "userfaultfd": errno.EPERM,
    "setuid": errno.EPERM, "chroot": errno.EPERM, "mount": errno.EPERM,
}
FORBIDDEN_PATHS = ("mkdir", "unlink", "symlink", "truncate", "chmod")


def test_a_module_cannot_do_what_nobody_declared(intruder: Intruder) -> None:
    intruder.build()
    r = intruder.start()
    (worker,) = r.workers()
    found = {what: attempt(r, what) for what in FORBIDDEN}
    assert found == FORBIDDEN
    secret = intruder.folder / "secret"
    for what in FORBIDDEN_PATHS:
        assert attempt(r, what, secret) == errno.EPERM, what
    assert secret.read_text() == "x"
    files = refused(r, "files")
    for what, path in [
            ("read", "/etc/passwd"), ("read", secret), ("write", secret),
            ("read", intruder.own / "file"), ("readdir", "/"),
            ("read", intruder.site.conf), ("create", "/tmp/x"),
            ("read", f"/proc/{r.process.pid}/environ"),
            ("write", f"/proc/{r.process.pid}/mem"), ("read", "/dev/kmsg")]:
        if str(path).startswith("/proc") and ASAN:
            continue    # a sanitizer reads there
        assert attempt(r, what, path) == files, (what, path)
    assert attempt(r, "connect", intruder.port) == 0
    assert attempt(r, "connect", intruder.other_port) == refused(
        r, "tcp-ports")
    # All of that was one worker, which is well, and said each kind once.
    assert attempt(r, "execve") == errno.EPERM
    assert r.workers() == [worker]
    assert r.log().count("refused syscall=execve module=intruder") == 1
    assert "refused syscall=ptrace module=intruder" in r.log()
    r.stop()


def test_the_status_of_a_worker(intruder: Intruder) -> None:
    intruder.build()
    r = intruder.start()
    text = Path(f"/proc/{r.workers()[0]}/status").read_text()
    status = dict(re.findall(r"(\w+):\t(.*)", text))
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    for sort in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[sort], 16) == 0, sort
    assert "runs as root, without its capabilities" in r.log()
    assert "Seccomp:\t0" in Path(f"/proc/{r.process.pid}/status").read_text()
    r.stop()


def test_a_named_account(tmp_path: Path) -> None:
    site = kit.Site(tmp_path)
    r = kit.Router(site, f"""
user nobody;
server {{
    listen 127.0.0.1:{site.port};
    route GET /healthz {{ respond 200 "ok"; }}
}}""")
    proc = Path(f"/proc/{r.workers()[0]}")
    status = dict(re.findall(r"(\w+):\t(.*)", (proc / "status").read_text()))
    assert set(status["Uid"].split()) == {"65534"}
    assert status["Seccomp"] == "2"
    for sort in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[sort], 16) == 0, sort
    # Whom nobody of its account may look into belongs to root in /proc; leak
    # checks of the test build have to look.
    assert (proc / "environ").stat().st_uid == (65534 if ASAN else 0)
    assert "runs as root" not in r.log()
    r.stop()


def test_a_declared_folder_is_open_and_no_other(intruder: Intruder) -> None:
    own = intruder.own
    intruder.build('{ KARS_OS_READ, "intruder", "reads there" },')
    r = intruder.start()
    assert "module intruder may read intruder (reads there)" in r.log()
    files = refused(r, "files")
    assert attempt(r, "read", own / "file") == 0
    assert attempt(r, "readdir", own) == 0
    # A file that is replaced by another is read all the same.
    (own / "new").write_text("y")
    (own / "new").rename(own / "file")
    assert attempt(r, "read", own / "file") == 0
    for what, path in [("read", own / "link"), ("read", own / "../secret"),
                       ("write", own / "file"), ("create", own / "made")]:
        assert attempt(r, what, path) == files, (what, path)
    assert attempt(r, "mkdir", own / "d") == errno.EPERM
    assert not (own / "made").exists()
    r.stop()


def test_a_declared_folder_is_written(intruder: Intruder) -> None:
    own = intruder.own
    intruder.build('{ KARS_OS_WRITE, "intruder", "writes there" },')
    r = intruder.start()
    assert "module intruder may write intruder (writes there)" in r.log()
    files = refused(r, "files")
    for what, path in [("create", own / "made"), ("write", own / "file"),
                       ("mkdir", own / "d"), ("unlink", own / "made")]:
        assert attempt(r, what, path) == 0, (what, path)
    assert attempt(r, "create", own / "d/deep") == 0
    for what, path in [("create", intruder.folder / "made"),
                       ("mkdir", intruder.folder / "d"),
                       ("unlink", intruder.folder / "secret"),
                       ("write", own / "../secret"), ("read", own / "link")]:
        assert attempt(r, what, path) == files, (what, path)
    assert attempt(r, "symlink", own / "s") == errno.EPERM
    assert (intruder.folder / "secret").exists()
    r.stop()


@pytest.mark.parametrize("need,what,opened,closed", [
    ('KARS_OS_SYSCALL, "memfd_create"', "call memfd_create", ["memfd"],
     ["execve", "fexecve", "mmap"]),
    ('KARS_OS_SYSCALL, "mprotect"', "call mprotect", ["mprotect"], ["mmap"]),
    ('KARS_OS_CONNECT, "netlink"', "connect to netlink", ["diag"],
     ["route", "udp"]),
    ('KARS_OS_CONNECT, "udp"', "connect to udp", ["udp"], ["diag", "raw"]),
    ('KARS_OS_SYSCALL, "listen"', "call listen", ["listen"], ["bind"]),
])
def test_what_is_declared_is_open_and_no_more(
        intruder: Intruder, need: str, what: str, opened: list[str],
        closed: list[str]) -> None:
    intruder.build(f'{{ {need}, "because" }},')
    r = intruder.start()
    assert f"module intruder may {what} (because)" in r.log()
    for w in opened:
        assert attempt(r, w) == 0, w
    for w in closed:
        assert attempt(r, w) == errno.EPERM, w
    r.stop()


def test_a_declared_port(intruder: Intruder) -> None:
    intruder.build(f'{{ KARS_OS_CONNECT, "{intruder.other_port}", "calls" }},')
    r = intruder.start()
    assert attempt(r, "connect", intruder.other_port) == 0
    assert attempt(r, "connect", 1) == (
        refused(r, "tcp-ports") or errno.ECONNREFUSED)
    r.stop()


@pytest.mark.parametrize("need,says", [
    ('KARS_OS_SYSCALL, "frobnicate"', 'no system call is named "frobnicate"'),
    ('KARS_OS_SYSCALL, "execve"', 'grants the system call "execve" to no'),
    ('KARS_OS_SYSCALL, "ptrace"', 'grants the system call "ptrace" to no'),
    ('KARS_OS_READ, "nowhere"', '"nowhere" is neither an absolute path'),
    ('KARS_OS_CONNECT, "65536"', '"65536": expected a TCP port'),
    ('9, "x"', "unknown kind 9"),
])
def test_a_need_that_cannot_be_is_a_load_error(
        intruder: Intruder, need: str, says: str) -> None:
    intruder.build(f'{{ {need}, "because" }},')
    intruder.site.conf.write_text(intruder.conf())
    p = kit.run_tool("-t", "-c", str(intruder.site.conf), check=False)
    assert p.returncode == 1 and says in p.stderr, p.stderr
    assert "router.conf:4" in p.stderr and "intruder" in p.stderr


def test_names_are_still_resolved(intruder: Intruder) -> None:
    """For an upstream that has a name the file of hosts is read, and nothing
    beside it; an address needs neither."""
    intruder.build()
    conf = intruder.conf().replace("server 127.0.0.1:", "server localhost:")
    r = kit.Router(intruder.site, conf)
    intruder.running.append(r)
    assert attempt(r, "read", "/etc/hosts") == 0
    assert attempt(r, "read", "/etc/passwd") == refused(r, "files")
    assert attempt(r, "udp") == 0
    w = r.wire().send(wire.request("GET", "/model"))
    intruder.server.settimeout(10)
    intruder.server.accept()[0].close()
    assert w.answer().status == 502
    r.stop()


def test_a_thread_before_the_filter_is_an_error(intruder: Intruder) -> None:
    intruder.build(start=START_THREAD)
    intruder.site.conf.write_text(intruder.conf())
    p = kit.run_tool("-c", str(intruder.site.conf), check=False)
    assert p.returncode == 1
    assert "a module started a thread in worker_start" in p.stderr


def test_a_module_cannot_have_the_master_open_things(
        intruder: Intruder) -> None:
    made = intruder.folder / "made"
    intruder.build(start=START_ASK % made)
    r = intruder.start(main="hardening off;")  # the channel is ours, not its
    asked = re.findall(r"asked kind=(\d+) error=(\d+) given=(\d)", r.log())
    assert len(asked) == 9
    assert {(e, g) for _, e, g in asked} == {(str(errno.EPERM), "0")}
    assert not made.exists()


def test_hardening_off_says_so(intruder: Intruder) -> None:
    intruder.build()
    r = intruder.start(main="hardening off;")
    assert "NOT CONFINED" in r.log()
    assert attempt(r, "read", "/etc/passwd") == 0
    assert attempt(r, "mmap") == 0
    assert "Seccomp:\t0" in Path(f"/proc/{r.workers()[0]}/status").read_text()
    r.stop()


def without_landlock() -> None:
    """For a child: a kernel that does not have it (by a filter of our own
    before the router's)."""
    nr = 444    # landlock_create_ruleset, the same everywhere
    program = b"".join(struct.pack("=HBBI", *op) for op in [
        (0x20, 0, 0, 0),                            # the call's number
        (0x15, 0, 1, nr),                           # is it that one?
        (0x06, 0, 0, 0x00050000 | errno.ENOSYS),    # then ENOSYS
        (0x06, 0, 0, 0x7FFF0000)])                  # else go on
    held = ctypes.create_string_buffer(program)
    fprog = ctypes.create_string_buffer(
        struct.pack("@HP", 4, ctypes.addressof(held)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0          # no_new_privs
    assert libc.prctl(22, 2, fprog, 0, 0) == 0      # seccomp filter


def test_a_kernel_without_landlock(intruder: Intruder) -> None:
    intruder.build()
    r = kit.Router(intruder.site, intruder.conf(), preexec=without_landlock)
    intruder.running.append(r)
    assert re.search(r"warn worker: confined seccomp=on landlock=0 "
                     r"tcp-ports=no not-held=files tcp-ports", r.log())
    assert attempt(r, "execve") == errno.EPERM
    assert attempt(r, "connect", intruder.other_port) == 0
    r.stop()
    intruder.site.conf.write_text(intruder.conf(main="hardening require;"))
    p = subprocess.run([str(kit.BINARY), "-c", str(intruder.site.conf)],
                       text=True, capture_output=True, timeout=20,
                       env=kit.ENV, preexec_fn=without_landlock)
    assert p.returncode == 1
    assert "hardening require: this kernel has no Landlock" in p.stderr


def test_identity_can_ask_the_kernel(intruder: Intruder) -> None:
    intruder.build()
    r = intruder.start(modules="load_module identity;",
                       access="access agent;")
    assert attempt(r, "diag") == 0 and attempt(r, "udp") == 0
    assert attempt(r, "route") == errno.EPERM
    assert attempt(r, "bind") == refused(r, "tcp-ports")
    r.stop()


def crash(r: kit.Router, how: str) -> None:
    """The request ends without an answer, and another worker takes over."""
    (worker,) = r.workers()
    w = r.wire().send(wire.request("GET", f"/try?{how}"))
    assert w.closed()
    kit.wait_for("another worker", lambda: r.workers() != [worker]
                 and len(r.workers()) == 1)
    kit.wait_for("it serves", lambda: r.ask("GET", "/healthz").status == 200)


@pytest.mark.parametrize("how,says", [
    ("crash", r"signal=SIGSEGV address=null module=intruder "
              r"at=intruder\+0x[0-9a-f]+"),
    ("abort", r"signal=SIGABRT module=intruder at=libc\S*\+0x[0-9a-f]+"),
    ("crash_on_thread", r"signal=SIGSEGV address=null module=intruder "
                        r"at=intruder\+0x[0-9a-f]+"),
])
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_crash_names_the_module(
        intruder: Intruder, how: str, says: str, form: str) -> None:
    intruder.build()
    r = intruder.start(main=f"log stderr format={form};")
    crash(r, how)
    line = next(x for x in r.log().splitlines() if "worker: crashed" in x)
    assert re.search(f"worker: crashed {says}", line), line
    if form == "json":
        assert '"level":"error"' in line and line.endswith('"}')
    if not ASAN:    # there a sanitizer's report follows, and its own exit
        signum = 6 if how == "abort" else 11
        assert f"died signal={signum}" in r.log()
    r.send_signal(signal.SIGTERM)
    assert r.wait_exit() == 0


def test_a_crash_at_start_names_the_module(intruder: Intruder) -> None:
    intruder.build(start=START_CRASH)
    intruder.site.conf.write_text(intruder.conf())
    p = subprocess.run([str(kit.BINARY), "-c", str(intruder.site.conf)],
                       text=True, capture_output=True, timeout=20, env=kit.ENV)
    assert p.returncode == 1
    assert re.search(r"crashed signal=SIGSEGV address=null module=intruder",
                     p.stderr), p.stderr
