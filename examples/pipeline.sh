#!/usr/bin/env bash
# One step of an unattended pipeline: sanitize, decide by the exit code, keep the list of what was left out.
#
#     examples/pipeline.sh RAW SIGMA OUT
#
# Leaves with 0 (done), 65 (the data are at fault), 75 (try again later: the same command goes on) or 70 (look into
# it), the codes of sysexits.h that schedulers know. Any code that is not in the list of the README is a failure.
set -uo pipefail

raw=$1 sigma=$2 out=$3

# field KEY...: one value of the JSON object in $result
field() {
  python3 -c '
import json, sys
value = json.loads(sys.argv[1])
for key in sys.argv[2:]:
    value = value[key]
print(sum(value.values()) if isinstance(value, dict) else value)' "$result" "$@"
}

result=$(dpclean sanitize "$raw" --sigma "$sigma" --out "$out" --max-bad 5% --json --quiet)
code=$?

case $code in
  0)
    echo "sanitized $(field images) images into $out, left out $(field quarantined)"
    dpclean quarantine "$out" --json >"$out.quarantine.json" || exit 70
    ;;
  3)
    echo "bad input: $(field error message)" >&2
    exit 65
    ;;
  4 | 130)
    echo "stopped, try again: $(field error message)" >&2
    exit 75
    ;;
  2 | 5)
    echo "not started: $(field error message); $(field error remedy)" >&2
    exit 70
    ;;
  *)
    echo "dpclean failed with code $code" >&2
    exit 70
    ;;
esac
