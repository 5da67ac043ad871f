"""Freed memory stays in the process."""

import os
import platform
import subprocess
import sys

import pytest

WORK = """
import os, resource
import numpy as np
from bert_tools import allocator
{call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 22)
begun = faults()
for _ in range(20):
    np.ones(1 << 22)  # 32 MB, as a table of word embeddings.
print(faults() - begun, os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
"""


def run(call, **variables):
    """(page faults of the work, TF_ENABLE_ONEDNN_OPTS) in a separate process."""
    kept = {n: v for n, v in os.environ.items() if n != "TF_ENABLE_ONEDNN_OPTS"}
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(call=call)],
        env={**kept, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    faults, onednn = done.stdout.split()
    return int(faults), onednn


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_is_kept():
    before, _ = run("")
    after, onednn = run("allocator.keep_freed_memory()")
    assert after < before / 10, (before, after)
    assert onednn == ("1" if platform.machine() == "x86_64" else "None")
    # What the user sets wins.
    variables = {"MALLOC_MMAP_THRESHOLD_": "131072", "TF_ENABLE_ONEDNN_OPTS": "0"}
    faults, onednn = run("allocator.keep_freed_memory()", **variables)
    assert faults > before / 2 and onednn == "0"
