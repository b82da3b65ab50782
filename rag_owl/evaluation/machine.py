"""What a figure was measured on, and how much memory it took."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import Any


def describe() -> str:
    """One line: processor, cores, memory, load, Python."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, load {load:.1f}, "
        f"Python {platform.python_version()}"
    )


def forget_peak() -> None:
    """Let `peak_memory` begin anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):  # then the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()


def peak_memory() -> tuple[int, int | None]:
    """The most this process held, in bytes: of main memory, and of a GPU's (None: none is used)."""
    cuda = _cuda()
    on_gpu = int(cuda.max_memory_allocated()) if cuda is not None else None
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024, on_gpu
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024, on_gpu


def _cuda() -> Any:
    """torch.cuda where some model uses it; torch is not imported for asking."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
