# Moxie.  `make run` answers a question, `make test` proves the build; each installs what is missing first.  `make help`: the rest.

PROMPT  = Maya has 24 apples. She gives 9 to her brother and then buys 3 bags with 6 apples each. How many apples does she have now?
PREFIX  = /usr/local
LIBDIR  = $(PREFIX)/lib
VERSION = 0.1.0
B       = build# where everything that is made goes
FUZZ_SECONDS = 60

ifeq ($(origin CC),default)
CC = gcc
endif
SAN     =# sanitizer flags, see asan
CFLAGS  = -O3 $(SAN)
OMP     = -fopenmp
FLAGS   = -std=c11 -D_GNU_SOURCE $(OMP) -fPIC -fvisibility=hidden -Iinclude -Isrc -I. -Wall -Wextra -MMD -MP $(CFLAGS)
RPATH   = -Wl,-rpath,'$$ORIGIN:$$ORIGIN/../lib'# where libmoxie-cuda.so.0 is looked for first
LDLIBS  = -ljansson -lpcre2-8 -ldl -lm
WRAP    = malloc calloc realloc aligned_alloc strdup mmap free munmap# what test_alloc watches, and makes fail

LIB_SRC := $(filter-out src/serve/% src/client/%,$(wildcard src/*/*.c src/kernels/cpu/*.c))
CLI_SRC := $(wildcard cli/*.c bench/*.c src/serve/*.c src/client/*.c)# the server is the command's: the library needs no libevent
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
CLI_OBJ := $(CLI_SRC:%.c=$(B)/%.o)
TESTS   := $(patsubst tests/%.c,$(B)/%,$(wildcard tests/test_*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,$(B)-fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
SO      := libmoxie.so.$(VERSION)

ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc)
endif
.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all run test test-clients test-threads asan tsan fuzz bench style install clean help

all: $(B)/moxie $(B)/libmoxie.a $(B)/$(SO)       ## build the command and the library, in build/
run: export MOXIE_PROMPT := $(value PROMPT)
run: $(B)/moxie                                  ## answer a question; PROMPT="..." asks your own
	@printf "> %s\n\n" "$$MOXIE_PROMPT" && $(B)/moxie run
test: all $(TESTS) $(B)/load                               ## build and run every test
	@tools/run_tests.sh $(B) $(TESTS) $(wildcard tests/test_*.sh)
asan:                                            ## the same under the address and undefined-behaviour sanitizers
	@ASAN_OPTIONS=allocator_may_return_null=1 $(MAKE) B=$(B)-asan SAN="-O2 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" test
tsan:                                            ## what threads share, under the thread sanitizer, which knows nothing of OpenMP
	@TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 $(MAKE) B=$(B)-tsan OMP="-Wno-unknown-pragmas -Wno-unused-parameter" LDFLAGS=-Wl,--no-as-needed,-lgomp \
		SAN="-O2 -g -fsanitize=thread" test-threads
THREADED = sched engine prefix client serve_call model device
test-threads: $(B)/moxie $(THREADED:%=$(B)/test_%) $(B)/load
	@tools/run_tests.sh $(B) $(THREADED:%=$(B)/test_%) tests/test_serve.sh tests/test_load.sh
test-clients: $(B)/moxie                          ## try the clients of others: OpenAI's, SGLang's, curl (downloads them)
	@MOXIE_BUILD=$(B) tests/clients/run.sh
fuzz: $(FUZZERS:=.run)                           ## fuzz every parser for FUZZ_SECONDS=60 each
bench: $(B)/moxie                                ## measure the ops, then prefill and decode
	@$(B)/moxie bench op && $(B)/moxie bench
style:                                           ## check includes and forbidden calls, report sizes
	@tools/check_style.sh
clean:                                           ## remove everything that was made
	rm -rf $(B) $(B)-*
help:                                            ## print this
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1@/p' Makefile $(wildcard cuda.mk) | column -t -s@

$(B)/.ready: tools/setup.sh
	@tools/setup.sh && mkdir -p $(B) && touch $@
$(B)/%.o: %.c | $(B)/.ready
	@mkdir -p $(@D) && echo "CC $<"
	@$(CC) $(FLAGS) -c -o $@ $<
# Inner loops under a sanitizer take 20 to 50 times as long: the tests of the ops watch them, in all others they run free.  Nothing in
# them is shared by threads but what pool.c hands out.
INNER = $(patsubst %,src/kernels/cpu/%.o,amx avx2 avx512 ref_attn ref_gemm ref_moe ref_norm)
$(INNER:%=$(B)/%): CFLAGS = -O3 $(filter-out -fsanitize=%,$(SAN))
ifneq (,$(findstring address,$(SAN)))
$(B)/test_kernels $(B)/test_model: $(INNER:%=$(B)/watched/%)
endif
$(B)/watched/%.o: %.c | $(B)/.ready
	@mkdir -p $(@D) && $(CC) $(FLAGS) -c -o $@ $<
$(B)/cli/serve.o: src/serve/page.html# the assembler reads it, so no .d names it
$(B)/libmoxie.a: $(LIB_OBJ)
	@rm -f $@ && ar rcs $@ $^
$(B)/static/libmoxie.a: $(LIB_OBJ)# the one that is installed: only moxie_* names can clash with its user's
	@mkdir -p $(@D) && rm -f $@ && ld -r -o $(B)/static/moxie.o $^ && objcopy --localize-hidden $(B)/static/moxie.o && ar rcs $@ $(B)/static/moxie.o
$(B)/$(SO): $(LIB_OBJ) packaging/libmoxie.map
	@$(CC) $(FLAGS) -shared -Wl,-soname,libmoxie.so.0 -Wl,--version-script=packaging/libmoxie.map -o $@ $(LIB_OBJ) $(RPATH) $(LDFLAGS) $(LDLIBS)
	@ln -sf $(SO) $(B)/libmoxie.so.0 && ln -sf libmoxie.so.0 $(B)/libmoxie.so
$(B)/moxie: $(CLI_OBJ) $(B)/libmoxie.a
	@$(CC) $(FLAGS) -o $@ $^ $(RPATH) $(LDFLAGS) -levent_extra -levent_core $(LDLIBS)
$(B)/test_%: $(B)/tests/test_%.o $(B)/libmoxie.a
	@$(CC) $(FLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(RPATH) $(LDFLAGS) $(LDLIBS)
$(B)/test_serve_call: LDLIBS := $(B)/libmoxie.a -levent_extra -levent_core $(LDLIBS)# the archive again: what the server wants of it
$(B)/test_serve_call: $(patsubst %.c,$(B)/%.o,$(wildcard src/serve/*.c))
$(B)/test_client: LDLIBS := $(B)/libmoxie.a $(LDLIBS)
$(B)/test_client: $(patsubst %.c,$(B)/%.o,$(wildcard src/client/*.c))
$(B)/test_device: | $(B)/fake/libmoxie-cuda.so.0
$(B)/test_device: RPATH = -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/fake'# found from a sanitizer's own dlopen too
$(B)/fake/libmoxie-cuda.so.0: $(B)/tests/fake_device.o $(B)/libmoxie.a
	@mkdir -p $(@D) && $(CC) $(FLAGS) -shared -o $@ $^ $(LDFLAGS) $(LDLIBS)
$(B)/test_alloc: LDFLAGS += $(WRAP:%=-Wl,--wrap=%)

$(B)/load: $(patsubst %.c,$(B)/%.o,$(wildcard tests/load/*.c src/client/*.c)) $(B)/libmoxie.a# tests/load/run.sh
	@$(CC) $(FLAGS) -o $@ $^ $(LDFLAGS) $(LDLIBS)

$(B)-fuzz/.ready: tools/setup.sh
	@tools/setup.sh fuzz && mkdir -p $(@D) && touch $@
$(B)-fuzz/%: tests/fuzz/%.c $(wildcard src/base/*.[ch] src/formats/*.[ch]) | $(B)-fuzz/.ready
	@echo "FUZZ $<"
	@clang $(filter-out -fopenmp -MMD -MP $(CFLAGS),$(FLAGS)) -Wno-unknown-pragmas -Wno-unused-parameter -O1 -g -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=all -o $@ $(filter %.c,$^) $(LDLIBS)
# the whole server; what runs over weights and vocabulary comes from the archive, for under the fuzzer's eyes it takes all the time
$(B)-fuzz/fuzz_http: $(filter-out src/engine/sampler.c,$(wildcard $(addprefix src/,$(addsuffix /*.[ch],engine serve client)))) $(B)/libmoxie.a
$(B)-fuzz/fuzz_http: LDLIBS := $(B)/libmoxie.a -levent_extra -levent_core $(LDLIBS) -lgomp
$(B)-fuzz/fuzz_http.run: export ASAN_OPTIONS := detect_leaks=0# several threads allocate: each input would look like a leak, and be checked
$(B)-fuzz/fuzz_%.run: $(B)-fuzz/fuzz_%
	@tools/run_fuzz.sh $< $(FUZZ_SECONDS) $(wildcard tests/fuzz/corpus/$* tests/fuzz/corpus/fuzz_$*)

PC = sed 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(VERSION)|'
install: all $(B)/static/libmoxie.a              ## install under DESTDIR/PREFIX (PREFIX=/usr/local)
	install -Dm755 $(B)/moxie -t $(DESTDIR)$(PREFIX)/bin
	install -Dm644 include/*.h -t $(DESTDIR)$(PREFIX)/include
	install -Dm644 $(B)/static/libmoxie.a -t $(DESTDIR)$(LIBDIR)
	install -Dm755 $(B)/$(SO) -t $(DESTDIR)$(LIBDIR)
	ln -sf $(SO) $(DESTDIR)$(LIBDIR)/libmoxie.so.0
	[ ! -f $(B)/libmoxie-cuda.so ] || install -Dm755 $(B)/libmoxie-cuda.so $(DESTDIR)$(LIBDIR)/libmoxie-cuda.so.0
	ln -sf libmoxie.so.0 $(DESTDIR)$(LIBDIR)/libmoxie.so
	install -Dm644 models/wordmath/* -t $(DESTDIR)$(PREFIX)/share/moxie/models/wordmath
	install -Dm644 docs/moxie.1 -t $(DESTDIR)$(PREFIX)/share/man/man1
	install -Dm644 packaging/moxie.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/moxie
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|/usr/local|$(PREFIX)|' packaging/moxie.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/moxie.service
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(LIBDIR)/cmake/moxie
	$(PC) packaging/moxie.pc.in > $(DESTDIR)$(LIBDIR)/pkgconfig/moxie.pc
	$(PC) packaging/moxieConfig.cmake.in > $(DESTDIR)$(LIBDIR)/cmake/moxie/moxieConfig.cmake
	$(PC) packaging/moxieConfigVersion.cmake.in > $(DESTDIR)$(LIBDIR)/cmake/moxie/moxieConfigVersion.cmake

-include cuda.mk
-include $(LIB_OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(TESTS:$(B)/%=$(B)/tests/%.d)
