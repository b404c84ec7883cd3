# shellcheck shell=sh
# files.sh - sourced by the checks: which files are ours.
#
# files PATTERN ... prints, a line each, the files that git knows or would add
# (hence not objs/) and that match one of the shell patterns.
files() {
    git ls-files --cached --others --exclude-standard | sort -u \
        | while IFS= read -r file; do
            for pattern in "$@"; do
                # shellcheck disable=SC2254
                case $file in
                $pattern)
                    if [ -f "$file" ]; then
                        printf '%s\n' "$file"
                    fi
                    break
                    ;;
                esac
            done
        done
}
