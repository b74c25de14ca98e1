//go:build never

// Package programs names what the lab builds, so that go.mod and go.sum hold everything that takes.
package programs

import _ "helm.sh/helm/v4/cmd/helm"
