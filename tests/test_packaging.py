"""pyproject.toml against the source tree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import tokengym

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed_with_its_folder():
    folders = {"tokengym.compare.configs": "benchmarks/configs"}
    for top in ("tokengym", "rewards", "envs", "agents"):
        for file in (ROOT / top).rglob("__init__.py"):
            folder = file.parent.relative_to(ROOT).as_posix()
            name = folder.replace("/", ".")
            folders[name if top == "tokengym" else f"tokengym.{name}"] = folder
    setuptools = PROJECT["tool"]["setuptools"]
    assert sorted(setuptools["packages"]) == sorted(folders)
    assert setuptools["package-dir"] == folders


def test_every_folder_of_modules_is_a_package():
    for top in ("tokengym", "rewards", "envs", "agents"):
        for file in (ROOT / top).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), f"{file.parent} has no __init__.py"


def test_the_version_is_the_same_everywhere():
    assert PROJECT["project"]["version"] == tokengym.__version__
