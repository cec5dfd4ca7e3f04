#!/bin/sh
# cover.sh PLACE NEEDED...: mount an empty tmpfs on PLACE, in which those NEEDED directories that lie in PLACE are
# still to be seen: a checkout, an environment or a cache may well be in /tmp.
set -e
place=$1
shift
mount -n -t tmpfs tmpfs /mnt
for path; do
  case $path in
  "$place"/*)
    mkdir -p "/mnt${path#"$place"}"
    mount -n --bind "$path" "/mnt${path#"$place"}"
    ;;
  esac
done
mount -n --move /mnt "$place"
