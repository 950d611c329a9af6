# `make help` lists the targets. Each one first installs what it needs and the machine lacks: Debian packages (as root;
# otherwise it says which), and Python packages into .venv. A second call does only what changed.

VENV := .venv
PYTHON_BIN := $(VENV)/bin/python
CC := gcc

# -O2 and a real compilation, since the flow-based warnings need the optimiser.
LINT_CFLAGS := -std=gnu11 -O2 -Wall -Wextra -Werror -Icsrc

SOURCES := setup.py $(wildcard csrc/*.[ch] cryprq/*.pyx cryprq/*.pxd)
C_SOURCES := $(wildcard csrc/*.c)
C_FORMATTED := $(wildcard csrc/*.[ch] tests/c/*.[ch] bench/*.c)
SHELL_SCRIPTS := .ci/run finish_qa_and_package.sh $(wildcard bench/*.sh scripts/*.sh qa/*.sh release/*.sh deploy/*.sh findings/*.sh)
WORKFLOWS := $(wildcard .github/workflows/*.yml)
ENVIRONMENT := $(VENV)/.stamp-environment
BUILT := $(VENV)/.stamp-built

# Of tests/plane, those that drive programs of tests/c; all others there load the compiled extension, and so do these of
# tests/unit.
PROGRAM_TESTS := $(wildcard tests/plane/test_aead*.py) tests/plane/test_record.py
# What is left of a key is a question to an optimised build: instrumented ones keep copies of their own.
OPTIMISED_TESTS := tests/plane/test_residue.py tests/plane/test_constant_time.py
EXTENSION_TESTS = $(filter-out $(PROGRAM_TESTS) $(OPTIMISED_TESTS),$(wildcard tests/plane/test_*.py)) \
    $(shell grep -l 'cryprq\._fastpath' tests/unit/test_*.py)
# Most tests of a file wait for something most of the time; the files share no names, ports or addresses: each process
# has namespaces of its own.
IN_PARALLEL := -n 3 --dist loadfile --benchmark-disable
ASAN_LIB := build/asan/lib
# CPython leaks by design at exit, so leaks are left to the C tests.
ASAN_ENVIRONMENT = LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
    UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH=$(ASAN_LIB)

TSAN_LIB := build/tsan/lib
TSAN_CFLAGS := -std=gnu11 -O1 -g -fno-omit-frame-pointer -fsanitize=thread -fPIC -shared -pthread
# Fixed addresses, where that is allowed: older run-times do not know what to do with those of newer kernels.
FIXED_ADDRESSES = $(shell setarch -R true 2>/dev/null && echo setarch -R)
TSAN_ENVIRONMENT = LD_PRELOAD=$$($(CC) -print-file-name=libtsan.so) PYTHONPATH=$(TSAN_LIB) $(FIXED_ADDRESSES)

LIBOQS := build/liboqs/lib/liboqs.so
# Another version may find more, or nothing: a new one is a change to be looked at.
VERIFPAL_VERSION := 1.6.7
VERIFPAL := build/verifpal-$(VERIFPAL_VERSION)/bin/verifpal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build demo docs test test-tools test-c ct test-minimums test-oqs model fuzz coverage bench lint format asan tsan wheel clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(ENVIRONMENT): pyproject.toml scripts/bootstrap.sh
	@VENV=$(VENV) scripts/bootstrap.sh
	@touch $@

# .git/logs/HEAD changes with each commit: the build records the revision.
$(BUILT): $(ENVIRONMENT) $(SOURCES) $(wildcard .git/logs/HEAD)
	$(PYTHON_BIN) setup.py --quiet build_ext --inplace
	@touch $@

build: $(BUILT) ## install what is missing and build; the programs are in .venv/bin

demo: build ## a listener and a dialer in two namespaces, with real traffic through the tunnel
	$(PYTHON_BIN) scripts/demo.py

# A test builds it, too. Sphinx and what it needs are in the environment already (the extra docs).
docs: build ## the documentation site, in build/docs; a warning or a link that leads nowhere is an error
	@VENV=$(VENV) scripts/bootstrap.sh --docs
	$(PYTHON_BIN) scripts/make_docs.py

test: build test-tools test-c ## the whole test suite
	$(VENV)/bin/pytest $(IN_PARALLEL) tests

# What tests need besides: a cross compiler, QEMU, ... Looked for each time, since nobody else misses them.
test-tools: $(ENVIRONMENT)
	@VENV=$(VENV) scripts/bootstrap.sh --tests

test-c: build
	$(MAKE) -C tests/c check

# `make test` runs it, too.
ct: build test-tools ## do the ciphers' branches and addresses depend on secrets? By valgrind, and by reading the machine code
	$(VENV)/bin/pytest -q tests/plane/test_constant_time.py tests/repo/test_comparisons.py

test-minimums: build test-tools ## the test suite with the oldest dependencies that pyproject.toml allows
	$(PYTHON_BIN) -m venv --clear build/minimums
	$(PYTHON_BIN) scripts/minimums.py > build/minimums/constraints.txt
	build/minimums/bin/pip install --quiet --constraint build/minimums/constraints.txt --editable '.[test]'
	build/minimums/bin/pytest $(IN_PARALLEL) tests

# The versions first: a liboqs of the system's goes before the one that is built. Without any, pytest ends with an error.
test-oqs: export OQS_INSTALL_PATH := $(CURDIR)/build/liboqs
test-oqs: build $(LIBOQS) ## our ML-KEM and ML-DSA against those of liboqs, which is built for it; its FrodoKEM
	@$(PYTHON_BIN) -c 'from tests.rigs import liboqs; oqs = liboqs.load(); \
	    print("liboqs", oqs.oqs_version(), "liboqs-python", oqs.oqs_python_version())'
	$(VENV)/bin/pytest tests/unit/test_oqs.py tests/e2e/test_choice.py

$(LIBOQS): scripts/build_liboqs.sh $(wildcard scripts/liboqs/*)
	scripts/build_liboqs.sh
	@touch $@

# Verifpal first: a finding there is the graver one.
model: $(ENVIRONMENT) $(VERIFPAL) ## the formal models of docs/model/: what Verifpal and Spin say of them, and what they must
	$(PYTHON_BIN) scripts/make_models.py --check $(VERIFPAL)
	@command -v spin >/dev/null || VENV=$(VENV) scripts/bootstrap.sh --tests
	rm -rf build/model
	mkdir -p build/model
	@for model in session 'takeover -DDIALS=1 -DANYHOW=3' 'takeover -DDIALS=2' 'takeover -DDIALS=3'; do \
	    set -- $$model && cd $(CURDIR)/build/model && spin -a $${2-} $${3-} ../../docs/model/$$1.pml && \
	    $(CC) -O2 -w -DSAFETY -o pan pan.c && ./pan -m100000 >said && grep -q 'errors: 0' said && \
	    echo "$$model: as expected, $$(awk '/states, stored/ { print $$1 }' said) states" || exit 1; \
	done

# With a nightly compiler where there is one: the crate asks for a newer stable than distributions have, but does without.
$(VERIFPAL):
	nice cargo $$(cargo +nightly --version >/dev/null 2>&1 && echo +nightly) install verifpal@$(VERIFPAL_VERSION) \
	    --locked --ignore-rust-version --quiet -j1 --root $(@D)/..

# What crashes is in build/fuzz. Python's guide has wheels for some Pythons only, so it is no dependency of the tests.
PYTHON_FUZZ := frames parameters peer_id gate
SECONDS ?= 60
fuzz: build ## look for bytes that break what must hold, guided by coverage: SECONDS=60 for each of 3 parts in C, 4 in Python
	@VENV=$(VENV) scripts/bootstrap.sh --fuzz
	$(MAKE) -C tests/c libfuzzer TIME=$(SECONDS)
	$(VENV)/bin/pip install --quiet 'atheris~=3.0.0'
	@for name in $(PYTHON_FUZZ); do \
	    mkdir -p build/fuzz/$$name && echo $$name: $(SECONDS) seconds && \
	    PYTHONPATH=. $(PYTHON_BIN) scripts/fuzz.py $$name -max_total_time=$(SECONDS) -max_len=2048 -print_final_stats=1 \
	        -artifact_prefix=build/fuzz/ build/fuzz/$$name tests/corpus/$$name >build/fuzz/$$name.log 2>&1 || \
	        { cat build/fuzz/$$name.log; exit 1; }; \
	    grep -E '^stat::(number_of_exec|average)' build/fuzz/$$name.log; \
	done

# Of the nodes that tests start, too (pyproject.toml, [tool.coverage.run]). Python alone: the C of the compiled extension
# is not counted. 97.2 % when this was added (98.0 % of the lines, 93.8 % of the branches). Measuring
# slows what it measures, so that a test that times something may fail here and pass in make test: the report comes all
# the same, and the exit status is that of the tests.
coverage: build test-tools ## the test suite, measured: branch coverage of cryprq/, and its ten least covered files
	rm -rf build/coverage
	mkdir -p build/coverage
	$(VENV)/bin/coverage run -m pytest $(IN_PARALLEL) tests; status=$$?; \
	$(VENV)/bin/coverage combine --quiet && \
	$(VENV)/bin/coverage report --sort cover | sed -n '1,12p; /^TOTAL/p' && exit $$status

bench: build ## a short run of the tunnel against what else is there, and micro-benchmarks against the last saved run
	@mkdir -p build/bench
	$(PYTHON_BIN) bench/tunnel.py --quick > build/bench/tunnel.json
	$(VENV)/bin/pytest bench --benchmark-only --benchmark-autosave --benchmark-compare

# cython-lint looks for pycodestyle on the PATH.
lint: export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
lint: build ## ruff, mypy --strict, contracts of imports, cython-lint, shellcheck, zizmor, C: order, layout, warnings
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/cython-lint cryprq
	$(PYTHON_BIN) scripts/c_includes.py csrc
	$(VENV)/bin/clang-format --dry-run --Werror $(C_FORMATTED)
	$(VENV)/bin/shellcheck $(SHELL_SCRIPTS)
	$(VENV)/bin/zizmor --offline --quiet .github
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows $(WORKFLOWS)
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	if command -v actionlint >/dev/null; then actionlint; fi
	printf '%s\n' $(C_SOURCES) | xargs -P 2 -I{} $(CC) $(LINT_CFLAGS) -c {} -o /dev/null

format: build ## let ruff and clang-format lay out the sources
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(C_FORMATTED)

asan: build test-tools ## the C tests, short fuzzing and the extension's tests under AddressSanitizer and UBSan
	$(MAKE) -C tests/c check fuzz SANITIZE=1 ROUNDS=2000
	SANITIZE=1 $(VENV)/bin/pytest -q -p no:cacheprovider $(PROGRAM_TESTS)
	rm -rf $(ASAN_LIB)
	CRYPRQ_SANITIZE=1 $(PYTHON_BIN) setup.py --quiet build --build-base build/asan --build-lib $(ASAN_LIB)
	$(ASAN_ENVIRONMENT) $(VENV)/bin/pytest -q -p no:cacheprovider $(EXTENSION_TESTS)

# gcc instead of setup.py, whose objects are for one kind of sanitizer. Reports go to the terminal past pytest, and make
# the exit status 66.
tsan: build ## the C tests and the extension's tests under ThreadSanitizer
	$(FIXED_ADDRESSES) $(MAKE) -C tests/c check SANITIZE=thread
	rm -rf $(TSAN_LIB)
	$(PYTHON_BIN) setup.py --quiet build_py --build-lib $(TSAN_LIB)
	$(CC) $(TSAN_CFLAGS) -Icsrc $$($(PYTHON_BIN) -c 'import sysconfig; print("-I" + sysconfig.get_path("include"))') \
	    cryprq/_fastpath.c $(C_SOURCES) -lcrypto -o $(TSAN_LIB)/cryprq/_fastpath.abi3.so
	$(TSAN_ENVIRONMENT) $(VENV)/bin/pytest -q --capture=sys -p no:cacheprovider $(EXTENSION_TESTS)

wheel: build ## a wheel for this machine's Python, in wheelhouse/
	rm -rf build/lib*
	$(PYTHON_BIN) -m pip wheel --quiet --no-deps --wheel-dir wheelhouse .

clean: ## remove what was built, keep .venv
	rm -rf build dist cryprq/_fastpath.c cryprq/_build.py $(BUILT) *.egg-info
	find bench cryprq lab qa release scripts tests -name '*.so' -delete -o -name __pycache__ -prune -exec rm -rf {} +
	@if [ -e tests/c/Makefile ]; then $(MAKE) -s -C tests/c clean; fi

distclean: clean ## and .venv
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
