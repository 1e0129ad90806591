import resource
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from bindesc.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * (20 << 20)
before = faults()
for _ in range(10):
    b"x" * (20 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_used_again():
    def faults(mode):
        command = [sys.executable, "-c", SCRIPT, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    pages = 10 * (20 << 20) // resource.getpagesize()
    assert faults("keep") < pages / 20 < faults("return")
