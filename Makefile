# Sets up its own virtual environment in .venv; needs Python >= 3.10 only.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test check format clean

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
	$(BIN)/pytest

check: $(READY)  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
