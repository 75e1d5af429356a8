#!/usr/bin/env bash
# Swift for this package: the one on PATH, else Debian's in a private folder.
#
#   toolchain.sh check             say which one is here; exit 1, with the reason, when none is
#   toolchain.sh install           put Debian's into the private folder, unless one is here
#   toolchain.sh run PROGRAM ...   run swift, or what it built
#   toolchain.sh flags             of `swift build`, for all builds here, which share their results
#
# The private folder (1.7 GB; 0.5 GB are downloaded once, later runs need no network) is
# $MINICPMV_SWIFT, by default ~/.cache/minicpmv-swift. Debian releases with a swiftlang package do
# not need it: `apt install swiftlang`. Other systems: https://www.swift.org/install.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
home=${MINICPMV_SWIFT:-$HOME/.cache/minicpmv-swift}
suite=trixie

# In the private folder's root, with the repository and the temporary files in their places. The
# mounts belong to a mount namespace and end with it. /proc is how the tools find their libraries.
enter() {
  local how=(--mount)
  unshare "${how[@]}" true 2>/dev/null || how+=(--map-root-user)
  unshare "${how[@]}" bash -c '
    set -euo pipefail
    root=$1 here=$2; shift 2
    for folder in /proc /dev "$here" "${TMPDIR:-/tmp}"; do
      mkdir -p "$root$folder"
      mount --rbind "$folder" "$root$folder"
    done
    work=$PWD
    exec chroot "$root" /usr/bin/env -i PATH=/usr/bin HOME=/root LC_ALL=C \
      TMPDIR="${TMPDIR:-/tmp}" bash -c "cd \"\$0\" && exec \"\$@\"" "$work" "$@"
  ' enter "$home" "$repository" "$@"
}

installed() { [ -x "$home/usr/libexec/swift/bin/swift" ]; }

check() {
  if command -v swift >/dev/null; then
    command -v swift
  elif ! installed; then
    echo "no Swift on PATH and none in $home: run 'make swift', or install Swift 6" >&2
    return 1
  elif ! enter swift --version >/dev/null 2>&1; then
    echo "$home cannot be entered: it takes root, or user namespaces (unshare --map-root-user)" >&2
    return 1
  else
    echo "$home"
  fi
}

# An apt of its own, for a machine on which nothing is installed: its lists, archives and state lie
# in $1, packages are checked against Debian's key as ever.
private_apt() {
  local folder=$1 mirror
  shift
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m1 '/debian/*$' || true)
  mkdir -p "$folder"/{lists,archives}/partial
  : >>"$folder/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
    "${mirror:-http://deb.debian.org/debian} $suite main" >"$folder/sources.list"
  cat >"$folder/apt.conf" <<CONF
Dir::Etc { Main "/dev/null"; Parts "/dev/null"; Preferences "/dev/null"; PreferencesParts "/dev/null";
  SourceList "$folder/sources.list"; SourceParts "/dev/null"; }
Dir::State "$folder"; Dir::State::status "$folder/status"; Dir::Cache "$folder";
APT::Install-Recommends "false"; APT::Sandbox::User "root";
CONF
  APT_CONFIG=$folder/apt.conf apt-get -qq -y "$@"
}

unpack() {
  local root=$1 package
  shift
  mkdir -p "$root"/{proc,dev,tmp,root,etc,usr/bin,usr/sbin,usr/lib,usr/lib64}
  ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root"
  for package; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$root" --no-same-owner \
      --keep-directory-symlink --exclude='*lldb*' --exclude='*sourcekit*' \
      --exclude='*/swift_static' --exclude='*/usr/share/doc' --exclude='*/usr/share/locale'
  done
  ln -sf ../libexec/swift/bin/swift "$root/usr/bin/swift" # which its installation would make
  echo 'root:x:0:0:root:/root:/bin/bash' >"$root/etc/passwd"
}

install() {
  if command -v swift >/dev/null || installed; then return; fi
  if ! command -v apt-get >/dev/null || [ "$(dpkg --print-architecture)" != amd64 ]; then
    echo "no Swift on PATH, and it is fetched only for Debian on amd64: install Swift 6" >&2
    return 1
  fi
  local work=$home.partial
  rm -rf "$work"
  private_apt "$work/apt" update || true # what it could not get, the next step needs
  if ! private_apt "$work/apt" --download-only install swiftlang libc6-dev libgcc-14-dev \
    binutils bash coreutils tzdata; then
    echo "no Swift on PATH, and Debian's could not be downloaded" >&2
    return 1
  fi
  unpack "$work/root" "$work"/apt/archives/*.deb
  mkdir -p "$home"
  rmdir "$home"
  mv "$work/root" "$home"
  rm -rf "$work"
}

run() {
  if command -v swift >/dev/null; then exec "$@"; fi
  installed || check >/dev/null
  enter "$@"
}

flags() {
  echo --build-tests --configuration release -Xswiftc -enable-testing -Xswiftc -warnings-as-errors \
    --disable-swift-testing
}

case ${1:-} in
  check | install | flags) "$1" ;;
  run) shift && run "$@" ;;
  *) sed -n '2,/^set /p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' >&2 && exit 2 ;;
esac
