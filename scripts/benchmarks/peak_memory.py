"""The peak of a process's resident memory, in MB (2**20 bytes): as Linux keeps it for the process
itself. The usual ru_maxrss of a child begins with the peak of whoever started it.
"""

import re
import subprocess
import sys
import tempfile
import time

# A command of ours by the name of its module, for `python -c`.
CODE = "import sys; from bert_tools.cli import {0} as command; sys.exit(command.main())"


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


def run(words):
    """(seconds from start to end, peak, what it wrote to stderr) of a process; ends this one where
    it fails.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stderr:
        running = subprocess.Popen(words, stderr=stderr)
        memory = wait(running)
        seconds = time.perf_counter() - begun
        stderr.seek(0)
        told = stderr.read()
    if running.returncode:
        sys.exit(f"{words}: {told}")
    return seconds, memory, told


def run_command(name, flags):
    """As `run`, of a command of ours, its flags as a dict."""
    flags = [f"--{flag}={value}" for flag, value in flags.items()]
    return run([sys.executable, "-c", CODE.format(name), *flags])
