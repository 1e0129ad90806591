import subprocess
import sys

import pytest

import bindesc


def test_the_public_names_are_there():
    assert all(getattr(bindesc, name).__name__ == name for name in bindesc.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = bindesc.nonsense


def test_importing_is_quick_and_loads_no_torch():
    code = """
import sys, time
import cv2
start = time.perf_counter()
import bindesc
bindesc.create, bindesc.match, bindesc.BFMatcher
assert "torch" not in sys.modules
print(time.perf_counter() - start)
"""
    command = [sys.executable, "-c", code]
    seconds = min(float(subprocess.check_output(command, text=True)) for _ in range(3))
    assert seconds < 0.5
