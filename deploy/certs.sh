#!/bin/sh
# A CA for development and a certificate for each role, as PEM files:
#
#     deploy/certs.sh DIR [NAME...]
#
# makes DIR/ca.pem and, for learner, replay and actor, DIR/ROLE.pem and DIR/ROLE-key.pem. Each is good for localhost,
# 127.0.0.1, the role's own name and every NAME (a host's name or IP address). What is there is kept, so a further host
# is added by removing its role's files and calling again. DAYS says how long they last (default 30).
#
# The CA's key, DIR/ca-key.pem, is all that is needed to be anybody: keep it off the machines that run Shoal. For more
# than development take your own CA.
set -eu

[ $# -ge 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
command -v openssl >/dev/null || { echo "certs.sh needs the openssl command, and there is none here." >&2; exit 1; }
dir=$1
shift
umask 077
mkdir -p "$dir"

key() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$1"
}

if [ ! -f "$dir/ca.pem" ]; then
    key "$dir/ca-key.pem"
    openssl req -x509 -new -key "$dir/ca-key.pem" -subj "/CN=Shoal development CA" -days 3650 -out "$dir/ca.pem"
fi

for role in learner replay actor; do
    [ ! -f "$dir/$role.pem" ] || continue
    names="DNS:localhost,IP:127.0.0.1,DNS:$role"
    for name in "$@"; do
        case $name in
            *[!0-9.]*) names="$names,DNS:$name" ;;
            *) names="$names,IP:$name" ;;
        esac
    done
    key "$dir/$role-key.pem"
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" > "$dir/$role.ext"
    openssl req -new -key "$dir/$role-key.pem" -subj "/CN=$role" -out "$dir/$role.csr"
    openssl x509 -req -in "$dir/$role.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca-key.pem" -CAcreateserial \
        -days "${DAYS:-30}" -extfile "$dir/$role.ext" -out "$dir/$role.pem" 2>/dev/null
    rm "$dir/$role.csr" "$dir/$role.ext"
done
echo "$dir: ca.pem, and for learner, replay and actor ROLE.pem and ROLE-key.pem"
