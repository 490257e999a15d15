"""ONNX file -> TensorRT network; every parser error is told with its node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trtkit.build.faults import Watch, build_error
from trtkit.build.flavour import Flavour
from trtkit.build.hints import hint_for
from trtkit.errors import BuildError
from trtkit.runtime.trt_log import is_noise

__all__ = ["create_network", "network_flags", "parse_onnx"]


def network_flags(flavour: Flavour, typing: str) -> int:
    """Return the bit mask for `create_network`; the integers behind the names move between TensorRT versions.

    Raises:
        BuildError: This TensorRT does not have that typing.
    """
    names = flavour.trt.NetworkDefinitionCreationFlag
    if typing == "weak" and not flavour.has_weak_typing:
        raise BuildError(f"{flavour.title} has no weak typing: FP16 and INT8 builder flags and calibration caches "
                         "were removed in TensorRT 11 and TensorRT-RTX 1.5. Lower the model itself (trtkit quantize) "
                         "and build with typing 'strong'")
    if typing == "strong" and not flavour.has_strong_typing:
        raise BuildError(f"{flavour.title} has no strong typing, which came with TensorRT 10. Build the FP32 model "
                         "with typing 'weak', a precision and, for INT8, a calibration cache")
    if not flavour.has_strong_typing:
        return 1 << int(names.EXPLICIT_BATCH)  # the ONNX parser of TensorRT 8 insists on it
    if typing == "strong" and flavour.has_weak_typing:
        return 1 << int(names.STRONGLY_TYPED)
    return 0  # TensorRT 11 and RTX 1.5 are always strong, and their bit of that name is ignored


def create_network(flavour: Flavour, builder: Any, typing: str, watch: Watch) -> Any:
    """Return an empty network of that typing.

    Raises:
        BuildError: This TensorRT does not have that typing, or refused.
    """
    network = builder.create_network(network_flags(flavour, typing))
    watch.check("creating the network failed", network is not None)
    return network


def parse_onnx(flavour: Flavour, network: Any, logger: Any, model: Path, watch: Watch) -> Any:
    """Parse the model file into `network` and return the parser, which must live as long as the network.

    Raises:
        BuildError: The file is unreadable, empty or no ONNX model, or some nodes cannot be imported: all are listed.
    """
    try:
        data = model.read_bytes()
    except OSError as err:
        raise BuildError(f"Model '{model}' cannot be read: {err.strerror}. Give the path of an ONNX file") from err
    if not data:  # TensorRT parses nothing into an empty network and calls that a success
        raise BuildError(f"Model '{model.name}' is empty (0 bytes). Export it again: trtkit export")
    parser = flavour.trt.OnnxParser(network, logger)
    if not parser.parse(data, str(model)):
        raise _parse_error(flavour, parser, watch)
    if network.num_layers == network.num_inputs == network.num_outputs == 0:  # some other file, of unknown fields
        raise BuildError(f"Model '{model.name}' ({len(data)} bytes) is no ONNX model, or one without nodes. Check it: "
                         "trtkit inspect MODEL")
    if network.num_outputs == 0:
        raise BuildError(f"Model '{model.name}' ({len(data)} bytes) has no outputs. Mark the results as graph outputs "
                         "and export it again")
    watch.step()
    return parser


def _parse_error(flavour: Flavour, parser: Any, watch: Watch) -> BuildError:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    if not errors:
        return build_error(flavour, "the model cannot be parsed", watch.log.tail())
    lines = [line for error in errors for line in _describe(flavour, error)]
    return BuildError(f"{flavour.title} cannot import the model:\n  " + "\n  ".join(dict.fromkeys(lines)))


def _describe(flavour: Flavour, error: Any) -> Iterator[str]:
    """Yield what is wrong with a node, then the advice for it."""
    name = error.node_name() if hasattr(error, "node_name") else ""  # TensorRT 8 tells the index alone
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    code = getattr(error.code(), "name", str(error.code()))
    index = error.node()  # -1 when the fault is in no node
    node = f"node {index}" + (f" '{name}'" if name else "") + (f" ({operator})" if operator else "")
    where = node if index >= 0 else "the model"
    said = "; ".join(line.strip() for line in error.desc().splitlines() if line.strip() and not is_noise(line))
    yield f"{where}: {code}" + (f": {said}" if said not in ("", "false") else "")
    advice = hint_for(f"{operator} {code} {said}", rtx=flavour.is_rtx)
    if advice:
        yield f"  -> {advice}"
