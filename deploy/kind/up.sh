#!/usr/bin/env bash
# The demo on a Linux laptop with Docker, kind and kubectl (`make kind`). `make demo` tells the same story without any of them and is
# what CI runs; this script is not run there, for want of Docker.
# Makes the cluster `tandem` if it is not there. To end it: kind delete cluster --name tandem
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.venv/bin/python
name=tandem
rails=8

for tool in docker kind kubectl gcc; do
  command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done
[ -x $python ] || { echo "no virtual environment: make setup" >&2; exit 1; }
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

kind get clusters 2>/dev/null | grep -qx $name || kind create cluster --name $name --config deploy/kind/cluster.yaml --wait 2m
kind get kubeconfig --name $name > "$context/kubeconfig"

# One cable a rail between the two workers; the mock's NICs take them over. The node image brings `ip`, so nothing here needs root.
mapfile -t workers < <(kind get nodes --name $name | grep worker | sort)
a=$(docker inspect --format '{{.State.Pid}}' "${workers[0]}")
b=$(docker inspect --format '{{.State.Pid}}' "${workers[1]}")
image=$(docker inspect --format '{{.Config.Image}}' "${workers[0]}")
if ! docker exec "${workers[0]}" test -e /run/tandem-cabled; then
  for rail in $(seq 0 $((rails - 1))); do
    docker run --rm --privileged --pid=host --entrypoint ip "$image" \
      link add "cable$rail" mtu 9216 netns "$a" type veth peer name "cable$rail" mtu 9216 netns "$b"
  done
  docker exec "${workers[0]}" touch /run/tandem-cabled
fi

version=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$python -m deploy.image --context "$context/image"
docker build --quiet --file deploy/image/Containerfile --build-arg "BASE=docker.io/library/python:$version-slim" \
  --tag docker.io/tandem/tandem-dra:dev "$context/image"
docker pull --quiet docker.io/library/busybox:1
docker tag docker.io/library/busybox:1 docker.io/tandem/busybox:1
kind load docker-image --name $name docker.io/tandem/tandem-dra:dev docker.io/tandem/busybox:1

$python -m deploy.demo --kubeconfig "$context/kubeconfig"
