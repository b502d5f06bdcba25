#!/bin/sh
# Ask a served model with curl. The key goes in by standard input, so that no list of processes shows it.
#
# LUTHIER_URL=http://127.0.0.1:8000/v1 LUTHIER_KEY=luthier_... sh ask.sh ticket-router "Where is my parcel?"
set -eu
quoted() { printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g'; }
printf 'header = "Authorization: Bearer %s"\n' "$LUTHIER_KEY" | curl --silent --show-error --fail-with-body --config - \
    --dump-header /dev/stderr -H 'Content-Type: application/json' "$LUTHIER_URL/chat/completions" \
    --data "{\"model\": \"$(quoted "$1")\", \"user\": \"ann\", \"messages\": [{\"role\": \"user\", \"content\": \"$(quoted "$2")\"}]}"
