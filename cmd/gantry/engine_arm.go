package main

import "embed"

//go:embed all:bin/arm
var engine embed.FS
