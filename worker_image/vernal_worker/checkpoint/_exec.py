"""A tree's root, as a script of its own: `_exec.py CWD PROGRAM ARG...` runs the program as its only child and ends as
that does. Its own command line becomes `_exec.py wait PID`.

A process that has threads (the supervisor) must not run Python between fork and exec, hence a script. And CRIU restores
the memory of all processes side by side except for the root's, which comes last, so the root must have little of it.
Descriptor 3 is a pipe: it closes on success and carries the reason on failure.

`_exec.py bare PROGRAM ARG...` becomes the program, without capabilities and no tree's root.

What the program is to have in its environment comes with `LATER` before each name: a pool writes it, and this here
still has the capabilities that CRIU needs, which no LD_PRELOAD may use.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys

STATUS = 3
WAIT, BARE = "wait", "bare"
LATER = "VERNAL_LATER_"
MAX_DESCRIPTORS = 1 << 20
IO_URING_SETUP = 425  # on every architecture (asm-generic/unistd.h)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x0005_0000, 0x7FFF_0000
PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
LAST_CAPABILITY = "/proc/sys/kernel/cap_last_cap"
DAC_OVERRIDE = 1
SETPCAP = 8
KEPT_CAPABILITIES = 1 << DAC_OVERRIDE
"""What a process may do that root without any may not: read and write files whatever their owner and mode, as every
container's root may. A model on a claim can belong to anybody."""
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # classic BPF (linux/bpf_common.h)


def refuse_io_uring() -> None:
    """Let io_uring_setup answer ENOSYS, as on a kernel without it: CRIU cannot dump an io_uring
    (seccomp(2))."""
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (LOAD_WORD, 0, 0, 0),  # seccomp_data.nr
            (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
            (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS),
            (RETURN, 0, 0, SECCOMP_RET_ALLOW),
        )
    )
    code = ctypes.create_string_buffer(program)
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), f"prctl({arguments[0]}): {os.strerror(ctypes.get_errno())}")


def drop_capabilities() -> None:
    """Give up for good what CRIU needs and an engine does not (capabilities(7)). CRIU restores what was dumped, so it
    holds for thawed trees too. Where the caller itself has little, there is little to give up."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(LAST_CAPABILITY) as file:
        every = range(int(file.read()) + 1)
    header = ctypes.create_string_buffer(struct.pack("Ii", CAPABILITY_VERSION_3, 0))
    sets = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; low words, then high ones
    check(libc, "capget", libc.capget(header, sets))
    low_permitted, high_permitted = struct.unpack_from("4xI8xI", sets.raw)
    if (high_permitted << 32 | low_permitted) >> SETPCAP & 1:
        for number in every:
            if not KEPT_CAPABILITIES >> number & 1:
                check(libc, "prctl", libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)  # a kernel without them has none
    kept = KEPT_CAPABILITIES & low_permitted
    ctypes.memmove(sets, struct.pack("6I", kept, kept, 0, 0, 0, 0), 24)
    check(libc, "capset", libc.capset(header, sets))


def check(libc: ctypes.CDLL, function: str, result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")


def environment() -> dict[bytes, bytes]:
    """What the program is to have, and nothing else."""
    later = LATER.encode()
    return {name[len(later) :]: value for name, value in os.environb.items() if name.startswith(later)}


def main() -> None:
    os.set_inheritable(STATUS, False)
    os.closerange(STATUS + 1, MAX_DESCRIPTORS)  # whatever the supervisor was started with leads out of the tree
    try:
        cwd, *argv = sys.argv[1:]
        os.chdir(cwd)
        drop_capabilities()
        refuse_io_uring()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # The defaults, whatever the supervisor was started with (nohup ignores SIGHUP, Python itself SIGPIPE).
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if (child := os.fork()) == 0:
            os.execvpe(argv[0], argv, environment())  # noqa: S606
    except OSError as e:
        os.write(STATUS, str(e).encode())
        os._exit(127)
    waits = [sys.executable, "-I", "-S", __file__, WAIT, str(child)]
    os.execve(sys.executable, waits, environment())  # noqa: S606


def end_like(child: int) -> None:
    """Wait for it, and end with its exit code or by the signal that killed it."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child has written one if there is to be one
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == WAIT:
        end_like(int(sys.argv[2]))
    if sys.argv[1] == BARE:
        drop_capabilities()
        os.execvpe(sys.argv[2], sys.argv[2:], environment())  # noqa: S606
    main()
