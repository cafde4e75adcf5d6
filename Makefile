# `make demo` and `make test` work on a machine that has only Python 3.10+: both create .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := visionssm tools tests benchmarks configs

# mmdetection and mmsegmentation with what they import; the pins are in constraints.txt. Without
# --no-deps imaug would bring older OpenCV and numpy.
OPENMMLAB := onedl-mmcv onedl-mmdetection onedl-mmsegmentation ftfy imageio imaug lazy-loader \
	prettytable pycocotools regex scikit-image shapely six terminaltables tifffile wcwidth

.PHONY: help install openmmlab demo demo-det demo-seg test test-gpu lint types clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     train a small VMamba on handwritten digits (under 5 minutes on 2 CPU cores)"
	@echo "make demo-det train a detector (Mask R-CNN) on digits in scenes (GPU: minutes; CPU: hours)"
	@echo "make demo-seg train a segmentor (UPerNet) on them"
	@echo "make test     run the CPU test suite"
	@echo "make test-gpu run the tests that need a CUDA device"
	@echo "make lint     ruff check and format check"
	@echo "make types    mypy on the public surface"
	@echo "make install  create $(VENV) with the pinned stack"
	@echo "make openmmlab add mmdetection and mmsegmentation to it (mmcv is compiled: 20 minutes)"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,export]"
	touch $@

openmmlab: install
	LDFLAGS=-Wl,-s CFLAGS="-O2 -g0 -DNDEBUG -fwrapv" $(BIN)/python -m pip install --quiet --no-deps \
		--no-build-isolation --constraint constraints.txt $(OPENMMLAB)

demo: install
	$(BIN)/python tools/train.py configs/classification/vmamba_digits_demo.py --work-dir work_dirs/demo
	$(BIN)/visionssm predict work_dirs/demo --samples 12

data/demo: | install
	$(BIN)/python tools/make_demo_data.py $@

demo-det: openmmlab data/demo
	$(BIN)/python tools/train.py configs/detection/mask_rcnn_vmamba_pico_demo.py --work-dir work_dirs/demo-det

demo-seg: openmmlab data/demo
	$(BIN)/python tools/train.py configs/segmentation/upernet_vmamba_pico_demo.py --work-dir work_dirs/demo-seg

# The interpreted kernels take CPU tensors, so the CPU suite must not see a GPU. A process a core,
# each with one thread; a file's tests stay together, for they share what was trained or compiled.
# Files keep their order: by number of tests, the few long ones would come last, on one core.
test: install
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile \
		--no-loadscope-reorder

test-gpu: install
	$(BIN)/python -m pytest -m gpu

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: install
	$(BIN)/mypy visionssm

clean:
	rm -rf $(VENV) build dist *.egg-info
