//go:build tools

// Package tools names Helm, so that go.mod and go.sum pin all that it needs.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
