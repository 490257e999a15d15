"""One deployment as data: recipe.toml -> frozen dataclasses, checked as a whole before the first step runs."""

from trtkit.recipe.compress import (
    CompressStep,
    DistillStep,
    FinetuneStep,
    ModuleSource,
    PruneStep,
    QatStep,
    ResolutionStep,
    TrainSection,
)
from trtkit.recipe.recipe import Recipe
from trtkit.recipe.sections import BuildSection, Deployment, EvaluateSection, ModelSection, RewriteSection, Sweep

__all__ = ["BuildSection", "CompressStep", "Deployment", "DistillStep", "EvaluateSection", "FinetuneStep",
           "ModelSection", "ModuleSource", "PruneStep", "QatStep", "Recipe", "ResolutionStep", "RewriteSection",
           "Sweep", "TrainSection"]
