#!/bin/bash
# k8s.io/apimachinery v0.36.3, resource.ParseQuantity, which reads quantities in manifests and in CEL:
#  1. of a decimal exponent only the lower 32 bits count: 1e4294967299 is 1e3, an exponent of 2^32 + 3;
#  2. a binary suffix without a number is 0 for Ki, Mi, Gi and Ti, and an error for Pi and Ei: those are too large for
#     the fast way of reading, and the exact way wants a digit.
# Exits with 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
cat > go.mod <<'MOD'
module quantity

go 1.26.0

require k8s.io/apimachinery v0.36.3
MOD
cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/api/resource"
)

func main() {
	expected := map[string]string{"1e4294967299": "1000", "Ki": "0", "Mi": "0", "Gi": "0", "Ti": "0", "Pi": "error", "Ei": "error"}
	changed := false
	for _, text := range []string{"1e4294967299", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"} {
		found := "error"
		quantity, err := resource.ParseQuantity(text)
		if err == nil {
			found = fmt.Sprint(quantity.Value())
		}
		fmt.Printf("%-13s %s\n", text, found)
		changed = changed || found != expected[text]
	}
	if changed {
		os.Exit(1)
	}
}
GO
go mod tidy >/dev/null 2>&1
grep 'k8s.io/apimachinery ' go.mod
go run .
