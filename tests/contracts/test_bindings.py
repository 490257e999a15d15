"""Every name of TensorRT that our code uses exists in every TensorRT that it serves, or is asked for first."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import trtkit
from trtkit.runtime.trt_tensors import DTYPES

ROOT = Path(trtkit.__file__).parent
FILES = [*sorted((ROOT / "build").glob("*.py")), *sorted((ROOT / "runtime").glob("trt*.py"))]

OBJECTS = {
    "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig", "parser": "OnnxParser",
    "error": "ParserError", "registry": "IPluginRegistry", "network_input": "ITensor",
    "network_tensor": "ITensor", "layer": "ILayer", "convolution": "IConvolutionLayer", "constant": "IConstantLayer",
    "optimization": "IOptimizationProfile", "_runtime": "Runtime", "_engine": "ICudaEngine", "engine": "ICudaEngine",
    "_context": "IExecutionContext",
}
"""Variable or attribute name -> TensorRT class, for trtkit/build and trtkit/runtime/trt*.py."""

GATES = {
    "ComputeCapability": "IBuilderConfig.num_compute_capabilities",
    "ComputeCapability.__members__": "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability": "IBuilderConfig.num_compute_capabilities",
    "IProgressMonitor": "IBuilderConfig.progress_monitor",
    "IProgressMonitor.__init__": "IBuilderConfig.progress_monitor",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": "not NetworkDefinitionCreationFlag.STRONGLY_TYPED",
}
"""Name -> the name that the code asks for before it uses it, where the two differ."""

FILE_GATES = {"weak.py": "BuilderFlag.FP16", "live.py": "BuilderFlag.FP16"}
"""Files reached only when this name exists: `network_flags` refuses weak typing first."""


@dataclass(frozen=True)
class Use:
    """One name of TensorRT used at one place."""

    name: str
    file: str
    line: int
    guarded: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.file}:{self.line})"


def uses() -> list[Use]:
    return [use for path in FILES for use in _uses_in(path)]


def _uses_in(path: Path) -> Iterator[Use]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aliases = {node.targets[0].id: name for node in ast.walk(tree)
               if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
               and (name := _module_path(node.value, {}))}
    for function in _outermost(tree):
        asked = {call.args[1].value for call in ast.walk(function)
                 if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "hasattr"
                 and isinstance(call.args[1], ast.Constant)}
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                name = _module_path(node, aliases) or _method(node)
                if name:
                    yield Use(name, path.name, node.lineno, node.attr in asked)


def _outermost(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield each function and method once; functions inside it, and what it guards, belong to it."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from (child for child in node.body if isinstance(child, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef):
            yield node


def _module_path(node: ast.AST, aliases: dict[str, str]) -> str | None:
    """Return "BuilderFlag.TF32" for flavour.trt.BuilderFlag.TF32, self._trt.BuilderFlag.TF32 and the like."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and node.attr not in ("trt", "_trt"):
        parts.append(node.attr)
        node = node.value
    module = isinstance(node, ast.Attribute) or (isinstance(node, ast.Name) and node.id == "trt")
    if isinstance(node, ast.Name) and node.id in aliases:
        parts.append(aliases[node.id])
    elif not module:
        return None
    return ".".join(reversed(parts)) or None


def _method(node: ast.Attribute) -> str | None:
    """Return "IBuilderConfig.get_flag" for config.get_flag and the like."""
    owner = node.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return f"{OBJECTS[name]}.{node.attr}" if name in OBJECTS else None


def _reached(use: Use, binding: dict[str, Any]) -> bool:
    gates = filter(None, (GATES.get(use.name), FILE_GATES.get(use.file)))
    return all(_exists(gate.removeprefix("not "), binding) != gate.startswith("not ") for gate in gates)


def test_gates_are_all_used() -> None:
    assert set(GATES) <= {use.name for use in uses()}
    assert set(FILE_GATES) <= {use.file for use in uses()}


def _exists(name: str, binding: dict[str, Any]) -> bool:
    top, *rest = name.split(".")
    if top not in binding["module"]:
        return False
    return not rest or top not in binding["classes"] or rest[0] in binding["classes"][top]


def test_scan_finds_the_calls_that_a_build_and_a_run_need() -> None:
    found = {use.name for use in uses()}
    assert {"Builder", "Builder.build_serialized_network", "OnnxParser.parse", "IBuilderConfig.set_memory_pool_limit",
            "MemoryPoolType.WORKSPACE", "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "BuilderFlag.TF32",
            "IExecutionContext.execute_async_v3", "ICudaEngine.get_tensor_profile_shape", "TensorIOMode.INPUT",
            "Runtime.deserialize_cuda_engine", "IOptimizationProfile.set_shape", "IPluginRegistry.load_library",
            "IInt8EntropyCalibrator2", "IBuilderConfig.int8_calibrator"} <= found


def test_every_used_name_exists_or_is_guarded(binding: dict[str, Any]) -> None:
    needed = (use for use in uses() if not use.guarded and _reached(use, binding))
    missing = [str(use) for use in needed if not _exists(use.name, binding)]
    assert missing == []


def test_guards_are_needed_somewhere(describe: Any) -> None:
    """A hasattr for what every version from 8.5 on has is a branch that is never taken: remove it."""
    bindings = [describe(version) for version in ("8.6", "10.3", "11.4", "rtx")]
    everywhere = {use.name for use in uses() if use.guarded and all(_exists(use.name, b) for b in bindings)}
    since_8_6 = {"IPluginRegistry.load_library", "IBuilderConfig.builder_optimization_level",
                 "Runtime.engine_host_code_allowed"}
    assert everywhere <= since_8_6


@pytest.mark.parametrize(("version", "strong", "weak"), [
    ("8.6", "no strong typing", 1), ("10.3", 2, 0), ("10.13", 2, 0), ("10.16", 2, 0),
    ("11.4", 0, "no weak typing"), ("rtx", 0, "no weak typing"),
])
def test_network_flags_follow_the_version(describe: Any, version: str, strong: int | str, weak: int | str) -> None:
    masks = describe(version)["masks"]
    for expected, got in ((strong, masks["strong"]), (weak, masks["weak"])):
        assert got == expected if isinstance(expected, int) else expected in got


def test_calibrator_answers_with_the_cache_where_there_is_weak_typing(binding: dict[str, Any]) -> None:
    expected = None if binding["name"] in ("11.4", "rtx") else [1, None, True]
    assert binding["calibration"] == (expected and expected * 2)  # one of each algorithm


def test_live_calibrator_feeds_full_batches_where_there_is_weak_typing(binding: dict[str, Any]) -> None:
    expected = None if binding["name"] in ("11.4", "rtx") else [2, [4096], None, None, "a cache"]
    assert binding["live_calibration"] == expected


def test_monitor_counts_steps_where_there_is_one(binding: dict[str, Any]) -> None:
    assert binding["progress"] == (None if binding["name"] == "8.6" else [True, [[1, 2]]])


def test_log_is_captured_once_and_without_chatter(binding: dict[str, Any]) -> None:
    assert binding["logging"] == [["it failed"], True]


def test_every_data_type_has_a_numpy_name_or_is_known_to_stay_inside(binding: dict[str, Any]) -> None:
    inside_only = {"INT4", "FP4", "E8M0"}
    assert set(binding["data_types"]) <= set(DTYPES) | inside_only
