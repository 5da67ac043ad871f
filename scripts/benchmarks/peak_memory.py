"""The peak of a process's resident memory, in MB (2**20 bytes): as Linux keeps it for the process
itself. The usual ru_maxrss of a child begins with the peak of whoever started it.
"""

import re
import time


def of(pid="self"):
    """The peak so far; 0 for a process that has ended."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as reader:
            found = re.search(r"VmHWM:\s+(\d+) kB", reader.read())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def wait(process):
    """Waits for a subprocess.Popen whose output nobody needs to read; its peak."""
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, of(process.pid))
        time.sleep(0.02)
    return peak
