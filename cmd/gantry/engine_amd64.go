package main

import "embed"

//go:embed all:bin/amd64
var engine embed.FS
