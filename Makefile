# make demo: install into .venv, match a photo to a changed view of itself, write demo/demo.png.
# make test: install into .venv with the development tools and run the tests.
# make cuda-check: on a machine with nvcc and a GPU, check the CUDA matcher against the oracle, time
#   it, write benchmarks/results/cuda.json.
PYTHON ?= python3
VENV ?= .venv
# For a smaller download without CUDA:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

.PHONY: demo test cuda-check clean

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(TORCH)
	touch $@

demo: $(VENV)/.torch
	$(VENV)/bin/pip install --quiet ".[opencv-headless,viz]"
	$(VENV)/bin/bindesc demo

test: $(VENV)/.torch
	$(VENV)/bin/pip install --quiet --editable ".[opencv-headless,dev]"
	$(VENV)/bin/python -m pytest

cuda-check: $(VENV)/.torch
	BINDESC_CUDA=1 $(VENV)/bin/pip install --quiet --editable ".[opencv-headless,dev]"
	$(VENV)/bin/python -m pytest tests/test_cuda.py tests/test_cuda_neighbours.py tests/test_cuda_gpu.py
	$(VENV)/bin/python -m benchmarks.cuda_check

clean:
	rm -rf $(VENV) build demo *.egg-info bindesc/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
