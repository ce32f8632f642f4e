#!/bin/sh
# Puts a HAProxy that can do reverse HTTP (3.0, the package of Debian 13) into a folder of its own, and prints the path
# of a wrapper that starts it with the libraries it was built for. Debian 12 ships 2.6, which has no reverse HTTP.
#   usage: tests/peers/haproxy.sh DIR       then: DIR/haproxy -v
# Writes to DIR and nowhere else: what the machine has installed stays as it is. Needs apt-get and dpkg-deb; packages
# come, with their signatures checked, from the mirror that this machine's own apt sources name.
set -eu

suite=trixie

fail() {
  echo "haproxy.sh: $1" >&2
  if [ -f "${log:-}" ]; then tail -n 8 "$log" >&2; fi
  exit 1
}

[ $# -eq 1 ] || { echo "usage: haproxy.sh DIR" >&2; exit 64; }
mkdir -p "$1"
dir=$(cd "$1" && pwd)
wrapper=$dir/haproxy
if [ -x "$wrapper" ] && "$wrapper" -v >/dev/null 2>&1; then
  echo "$wrapper"
  exit 0
fi

# First archive URI of the machine's sources, in either of apt's two formats; a security archive is another tree.
mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list /etc/apt/sources.list 2>/dev/null |
  sed -n -e 's/^URIs:[[:space:]]*//p' -e 's/^deb[[:space:]]\{1,\}\(\[[^]]*][[:space:]]*\)\{0,1\}//p' |
  tr '[:space:]' '\n' | sed 's,/*$,,' | grep '/debian$' | head -n 1) || true
[ -n "$mirror" ] || fail "no Debian archive in this machine's apt sources; add one, or set TIDEGATE_HAPROXY to a HAProxy 3.0"

# A whole apt of its own, empty, so that the dependencies of the other suite are resolved from nothing.
work=$(mktemp -d "$dir/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
log=$work/log
mkdir -p "$work/lists/partial" "$work/debs/partial" "$work/root"
: >"$work/status"
echo "deb $mirror $suite main" >"$work/sources.list"
own_apt() {
  apt-get -q -y \
    -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" \
    -o Dir::Cache::archives="$work/debs" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@" >>"$log" 2>&1
}
own_apt update || fail "the package lists of Debian $suite could not be read"
own_apt install --no-install-recommends --download-only haproxy || fail "the haproxy package of Debian $suite could not be fetched"

# The program and every library; the rest of its dependencies (users, init scripts) is for an installed service.
for deb in "$work"/debs/*.deb; do
  case ${deb##*/} in
    haproxy_* | lib*_* | zlib1g_*) dpkg-deb --extract "$deb" "$work/root" || fail "${deb##*/} could not be unpacked" ;;
  esac
done
rm -rf "$dir/root"
mv "$work/root" "$dir/root"

# The program asks for a C library that the machine may not have, so its own loader starts it.
cat >"$wrapper" <<'WRAPPER'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/root
triplet=$(uname -m)-linux-gnu
for loader in "$root"/usr/lib64/ld-linux-*.so.* "$root"/lib64/ld-linux-*.so.* "$root"/usr/lib/ld-linux-*.so.* "$root"/lib/ld-linux-*.so.*; do
  [ -e "$loader" ] && exec "$loader" --library-path "$root/usr/lib/$triplet:$root/lib/$triplet" "$root/usr/sbin/haproxy" "$@"
done
echo "haproxy: no loader under $root; delete that folder and run haproxy.sh again" >&2
exit 1
WRAPPER
chmod +x "$wrapper"
"$wrapper" -v >>"$log" 2>&1 || fail "HAProxy was unpacked, but does not start"
echo "$wrapper"
