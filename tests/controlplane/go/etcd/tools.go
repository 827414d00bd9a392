//go:build tools

// Package tools names the store of the control plane, so that go.mod and go.sum pin all that it needs.
package tools

import _ "go.etcd.io/etcd/server/v3"
