package main

import "embed"

//go:embed all:bin/arm64
var engine embed.FS
