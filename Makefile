# A thin front: each target is a few steps, each step says what it is and how
# long it took. The rules that build things are in auto/rules.mk.

OBJS ?= objs
FUZZ_SECONDS ?= 60

# Steps run one after the other; what a step builds, it builds in parallel.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
ifeq (,$(findstring -j,$(MAKEFLAGS)))
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 2)
endif

# Where undefined behaviour was reached from.
export UBSAN_OPTIONS ?= print_stacktrace=1

STEP = @sh auto/step
# Scripts are not makes of ours: they get no job slots of ours.
SCRIPT = env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL OBJS=$(OBJS) sh

.PHONY: all build deps run test test-all lint bench fuzz test-fresh install
.PHONY: clean distclean help asan unit replay e2e
.DEFAULT_GOAL := build
all: build

help:
	@echo "make             configure if needed, build $(OBJS)/kars-router"
	@echo "make deps        install what the build needs (Debian)"
	@echo "make run         play the job: an agent, the router, a model"
	@echo "                   ONCE=1  stop everything at the end"
	@echo "                   MODEL_ENDPOINT=URL [MODEL=name]  your own model"
	@echo "make test        unit tests, corpus replay, end to end"
	@echo "make test-all    what takes minutes: a million requests over reloads"
	@echo "make unit        unit tests alone       [SUITE='name ...']"
	@echo "make replay      corpus replay alone"
	@echo "make e2e         end to end alone"
	@echo "make lint        format, layers, banned calls, headers, scripts"
	@echo "make fuzz        FUZZ_SECONDS=$(FUZZ_SECONDS) of each fuzz target"
	@echo "make bench       measure"
	@echo "make test-fresh  run and test on a minimal Debian 12 (root)"
	@echo "make install     [DESTDIR=] [prefix=]; else the prefix of ./configure"
	@echo "make clean       remove what was built; distclean: downloads too"

# Installing comes before configuring, whatever order make would like.
deps: deps-build
deps-%:
	@sh auto/deps $*

# configure runs again, with the same options, when a part of it, a module's
# `build` or the list of modules has changed.
CONFIGURE = configure $(filter-out auto/deps auto/step auto/rules.mk,$(wildcard auto/*)) \
            $(wildcard modules modules/*/build)
$(OBJS)/configured: $(CONFIGURE)
	$(STEP) configure ./configure $(if $(filter-out objs,$(OBJS)),--objs=$(OBJS)) \
	    $(filter-out --objs=%,$(shell cat $(OBJS)/configured 2>/dev/null))

build: $(OBJS)/configured
	+$(STEP) "build $(OBJS)" $(MAKE) -f $(OBJS)/Makefile all

asan: $(OBJS)/configured
	+$(STEP) "build $(OBJS)/asan" $(MAKE) -f $(OBJS)/asan/Makefile \
	    all unit replay

unit: deps-test asan
	$(STEP) "unit tests" $(OBJS)/asan/unit $(SUITE)

replay: deps-test asan
	$(STEP) "corpus replay" sh t/fuzz/corpus.sh $(OBJS)/asan/fuzz

e2e: deps-test build asan
	$(STEP) "end to end" $(SCRIPT) t/e2e/run.sh

test: deps-test build asan unit replay e2e

# Minutes each: what only a long run shows.
test-all: deps-test build
	$(STEP) "long tests" env LONG=1 $(SCRIPT) t/e2e/run.sh

export ONCE MODEL_ENDPOINT MODEL
run: deps-run build
	$(STEP) run $(SCRIPT) t/run/run.sh

lint: deps-lint $(OBJS)/configured
	$(STEP) lint $(SCRIPT) t/lint/lint.sh

bench: deps-bench build
	$(STEP) bench $(SCRIPT) t/bench/run.sh

fuzz: deps-fuzz $(OBJS)/configured
	+$(STEP) "build $(OBJS)/fuzz" $(MAKE) -f $(OBJS)/fuzz/Makefile fuzz
	$(STEP) fuzz sh t/fuzz/fuzz.sh $(OBJS)/fuzz $(FUZZ_SECONDS)

test-fresh: deps-fresh
	$(STEP) "test-fresh" $(SCRIPT) t/fresh/fresh.sh

install: build
	+$(STEP) install $(MAKE) -f $(OBJS)/Makefile install

# Models, virtual environments and other downloads stay.
BUILT = Makefile modules.mk configured configure.log kars_config.h asan fuzz ci core \
        modules static builtins.c builtins.o builtins.d llhttp t kars-router unit libkars.a libkars-test.a libkars.list unit.list \
        unit_suites.h
clean:
	rm -rf $(addprefix $(OBJS)/,$(BUILT))

distclean:
	rm -rf $(OBJS)
