//go:build !amd64 && !arm && !arm64

package main

import "embed"

var engine embed.FS
