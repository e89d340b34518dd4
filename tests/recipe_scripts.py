"""Recipes' scripts as modules, for the tests: they are no part of the package."""

import importlib.util
from pathlib import Path
from types import ModuleType

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def load_prepare(recipe: str, script: str = "prepare") -> ModuleType:
    """The prepare.py of a recipe, or another script of it, by the name of its folder."""
    spec = importlib.util.spec_from_file_location(f"{script}_{recipe}", RECIPES / recipe / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
