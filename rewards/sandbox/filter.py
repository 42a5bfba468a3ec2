"""The seccomp filter of the sandbox: the system calls that an untrusted program may make.

It is an allowlist, so system calls added by later kernels are refused. A call that only an escape attempt would make
kills the process at once (SIGSYS); all others return "no such system call", which libraries handle.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst and include/uapi/linux/{seccomp,filter,audit}.h; the
numbers are from asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64). `name:x86_64:aarch64`, `-` if absent.
"""

from __future__ import annotations

import errno
import os
import struct

from rollout.errors import InputError

# needed by a program that only computes: none of these changes anything outside the process
_ALLOWED = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 preadv:295:69 lseek:8:62 close:3:57 close_range:436:436
fstat:5:80 newfstatat:262:79 statx:332:291 stat:4:- lstat:6:- access:21:- faccessat:269:48 faccessat2:439:439
readlink:89:- readlinkat:267:78 getdents64:217:61 getcwd:79:17 pipe:22:- pipe2:293:59 dup:32:23 dup2:33:- dup3:292:24
select:23:- pselect6:270:72 poll:7:- ppoll:271:73 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21
epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441 eventfd2:290:19 mmap:9:222 munmap:11:215 mprotect:10:226
mremap:25:216 brk:12:214 madvise:28:233 mincore:27:232 membarrier:324:283 futex:202:98 futex_waitv:449:449
set_robust_list:273:99 set_tid_address:218:96 rseq:334:293 rt_sigaction:13:134 rt_sigprocmask:14:135
rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132
restart_syscall:219:128 pause:34:- alarm:37:- getitimer:36:102 setitimer:38:103 nanosleep:35:101
clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- times:100:153
getrusage:98:165 sysinfo:99:179 uname:63:160 getcpu:309:168 sched_yield:24:124 sched_getaffinity:204:123
getrandom:318:278 getpid:39:172 getppid:110:173 gettid:186:178 getuid:102:174 geteuid:107:175 getgid:104:176
getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158 getpgid:121:155 getpgrp:111:- getsid:124:156
getrlimit:97:163 fadvise64:221:223 exit:60:93 exit_group:231:94
"""
# network, processes, file changes, administrator privileges: the process is killed
_FATAL = """
socket:41:198 socketpair:53:199 connect:42:203 bind:49:200 listen:50:201 accept:43:202 accept4:288:242 sendto:44:206
sendmsg:46:211 sendmmsg:307:269 recvfrom:45:207 recvmsg:47:212 recvmmsg:299:243 fork:57:- vfork:58:- execve:59:221
execveat:322:281 tkill:200:130 rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240 pidfd_open:434:434
pidfd_getfd:438:438 pidfd_send_signal:424:424 ptrace:101:117 process_vm_readv:310:270 process_vm_writev:311:271
process_madvise:440:440 creat:85:- truncate:76:45 ftruncate:77:46 fallocate:285:47 rename:82:- renameat:264:38
renameat2:316:276 unlink:87:- unlinkat:263:35 mkdir:83:- mkdirat:258:34 rmdir:84:- link:86:- linkat:265:37
symlink:88:- symlinkat:266:36 mknod:133:- mknodat:259:33 chmod:90:- fchmod:91:52 fchmodat:268:53 fchmodat2:452:452
chown:92:- lchown:94:- fchown:93:55 fchownat:260:54 utime:132:- utimes:235:- futimesat:261:- utimensat:280:88
setxattr:188:5 lsetxattr:189:6 fsetxattr:190:7 removexattr:197:14 lremovexattr:198:15 fremovexattr:199:16 mount:165:40
umount2:166:39 unshare:272:97 setns:308:268 chroot:161:51 pivot_root:155:41 move_mount:429:429 open_tree:428:428
fsopen:430:430 fsmount:432:432 mount_setattr:442:442 bpf:321:280 perf_event_open:298:241 keyctl:250:219
add_key:248:217 request_key:249:218 userfaultfd:323:282 io_uring_setup:425:425 io_uring_enter:426:426
io_uring_register:427:427 init_module:175:105 finit_module:313:273 delete_module:176:106 kexec_load:246:104
kexec_file_load:320:294 reboot:169:142 swapon:167:224 swapoff:168:225 open_by_handle_at:304:-
"""
# allowed depending on their arguments (see `build_filter`)
_CHECKED = """
open:2:- openat:257:56 clone:56:220 clone3:435:435 kill:62:129 tgkill:234:131 ioctl:16:29 fcntl:72:25
prlimit64:302:261 prctl:157:167
"""

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the numbers, AUDIT_ARCH
_X32 = 0x40000000  # x86_64: the same calls under different numbers

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF instructions
_KILL, _ALLOW = 0x80000000, 0x7FFF0000  # SECCOMP_RET_KILL_PROCESS (Linux 4.14), SECCOMP_RET_ALLOW
_NUMBER_AT, _ARCH_AT = 0, 4  # offsets in struct seccomp_data

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # the last: __O_TMPFILE
_CLONE_THREAD = 0x10000
_CLONE_OF_THREADS = 0x7D0F00  # every flag that glibc or musl passes to clone for a thread; none creates a namespace
_FCNTL = (0, 1, 2, 3, 4, 1030)  # duplicate, get and set flags; not F_SETOWN, which sends signals to other processes
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # isatty, window size, bytes to read, blocking, close-on-exec
_PRCTL = (15, 16, 0x53564D41)  # names of threads and of memory


def build_filter(machine: str, pid: int, may_open: bool) -> bytes:
    """Returns the BPF program for the process `pid`, as an array of `struct sock_filter`.

    Args:
        machine: as returned by `platform.machine()`.
        may_open: whether files may be opened for reading (the filter can't restrict which: it does not see paths).

    Raises:
        InputError: there is no table for this machine.
    """
    if machine not in _MACHINES:
        raise InputError(f"the sandbox does not support {machine} machines, only {' and '.join(_MACHINES)}")
    column, arch = _MACHINES[machine]
    code = [(_LOAD, 0, 0, _ARCH_AT), (_JUMP_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER_AT)]
    if machine == "x86_64":
        code += [(_JUMP_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for number in _numbers(_ALLOWED, column).values():
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    reading = [*_any_bit(_WRITES, _KILL), (_RETURN, 0, 0, _ALLOW)] if may_open else [_refuse(errno.EACCES)]
    checks = {
        "openat": [_argument(2), *reading] if may_open else reading,
        "open": [_argument(1), *reading] if may_open else reading,
        "clone": [
            _argument(0),
            *_any_bit(~_CLONE_OF_THREADS & 0xFFFFFFFF, _KILL),
            (_JUMP_ANY_BIT, 1, 0, _CLONE_THREAD),
            (_RETURN, 0, 0, _KILL),
            (_RETURN, 0, 0, _ALLOW),
        ],
        "clone3": [_refuse(errno.ENOSYS)],  # its flags are in memory, unseen by the filter; libc falls back to clone
        "kill": [_argument(0), *_only((pid,), _KILL)],
        "tgkill": [_argument(0), *_only((pid,), _KILL)],
        "ioctl": [_argument(1), *_only(_IOCTL, _errno(errno.ENOTTY))],
        "fcntl": [_argument(1), *_only(_FCNTL, _errno(errno.EPERM))],
        "prctl": [_argument(0), *_only(_PRCTL, _errno(errno.EPERM))],
        # prlimit64 may only read the process's own limits; the pointer to a new limit must be null (both halves)
        "prlimit64": [
            *(_argument(0), (_JUMP_EQUAL, 2, 0, 0), (_JUMP_EQUAL, 1, 0, pid), _refuse(errno.EPERM)),
            *(_argument(2), (_JUMP_EQUAL, 1, 0, 0), _refuse(errno.EPERM)),
            *(_argument(2, high=True), *_only((0,), _errno(errno.EPERM))),
        ],
    }
    for name, number in _numbers(_CHECKED, column).items():
        code += [(_JUMP_EQUAL, 0, len(checks[name]), number), *checks[name]]
    for number in _numbers(_FATAL, column).values():
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _KILL)]
    code.append(_refuse(errno.ENOSYS))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _numbers(table: str, column: int) -> dict[str, int]:
    rows = [row.split(":") for row in table.split()]
    return {name: int(numbers[column]) for name, *numbers in rows if numbers[column] != "-"}


def _argument(index: int, high: bool = False) -> tuple[int, int, int, int]:
    """Loads 32 bits of an argument (both machines are little-endian)."""
    return (_LOAD, 0, 0, 16 + 8 * index + 4 * high)


def _errno(number: int) -> int:
    return 0x00050000 | number  # SECCOMP_RET_ERRNO


def _refuse(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _errno(number))


def _any_bit(mask: int, action: int) -> list[tuple[int, int, int, int]]:
    """Applies `action` if the loaded value has any bit of `mask`."""
    return [(_JUMP_ANY_BIT, 0, 1, mask), (_RETURN, 0, 0, action)]


def _only(values: tuple[int, ...], otherwise: int) -> list[tuple[int, int, int, int]]:
    """Allows the call if the loaded value is one of `values`."""
    allowed = [step for value in values for step in ((_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))]
    return [*allowed, (_RETURN, 0, 0, otherwise)]
