#!/bin/sh
# Debian's Prometheus knows no `http_headers`, which came with 2.55: here a proxy adds the header, its value from the same file.
set -eu
config=${1#--config.file=}
shift
name=$(sed -n '/http_headers:/{n;s/[ :]//gp}' "$config")
file=$(sed -n 's/ *files: \[\(.*\)\]/\1/p' "$config")
printf 'Port 8888\nListen 127.0.0.1\nAddHeader "%s" "%s"\n' "$name" "$(cat "$file")" > /tmp/tinyproxy.conf
sed '/http_headers:/,/files:/c\    proxy_url: http://127.0.0.1:8888' "$config" > /tmp/prometheus.yml
tinyproxy -c /tmp/tinyproxy.conf
exec /usr/bin/prometheus --config.file=/tmp/prometheus.yml "$@"
