"""Saves checkpoint after checkpoint: MODULE FOLDER FIRST_STEP KEEP [same|large]."""

import importlib.util
import sys

import numpy as np

module, folder, step, keep, *how = sys.argv[1:]
spec = importlib.util.spec_from_file_location("_core_tests", module)
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
step = int(step)
print("saving", flush=True)
while True:
    size = 1_000_000 if "large" in how else 20_000
    arrays = {"wte.weight": np.full(size, step, np.float32), "bias": np.full(3, step, np.int32)}
    core.checkpoint_save(folder, step, arrays, f'{{"step": {step}}}', int(keep))
    print(step, flush=True)
    if "same" not in how:
        step += 1
