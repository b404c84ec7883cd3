#!/bin/sh
# shell.sh - shellcheck over every script.
set -eu
. t/lint/files.sh

scripts=$(files configure 'auto/*' .ci/run '*.sh' | grep -v '\.mk$')
# What configure sources is checked piece by piece: hence not -x.
# shellcheck disable=SC2086
shellcheck -f gcc -e SC1091 $scripts
