//go:build never

// Package programs names what the lab builds, so that go.mod and go.sum hold everything that takes.
package programs

import (
	_ "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity"
)
