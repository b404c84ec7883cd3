# auto/rules.mk - how everything is built, for one flavour.
#
# objs/Makefile, objs/asan/Makefile and objs/fuzz/Makefile set the variables
# and include this file. The folders under $(O) mirror the sources.
# V=1 prints whole commands.

.DELETE_ON_ERROR:
.SUFFIXES:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# modules.mk has what the modules' files `build` say; this is for the rest.
MODULES := $(sort $(patsubst modules/%/,%,$(dir $(wildcard modules/*/*.c))))
$(foreach m,$(MODULES),$(eval $(m)_SRCS ?= $(wildcard modules/$(m)/*.c)))

# Those of STATIC_MODULES are part of kars-router and have no file of their own.
STATIC_MODULES := $(sort $(STATIC_MODULES))
SHARED_MODULES := $(filter-out $(STATIC_MODULES),$(MODULES))
$(foreach m,$(STATIC_MODULES),$(eval $(m)_DIR ?= modules/$(m)))

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' '$(1)' '$(2)')

.PHONY: all router modules kit unit replay fuzz install FORCE
.PHONY: print-cppflags print-cc
all: router modules kit
router: $(O)/kars-router
kit: $(O)/libkars-test.a
modules: $(SHARED_MODULES:%=$(O)/modules/%.so)
all router modules kit unit replay fuzz:
	@: # says nothing when there is nothing to do

# --- objects: -D and -I by the part of the tree that a file belongs to

objs_of = $(patsubst %.c,$(O)/%.o,$(1))

CORE_OBJS = $(call objs_of,$(CORE_SRCS))
LLHTTP_OBJS = $(patsubst %.c,$(O)/llhttp/%.o,$(notdir $(LLHTTP_SRCS)))
UNIT_OBJS = $(call objs_of,$(wildcard t/unit/*.c))
UNIT_MODULE_OBJS = $(call objs_of,$(UNIT_MODULE_SRCS))
UNIT_SUITES = $(patsubst t/unit/test_%.c,%,$(wildcard t/unit/test_*.c))
# What the modules' pure sources may want beyond what the core links.
UNIT_LIBS = $(LIBS) $(sort $(foreach m,$(MODULES),$($(m)_LIBS)))
FUZZERS = $(patsubst t/fuzz/%.c,%,$(wildcard t/fuzz/fuzz_*.c))

MADE_BY = $(O)/Makefile auto/rules.mk

define compile
$(call say,CC,$<)
@mkdir -p $(@D)
$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(1) -MMD -MP -c -o $@ $<
endef

$(O)/core/%.o: core/%.c $(MADE_BY)
	$(call compile,-DKARS_CORE)

$(O)/modules/%.o: modules/%.c $(MADE_BY)
	$(call compile)

# Modules that only the tests load, such as malformed ones.
$(O)/t/modules/%.o: t/modules/%.c $(MADE_BY)
	$(call compile)

# The same flavour's files are found by the tests through T_OBJS.
$(O)/t/%.o: t/%.c $(MADE_BY)
	$(call compile,-DKARS_CORE -It/unit -I$(O) -DT_OBJS='"$(O)"')

# Not ours: no warnings of it are ours to mend.
$(O)/llhttp/%.o: $(dir $(firstword $(LLHTTP_SRCS)))%.c $(MADE_BY)
	$(call compile,-w)

# --- lists: they change when a file comes or goes, and only then

define list
@mkdir -p $(@D)
@printf '%s\n' $(1) > $@.new
@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
endef

$(O)/libkars.list: FORCE
	$(call list,$(CORE_OBJS) $(LLHTTP_OBJS))

$(O)/unit.list: FORCE
	$(call list,$(UNIT_OBJS) $(UNIT_MODULE_OBJS))

$(O)/unit_suites.h: FORCE
	$(call list,$(patsubst %,'SUITE(%)',$(UNIT_SUITES)))

# --- the router

# "q", not "r": two folders may hold files of the same name.
$(O)/libkars.a: $(CORE_OBJS) $(LLHTTP_OBJS) $(O)/libkars.list
	$(call say,AR,$@)
	@rm -f $@
	$(Q)ar qcs $@ $(CORE_OBJS) $(LLHTTP_OBJS)

STATIC_OBJS = $(STATIC_MODULES:%=$(O)/static/%.o)
$(O)/kars-router: $(O)/core/main.o $(O)/builtins.o $(STATIC_OBJS) $(O)/libkars.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -pie $(LDFLAGS) -o $@ $^ $(LIBS) \
	    $(sort $(foreach m,$(STATIC_MODULES),$($(m)_LIBS)))

# The modules that are part of the program: their constants, and the function
# table that all of them share.
id_of = $(subst -,_,$(1))
$(O)/builtins.c: FORCE
	$(call list,'#include "proc/module.h"' \
	    'extern const kars_api_t *kars_api;' 'const kars_api_t *kars_api;' \
	    $(foreach m,$(STATIC_MODULES),'extern const kars_module_t kars_module_$(call id_of,$(m));') \
	    'const kars_module_t *const kars__builtins[] = {' \
	    $(foreach m,$(STATIC_MODULES),'    &kars_module_$(call id_of,$(m)),') \
	    '    NULL' '};')

$(O)/builtins.o: $(O)/builtins.c $(MADE_BY)
	$(call compile,-DKARS_CORE)

# One object per module, which shows nothing but its constant: two modules may
# have functions of one name, as two files may.
define static
$$(O)/static/$(1)/%.o: $$($(1)_DIR)/%.c $$(MADE_BY)
	$$(call compile,-DKARS_BUILTIN=$(call id_of,$(1)))

$$(O)/static/$(1).o: $$(patsubst $$($(1)_DIR)/%.c,$$(O)/static/$(1)/%.o,$$($(1)_SRCS)) \
                     $$(MADE_BY) $(OBJS)/modules.mk
	$$(call say,LINK,$$@)
	$$(Q)$$(CC) -r -nostdlib -o $$@ $$(filter %.o,$$^)
	$$(Q)objcopy --keep-global-symbol=kars_module_$(call id_of,$(1)) $$@
endef
$(foreach m,$(STATIC_MODULES),$(eval $(call static,$(m))))

# -z defs: a module that calls into the core by another way than the table
# that it is given does not link.
define module
$$(O)/modules/$(1).so: $$(call objs_of,$$($(1)_SRCS)) \
                        $$(MADE_BY) $(OBJS)/modules.mk
	$$(call say,LINK,$$@)
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(CFLAGS) -shared $$(LDFLAGS) -Wl,-z,defs -o $$@ \
	    $$(filter %.o,$$^) $$($(1)_LIBS)
endef
$(foreach m,$(MODULES),$(eval $(call module,$(m))))

# --- the kit for unit tests of modules: core, the loop in memory in the place
# of its sockets, and no other name than kars_test_*

KIT_OBJS = $(O)/t/kit/kit.o $(O)/t/kit/loop.o
$(O)/t/kit/%.o: t/kit/%.c $(MADE_BY)
	$(call compile,-DKARS_CORE -DT_KIT -It/unit -It)
$(O)/t/kit/loop.o: t/unit/loop.c $(MADE_BY)
	$(call compile,-DKARS_CORE -DT_KIT -It)

$(O)/libkars-test.a: $(KIT_OBJS) $(CORE_OBJS) $(LLHTTP_OBJS) $(O)/libkars.list
	$(call say,AR,$@)
	@rm -f $@
	$(Q)$(CC) -r -nostdlib -o $(O)/t/kit/kars_test.o $(KIT_OBJS) \
	    $(filter-out $(O)/core/net/sock.o,$(CORE_OBJS)) $(LLHTTP_OBJS)
	$(Q)objcopy --wildcard --keep-global-symbol='kars_test_*' \
	    $(O)/t/kit/kars_test.o
	$(Q)ar qcs $@ $(O)/t/kit/kars_test.o

# --- tests

T_MODULES = $(patsubst t/modules/%.c,$(O)/t/modules/%.so,$(wildcard t/modules/*.c))

$(O)/t/modules/%.so: $(O)/t/modules/%.o
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -shared $(LDFLAGS) -Wl,-z,defs -o $@ $<

$(O)/t/unit/main.o: $(O)/unit_suites.h

# The tests load modules by path: hence they are built first.
unit: $(O)/unit
ALL_SHARED = $(MODULES:%=$(O)/modules/%.so)
$(O)/unit: $(UNIT_OBJS) $(UNIT_MODULE_OBJS) $(O)/libkars.a $(O)/unit.list \
           | $(ALL_SHARED) $(T_MODULES)
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) -pie $(LDFLAGS) -o $@ $(UNIT_OBJS) \
	    $(UNIT_MODULE_OBJS) $(O)/libkars.a -lcunit $(UNIT_LIBS)

# Each fuzz target twice: with a main() that replays files (any compiler) and
# with libFuzzer's (clang).
REPLAYERS = $(FUZZERS:%=$(O)/fuzz/%)
replay: $(REPLAYERS)
$(REPLAYERS): $(O)/fuzz/%: $(O)/t/fuzz/%.o $(O)/t/fuzz/replay.o \
              $(O)/t/unit/api.o $(UNIT_MODULE_OBJS) $(O)/libkars.a
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -pie $(LDFLAGS) -o $@ $^ $(UNIT_LIBS)

LIBFUZZERS = $(FUZZERS:%=$(O)/%)
fuzz: $(LIBFUZZERS)
$(LIBFUZZERS): $(O)/%: $(O)/t/fuzz/%.o $(O)/t/unit/api.o $(UNIT_MODULE_OBJS) \
               $(O)/libkars.a
	$(call say,LINK,$@)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(UNIT_LIBS)

# --- install: a configuration that stands in /etc is never touched. prefix= may
# differ from configure's: the router finds its modules from where it stands.

prefix = $(PREFIX)
DEST = $(DESTDIR)$(prefix)
abi_of = $(shell sed -n 's/^\#define KARS_ABI_$(1)  *//p' core/kars_module.h)
install: all
	install -d $(DEST)/bin $(DEST)/include $(DEST)/lib/kars/modules \
	    $(DEST)/lib/pkgconfig $(DEST)/share/kars/conf
	install -m 755 $(O)/kars-router $(DEST)/bin/kars-router
	install -m 644 core/kars_module.h t/kit/kars_test.h $(DEST)/include
	install -m 644 $(O)/libkars-test.a $(DEST)/lib
	$(if $(SHARED_MODULES),install -m 644 $(SHARED_MODULES:%=$(O)/modules/%.so) \
	    $(DEST)/lib/kars/modules)
	$(if $(wildcard conf/*),cp -R conf/. $(DEST)/share/kars/conf)
	sed -e 's|@prefix@|$(prefix)|' -e 's|@version@|$(VERSION)|' \
	    -e 's|@abi@|$(call abi_of,MAJOR).$(call abi_of,MINOR)|' \
	    core/kars-module.pc.in > $(DEST)/lib/pkgconfig/kars-module.pc
	sed -e 's|@prefix@|$(prefix)|' -e 's|@version@|$(VERSION)|' \
	    -e 's|@libs@|$(LIBS) $(filter -fsanitize%,$(LDFLAGS))|' \
	    t/kit/kars-test.pc.in > $(DEST)/lib/pkgconfig/kars-test.pc
	chmod 644 $(DEST)/lib/pkgconfig/kars-module.pc \
	    $(DEST)/lib/pkgconfig/kars-test.pc

# --- for t/lint

print-cppflags:
	@echo $(CPPFLAGS)
print-cc:
	@echo $(CC)

FORCE:

-include $(CORE_OBJS:.o=.d) $(O)/core/main.d $(UNIT_OBJS:.o=.d)
-include $(LLHTTP_OBJS:.o=.d) $(patsubst %.so,%.d,$(T_MODULES))
-include $(foreach m,$(MODULES),$(patsubst %.o,%.d,$(call objs_of,$($(m)_SRCS))))
-include $(O)/builtins.d $(KIT_OBJS:.o=.d) $(foreach m,$(STATIC_MODULES),$(wildcard $(O)/static/$(m)/*.d))
-include $(FUZZERS:%=$(O)/t/fuzz/%.d) $(O)/t/fuzz/replay.d
