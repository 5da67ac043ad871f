"""Memory that a process keeps between the steps of a training, in place of asking for it again."""

import ctypes
import os
import platform

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_OLD_MMAP_THRESHOLD = 32 << 20  # glibc before 2.35 refuses more.


def keep_freed_memory():
    """Keep freed memory in the process, so that the next step's tensors reuse it.

    By default glibc maps each large tensor from the kernel and unmaps it when it is freed. In
    float32 training with AVX2 and batch 8 the kernel takes a seventh of the processor time for
    these page faults (scripts/benchmarks/allocator.json). Two things help: TensorFlow's oneDNN
    kernels bring an allocator that keeps memory, and are faster than Eigen's; TensorFlow turns them
    on by itself only for CPUs with AVX-512 VNNI or AMX. And glibc can be told to keep what is
    freed.

    Call it before TensorFlow is imported. Environment variables that the user sets win. On another
    C library than glibc, or another processor than x86-64, the respective half does nothing.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if platform.libc_ver()[0] != "glibc" or any(n.startswith("MALLOC_") for n in os.environ):
        return
    mallopt = ctypes.CDLL(None).mallopt
    if not mallopt(_M_MMAP_THRESHOLD, 1 << 30):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_OLD_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, 512 << 20)
    mallopt(_M_TOP_PAD, 64 << 20)
