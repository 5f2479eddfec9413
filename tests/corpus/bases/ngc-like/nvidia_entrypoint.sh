#!/bin/bash
echo "== banner =="
if [[ $# -eq 0 ]]; then exec "/bin/bash"; else exec "$@"; fi
