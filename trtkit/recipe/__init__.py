"""One deployment as data: recipe.toml -> frozen dataclasses, checked as a whole before the first step runs."""

from trtkit.recipe.recipe import Recipe
from trtkit.recipe.sections import BuildSection, Deployment, EvaluateSection, ModelSection, RewriteSection, Sweep

__all__ = ["BuildSection", "Deployment", "EvaluateSection", "ModelSection", "Recipe", "RewriteSection", "Sweep"]
