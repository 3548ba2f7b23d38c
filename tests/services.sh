#!/bin/sh
# Install what the tests need from a Debian system, only if it is missing: the server programs of PostgreSQL and
# MariaDB, and pgBouncer. Arguments choose among these packages.
# The tests run private servers out of these programs. No cluster is created and no service is started or enabled.
set -eu

wanted=${*:-postgresql pgbouncer mariadb-server}

program() {
    # Debian has servers where ordinary users do not search.
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]
}

missing() {
    for package in $wanted; do
        case $package in
        postgresql) ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || echo $package ;;
        pgbouncer) program pgbouncer || echo $package ;;
        mariadb-server) program mariadbd || echo $package ;;
        *) echo $package ;;
        esac
    done
}

packages=$(missing | xargs)
[ -n "$packages" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    echo "These Debian packages are needed, and this user may not install them: $packages" >&2
    echo "Ask for them: apt-get install --no-install-recommends $packages" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "The programs of these Debian packages are needed, and there is no apt-get to install them: $packages" >&2
    exit 1
fi

echo "Installing $packages"
# One script as root, so that what is set for the installation alone is taken back however it ends.
$as_root sh -eu -s $packages <<'SCRIPT'
log=$(mktemp)
clusters=/etc/postgresql-common/createcluster.d/rivet-no-cluster.conf
policy=/usr/sbin/policy-rc.d
[ -e $policy ] && policy=
trap 'rm -f "$log" $clusters $policy' EXIT
mkdir -p "${clusters%/*}"
echo 'create_main_cluster = false' >$clusters
[ -z "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; }
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install --yes --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
    tail -20 "$log" >&2
    exit 1
fi
for package in "$@"; do
    case $package in pgbouncer | mariadb-server) update-rc.d ${package%-server} disable >/dev/null 2>&1 || true ;; esac
done
SCRIPT

packages=$(missing | xargs)
if [ -n "$packages" ]; then
    echo "These packages are installed, but their programs are not where Debian has them: $packages" >&2
    exit 1
fi
