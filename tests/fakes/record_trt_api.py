"""Records the Python API of a TensorRT version, without TensorRT and without a GPU.

    pip install --no-deps --target /tmp/trt tensorrt_cu13_bindings==11.4.0.106
    python tests/fakes/record_trt_api.py /tmp/trt/tensorrt_bindings > tests/fakes/trt_api/11.4.json

The bindings are a megabyte and import against empty libraries, made here with gcc; the signatures
are in the docstrings that pybind11 writes. (TensorRT 8.6: `tensorrt_bindings==8.6.1`, 8.6 has
wheels for Python 3.10 at most.) The lean runtime is recorded in the same way from
`tensorrt_lean_bindings`, TensorRT for RTX, with its libraries, from `tensorrt_rtx_bindings`.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

# Classes our code has to do with; of the others, names alone are kept.
CLASSES = """
Builder BuilderFlag ComputeCapability CudaGraphStrategy DataType Dims
DynamicShapesKernelSpecializationStrategy EngineInspector EngineInvalidityDiagnostics EngineValidity
ErrorCode ExecutionContextAllocationStrategy HardwareCompatibilityLevel IBuilderConfig ICudaEngine
IExecutionContext IHostMemory ILayer ILogger INetworkDefinition IOptimizationProfile
IProgressMonitor IRuntimeCache IRuntimeConfig ITensor ITimingCache
LayerInformationFormat LayerType Logger MemoryPoolType NetworkDefinitionCreationFlag OnnxParser
OnnxParserFlag ParserError PreviewFeature ProfilingVerbosity Refitter Runtime TacticSource
TempfileControlFlag TensorIOMode TensorLocation
""".split()
ENTRY = re.compile(r"INTERNAL$|^get\w+(Registry|Version)$|^initLib|nvuff|nvcaffe")  # of TensorRT
SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((.*)\) -> ", re.MULTILINE)


def stubbed(bindings: Path) -> None:
    """Satisfy what the bindings link against with libraries that hold nothing."""
    (shared,) = map(str, bindings.glob("tensorrt*.so"))
    dynamic = subprocess.check_output(["readelf", "-dW", shared], text=True)
    undefined = subprocess.check_output(["nm", "-D", "--undefined-only", shared], text=True)
    entries = {name for name in undefined.split() if ENTRY.search(name)}
    code = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in sorted(entries))
    with tempfile.TemporaryDirectory() as folder:
        for name in re.findall(r"NEEDED.*\[(libnv[^\]]*)\]", dynamic):
            library = Path(folder) / name
            words = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
            subprocess.run([*words, f"-Wl,-soname,{name}"], input=code, text=True, check=True)
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            code = ""


def api_from_module(module: types.ModuleType) -> dict[str, Any]:
    """Names of the module; members of `CLASSES`: signatures of methods, properties, values."""
    names = sorted(name for name in dir(module) if not name.startswith("_"))
    found = {name: getattr(module, name) for name in CLASSES if hasattr(module, name)}
    classes = {name: members_of(kind) for name, kind in found.items()}
    return {"version": module.__version__, "names": names, "classes": classes}


def members_of(kind: type) -> dict[str, Any]:
    """Methods to their signatures, properties to "get" or "get set", values of an enumeration."""
    if hasattr(kind, "__members__"):
        return {name: int(value) for name, value in kind.__members__.items()}
    members: dict[str, Any] = {}
    for name in sorted(dir(kind)):
        if name.startswith("_") and name != "__init__":
            continue
        member = inspect.getattr_static(kind, name)
        if isinstance(member, property):
            members[name] = "get set" if member.fset else "get"
        elif isinstance(member, type):
            members[name] = members_of(member)
        elif callable(getattr(kind, name)):
            members[name] = signatures_from_doc(getattr(kind, name).__doc__ or "")
        else:
            members[name] = "get"
    return members


def signatures_from_doc(doc: str) -> list[str]:
    """Parameters of every overload, as `model, path=` (a default)."""
    found = [signature for signature in SIGNATURE.findall(doc) if not signature.startswith("*args")]
    return [", ".join(filter(None, map(parameter, split(text)))) for text in found]


def split(text: str) -> list[str]:
    """Parameters at commas that no bracket or quote holds."""
    return re.findall(r"(?:\[[^\]]*\]+|\([^)]*\)|<[^>]*>|'[^']*'|[^,])+", text)


def parameter(text: str) -> str:
    """`path: str = ''` -> `path=`; self goes."""
    name = re.split(r"[:=]", text.strip())[0].strip()
    return "" if name == "self" else f"{name}=" if " = " in text else name


def main(bindings: Path) -> None:
    """Print the API of a package of bindings."""
    stubbed(bindings)
    sys.path.insert(0, str(bindings.parent))
    api = api_from_module(importlib.import_module(bindings.name))
    print(json.dumps(api, indent=1, sort_keys=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
