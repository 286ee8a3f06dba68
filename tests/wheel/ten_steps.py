"""Ten steps of docs/own_trainer.py with the installed wheel alone: ``python ten_steps.py own_trainer.py FOLDER``.

FOLDER has a model, a cache and data; what was trained with is printed as the last line, in JSON.
"""

import json
import runpy
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

import iapo

torch.set_num_threads(1)
public = [name for name in iapo.__all__ if getattr(iapo, name) is not None]
folder = Path(sys.argv[2])
example = runpy.run_path(sys.argv[1], run_name="own_trainer")
example["train"](folder / "model", folder / "cache", folder / "data", folder / "out", 10)
found = {name: version(name) for name in ("torch", "transformers", "trl")}
others = [name for name in ("baselines", "benchmarks", "snakemake") if find_spec(name)]
print(json.dumps(found | {"iapo": iapo.__file__, "public": public, "others": others}))
