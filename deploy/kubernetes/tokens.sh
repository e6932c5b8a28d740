#!/bin/sh
# New tokens as two Secrets, one for the services with all three roles and one for actors with theirs alone:
#
#     deploy/kubernetes/tokens.sh | kubectl apply -f -
#
# They are written nowhere else. Called again it makes others: restart all pods then, or the old actors are refused.
set -eu

token() {
    head -c 32 /dev/urandom | od -A n -t x1 | tr -d ' \n'
}

actor=$(token)
cat <<END
apiVersion: v1
kind: Secret
metadata:
  name: shoal-service-tokens
  labels: {app.kubernetes.io/name: shoal}
stringData:
  tokens: |
    actor: $actor
    learner: $(token)
    admin: $(token)
---
apiVersion: v1
kind: Secret
metadata:
  name: shoal-actor-tokens
  labels: {app.kubernetes.io/name: shoal}
stringData:
  tokens: |
    actor: $actor
END
