#!/bin/sh
# freeze.sh - takes the ABI as it is now into t/abi/MAJOR.MINOR: the header, and
# modules from outside the tree that are built with it. While that version is a
# candidate this may be done again; once it is released, never.
set -eu
cd "$(dirname "$0")/../.."

number() {
    sed -n "s/^#define KARS_ABI_$1  *//p" core/kars_module.h
}
to=t/abi/$(number MAJOR).$(number MINOR)

mkdir -p "$to/modules"
rm -f "$to"/modules/*
cp core/kars_module.h "$to/kars_module.h"
for source in t/thirdparty/*/*.c t/thirdparty/*/*.cc; do
    case $source in
    */test_*) ;;
    *) cp "$source" "$to/modules/" ;;
    esac
done
echo "$to: $(cksum < "$to/kars_module.h")"
