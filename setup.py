from setuptools import setup

setup(
    name="bindesc",
    version="0.1.0",
    packages=["bindesc", "bindesc.models", "bindesc.training", "bindesc.weights"],
    package_data={"bindesc": ["py.typed"], "bindesc.weights": ["*.safetensors", "*.json", "*.md"]},
    python_requires=">=3.10",
    install_requires=["numpy>=1.24", "scipy>=1.10", "torch>=2.2", "safetensors>=0.4", "tqdm>=4.60"],
    entry_points={"console_scripts": ["bindesc = bindesc.cli:main"]},
)
