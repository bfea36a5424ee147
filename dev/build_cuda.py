"""The CUDA plugin: dev/build_cuda.py FOLDER [--install] [cmake's flags] makes libllmc_cuda.so
there, and puts it beside libllmc in build/ and in the package. Without nvcc: a sentence, and status 1."""
import os
import re
import subprocess
import sys
from pathlib import Path

from llmc import nvidia
from llmc.pretrain import program

ROOT = Path(__file__).resolve().parent.parent


def cmake(*args: object) -> str:
    """What it prints, which is shown if it fails."""
    beside = str(Path(sys.executable).parent)           # where pip put cmake and ninja
    environment = os.environ | {"PATH": os.pathsep.join([beside, os.environ["PATH"]])}
    done = subprocess.run(["cmake", *map(str, args)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{done.stdout}llmc: the CUDA plugin was not built; CMake says why above")
    return done.stdout


def build(folder: Path, flags: list[str], install: bool) -> None:
    compiler = nvidia.nvcc()
    if not compiler:
        sys.exit(f"llmc: no nvcc was found, so there is no CUDA plugin; {nvidia.HOW_TO_GET_NVCC}")
    said = cmake("-S", ROOT / "cuda", "-B", folder, "-G", "Ninja",
                 f"-DCMAKE_CUDA_COMPILER={compiler}",
                 f"-DLLMC_NVIDIA={';'.join(map(str, nvidia.folders()))}", *flags)
    print(*re.findall("^-- (GPUs: .*)", said, re.MULTILINE), sep="\n", flush=True)
    cmake("--build", folder)
    for beside in (ROOT / "build", Path(program()).parent) if install else ():
        cmake("--install", folder, "--prefix", beside)


if __name__ == "__main__":
    install = "--install" in sys.argv
    build(Path(sys.argv[1]), [flag for flag in sys.argv[2:] if flag != "--install"], install)
