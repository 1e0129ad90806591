"""One script a table; run each as ``python -m benchmarks.NAME`` from the project's root."""
