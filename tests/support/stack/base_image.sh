#!/usr/bin/env bash
# Make a local stand-in for python:3.11-slim-bookworm where no image registry can be reached: base_image.sh TAG
# Root on Debian, about a minute. Debian's Python 3.11 as `python`, pip, and the host's package sources and certificates.
set -euo pipefail
tag=$1
docker=${DOCKER:-docker}
release=bookworm

if ! command -v debootstrap > /dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends debootstrap > /dev/null
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mirror=$(apt-get indextargets --format '$(SITE)' "Codename: $release" | head -n 1)
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv "$release" "$root" ${mirror:+"$mirror"} > /dev/null
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
rm -f "$root/etc/apt/sources.list" "$root"/usr/lib/python3.*/EXTERNALLY-MANAGED "$root"/var/cache/apt/archives/*.deb
cp --recursive --no-target-directory /etc/apt/sources.list.d "$root/etc/apt/sources.list.d"
[ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$root/etc/apt/"
ln -sf python3 "$root/usr/bin/python"
tar -C "$root" -c . | $docker import --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt' --change 'CMD ["python"]' - "$tag"
