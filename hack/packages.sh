#!/usr/bin/env bash
# Installs the Debian packages that local clusters need, and those named as arguments, as far as they are missing.
# Without root or apt-get it only says what is missing: clusters without nodes may work without them.
set -euo pipefail

packages=(containerd runc containernetworking-plugins iproute2 nftables haproxy conntrack "$@")

missing=()
for package in "${packages[@]}"; do
	status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "not installed, and only root can do it, by apt-get: ${missing[*]} (nodes and load balancers need them)" >&2
	exit 0
fi
echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
