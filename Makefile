# Sets up its own virtual environment in .venv; needs Python >= 3.10 only.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

CUDA   := runtime/mfnet_runtime/cuda
GPUS   := sm_75 sm_80 sm_86 sm_87 sm_89 sm_90 sm_100 sm_120

.PHONY: demo test check format kernels clean

demo: $(READY)  ## train, export, run and score a small network on a synthetic town
	rm -rf demo
	$(BIN)/python -m mfnet.synthetic demo/town
	$(BIN)/mfnet-train demo/town/train -o demo/run --from-scratch --backbone small --window 128 \
		--optimizer adamw --lr 0.002 --epochs 8 --steps 60 --batch 8 --clip 1
	$(BIN)/mfnet-export --ckpt demo/run/best.pt --scenes demo/town/test
	$(BIN)/mfnet-run demo/run/best.onnx demo/town/test -o demo/maps
	$(BIN)/mfnet-bench miou demo/run/best.pt demo/run/best.onnx demo/town/test
	$(BIN)/mfnet-bench picture demo/town/test/image/test_1.tif demo/town/test/dsm/test_1.tif \
		demo/maps/test_1.tif demo/town/test/label/test_1.tif -o demo/picture.png
	@echo "done: look at demo/picture.png and demo/maps/test_1.tif"

test: $(READY)  ## the default test suite
	$(BIN)/pytest -n auto --dist loadfile --max-worker-restart=0

check: $(READY)  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Driver 535 reads PTX up to 8.2 and nvcc 13 writes 9.0, though nothing newer than 8.2 is in it:
# ptxas shows that for every kind of GPU it knows.
kernels:  ## the CUDA kernels as PTX, after a change of kernels.cu; needs nvcc, users do not
	nvcc -ptx -arch=compute_75 -std=c++17 -o $(CUDA)/kernels.tmp $(CUDA)/kernels.cu
	echo "// Made by 'make kernels' from kernels.cu, SHA-256 $$(sha256sum $(CUDA)/kernels.cu | cut -c1-64)" \
		> $(CUDA)/kernels.ptx
	sed 's/^\.version .*/.version 8.2/' $(CUDA)/kernels.tmp >> $(CUDA)/kernels.ptx
	rm $(CUDA)/kernels.tmp
	for gpu in $(GPUS); do ptxas -arch=$$gpu -o /dev/null $(CUDA)/kernels.ptx || exit 1; done

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
