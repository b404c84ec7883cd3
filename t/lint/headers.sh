#!/bin/sh
# headers.sh - every header of core compiles alone; the public ones in C and in
# C++; the sketches of modules compile against it and nothing else.
set -eu
. t/lint/files.sh

cc=$(make -s -f "$OBJS/Makefile" print-cc)
cppflags=$(make -s -f "$OBJS/Makefile" print-cppflags)
warn="-Wall -Wextra -Werror -Wno-unused-parameter -fsyntax-only"
rc=0

# alone COMPILER FLAGS FILE
alone() {
    # A header given as the main file would be told so; an include is not.
    # shellcheck disable=SC2086
    if ! echo "#include \"$3\"" | $1 $2 $warn -I. -; then
        echo "$3:1: does not compile alone: $1 $2" >&2
        rc=1
    fi
}

for header in $(files 'core/*/*.h'); do
    alone "$cc" "-std=gnu11 -x c $cppflags -DKARS_CORE" "$header"
done

alone "$cc" "-std=gnu11 -x c" core/kars_module.h
alone "$cc" "-std=gnu11 -x c -DKARS_CORE" core/kars_module.h
alone g++ "-std=gnu++17 -x c++" core/kars_module.h
alone "$cc" "-std=gnu11 -x c -Icore" t/kit/kars_test.h
alone g++ "-std=gnu++17 -x c++ -Icore" t/kit/kars_test.h

for sketch in $(files 't/abi/sketches/*.c'); do
    # shellcheck disable=SC2086
    if ! $cc -std=gnu11 $warn -Icore "$sketch"; then
        echo "$sketch:1: does not compile against core/kars_module.h" >&2
        rc=1
    fi
done
exit $rc
