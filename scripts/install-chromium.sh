#!/bin/sh
# Chromium for the tests of the page, from Debian's or Ubuntu's packages. Run it as root.
set -eu
if command -v chromium >/dev/null 2>&1; then
    echo "chromium is installed: $(command -v chromium)"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "chromium is missing; run this as root: sudo sh scripts/install-chromium.sh" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "this needs apt-get; install Chromium by hand, or name it with RAG_OWL_TEST_CHROMIUM" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends chromium fonts-liberation
