#!/bin/sh
# abi.sh - core/kars_module.h only adds to the ABIs that were frozen, t/abi/*.*.
set -eu

rc=0
for frozen in t/abi/[0-9]*/kars_module.h; do
    PYTHONDONTWRITEBYTECODE=1 python3 t/abi/layout.py "$frozen" \
        core/kars_module.h || rc=1
done
exit $rc
